"""Fixtures of every tier: real servers, one set per test process."""

from support.openbao import openbao
from support.postgres import _databases, fresh_database, postgres_cluster

__all__ = ["_databases", "fresh_database", "openbao", "postgres_cluster"]
