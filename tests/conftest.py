"""Fixtures of every tier: real servers, one set per test process."""

from hypothesis import settings

from support.node_client import node_client
from support.openbao import openbao, openbao_server, provisioned
from support.postgres import _databases, backup, fresh_database, postgres_cluster

__all__ = [
    "_databases",
    "backup",
    "fresh_database",
    "node_client",
    "openbao",
    "openbao_server",
    "postgres_cluster",
    "provisioned",
]

# No test gates on a time: a loaded machine is slow, not wrong. `timeout` in pyproject.toml ends what hangs.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
