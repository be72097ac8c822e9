"""PostgreSQL for every service: an async engine whose password is asked for per connection, and migrations.

Two roles per service: the owner runs migrations and nothing else; the runtime role has what the migrations grant it.
"""

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

Password = Callable[[], Awaitable[str]]
"""Returns the password for one new connection; open connections outlive a rotation."""

MIGRATION_LOCK = "counterseal.migrations"
MIGRATION_LOCK_TIMEOUT_MS = 60_000
_MIGRATION_SETTINGS = {"application_name": "counterseal-migrate"}


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """Section `[database]`: where a service's own database is.

    user: the runtime role, default `counterseal_<service>`; its password comes from Vault's static role of that name.
    owner, owner_password_file: the role that runs migrations; needed by `migrate` only.
    host: a name, address, or the directory of a Unix socket. ca_file: turns TLS on, with full verification.
    statement_timeout_ms, lock_timeout_ms: limits of every statement of the runtime role.
    backup_days: how long backups of this database are kept; what is erased dies with the last of them.
    """

    host: str
    port: int
    name: str
    user: str = ""
    owner: str = ""
    owner_password_file: Path | None = None
    ca_file: Path | None = None
    pool_size: int = 10
    statement_timeout_ms: int = 30_000
    lock_timeout_ms: int = 10_000
    backup_days: int = 35

    def __post_init__(self) -> None:
        """Refuse what is no number of days."""
        if not 0 <= self.backup_days <= 36_500:
            raise ValueError("backup_days: expected 0 to 36500")


def create_engine(config: DatabaseConfig, user: str, password: Password, *, application_name: str) -> AsyncEngine:
    """Return a pooled engine (asyncpg) for the runtime role; nothing connects before the first use."""
    settings = {
        "application_name": application_name,
        "statement_timeout": str(config.statement_timeout_ms),
        "lock_timeout": str(config.lock_timeout_ms),
        "idle_in_transaction_session_timeout": "60000",
    }
    return create_async_engine(
        _url(config, user),
        connect_args={"password": password, "server_settings": settings, "timeout": 10, **_tls(config)},
        pool_size=config.pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_recycle=3600,
        pool_use_lifo=True,  # the connection used last: its statements are prepared, its server process is warm
        hide_parameters=True,
    )


def owner_engine(config: DatabaseConfig, user: str, password: str) -> AsyncEngine:
    """Return an engine without pool for the owner role."""
    return create_async_engine(
        _url(config, user),
        connect_args={
            "password": password,
            "server_settings": {"application_name": "counterseal-migrate"},
            **_tls(config),
        },
        poolclass=NullPool,
        hide_parameters=True,
    )


async def migrate(service: str, engine: AsyncEngine, revision: str = "head") -> None:
    """Bring a service's schema to `revision`: one process at a time, one transaction per revision.

    engine: connected as the service's owner role. Raises sqlalchemy.exc.DBAPIError when a lock is not had in time.
    """
    # Imported here: a serving process has no use for Alembic.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", f"counterseal_{service}:migrations")
    config.set_main_option("path_separator", "os")

    def upgrade(connection: sa.Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    async with engine.connect() as connection:
        await connection.execute(sa.text(f"SET lock_timeout = {MIGRATION_LOCK_TIMEOUT_MS}"))
        lock = {"name": MIGRATION_LOCK}
        await connection.execute(sa.text("SELECT pg_advisory_lock(hashtextextended(:name, 0))"), lock)
        await connection.commit()
        try:
            await connection.run_sync(upgrade)
        finally:
            await connection.rollback()
            await connection.execute(sa.text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))"), lock)
            await connection.commit()


def run_migrations() -> None:
    """Alembic's env.py, the whole of it, for every service."""
    from alembic import context

    connection: sa.Connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=None, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def schema_revision(engine: AsyncEngine) -> str | None:
    """Return the revision the database is at, None before the first migration."""
    async with engine.connect() as connection:
        found = await connection.scalar(sa.text("SELECT to_regclass('alembic_version')::text"))
        if found is None:
            return None
        revision: str | None = await connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        return revision


def _url(config: DatabaseConfig, user: str) -> sa.URL:
    return sa.URL.create("postgresql+asyncpg", username=user, host=config.host, port=config.port, database=config.name)


def _tls(config: DatabaseConfig) -> dict[str, Any]:
    if config.ca_file is None:
        return {}
    return {"ssl": ssl.create_default_context(cafile=str(config.ca_file))}
