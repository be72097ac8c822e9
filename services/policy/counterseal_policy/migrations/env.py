"""Alembic's environment of this service."""

from counterseal.db import run_migrations

run_migrations()
