"""Alembic's entry point."""

from counterseal.db import run_migrations

run_migrations()
