"""Raw asyncpg connections out of SQLAlchemy's pool: the hot path pays for no ORM, the pool is one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.errors import LedgerUnavailable

CONNECTION_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver's word for a connection that the server is just ending
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    SQLAlchemyError,
    OSError,
    TimeoutError,
)
"""What leaves open whether a statement took effect, or says that the database cannot be had now."""

_DURABILITY = ("fsync", "full_page_writes", "synchronous_commit")


@asynccontextmanager
async def connection(engine: AsyncEngine) -> AsyncIterator[Any]:
    """Borrow one asyncpg connection, in autocommit (READ COMMITTED).

    The pool does not see what the driver raises here, so a lost connection is taken out of it by hand: otherwise a
    restart of PostgreSQL would leave a pool of dead ones. So is one whose user was cancelled: BEGIN or ROLLBACK may be
    under way, and whoever had it next would find itself in a transaction that it did not begin, a read-only one even.
    """
    async with engine.connect() as borrowed:
        raw: Any = (await borrowed.get_raw_connection()).driver_connection
        if raw.is_closed():
            await borrowed.invalidate()
            raw = (await borrowed.get_raw_connection()).driver_connection
        try:
            yield raw
        except (*CONNECTION_LOST, asyncio.CancelledError, GeneratorExit):
            await borrowed.invalidate()
            raise


@asynccontextmanager
async def reading(engine: AsyncEngine, log_id: int) -> AsyncIterator[Any]:
    """Borrow a connection inside a transaction that sees one log, no other's rows, and all of it at one moment.

    The log is named for the transaction only: a setting of the session would leak through the pool.
    Raises LedgerUnavailable when the database cannot be had.
    """
    try:
        async with connection(engine) as raw, raw.transaction(isolation="repeatable_read", readonly=True):
            await raw.execute("SELECT set_config('counterseal.log_id', $1, true)", str(log_id))
            yield raw
    except CONNECTION_LOST as error:
        raise LedgerUnavailable("the ledger's database does not answer") from error


async def unsafe_settings(engine: AsyncEngine) -> list[str]:
    """Return the settings under which PostgreSQL may lose what it acknowledged."""
    async with connection(engine) as raw:
        return [name for name in _DURABILITY if await raw.fetchval("SELECT current_setting($1)", name) == "off"]
