"""Transactions on the executor's own database: READ COMMITTED, confined to one tenant but for our own loops."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.canonical import canonical, parse_canonical

EVERY_TENANT = "*"
"""Set by the service's own loops only: recovery, relay, containment."""

BARRIER_KEY = "hashtextextended('counterseal.barrier', 0)"


@asynccontextmanager
async def transaction(engine: AsyncEngine, tenant: str) -> AsyncIterator[AsyncConnection]:
    """Open a transaction that row-level security confines to `tenant`; commits at the end, rolls back on an error."""
    async with engine.begin() as conn:
        await conn.execute(sa.text("SELECT set_config('counterseal.tenant', :tenant, true)"), {"tenant": tenant})
        yield conn


async def share_barrier(conn: AsyncConnection) -> None:
    """Hold the barrier shared until the transaction ends.

    Trap: this must be a statement of its own. Lock and read in one statement, or REPEATABLE READ, read a snapshot that
    is older than the wait for the lock, and an intent becomes durable after the stop was acknowledged (measured 25/25).
    """
    await conn.execute(sa.text(f"SELECT pg_advisory_xact_lock_shared({BARRIER_KEY})"))


async def hold_barrier(conn: AsyncConnection) -> None:
    """Hold the barrier exclusively until the transaction ends: every older sharer has ended, no newer one reads yet."""
    await conn.execute(sa.text(f"SELECT pg_advisory_xact_lock({BARRIER_KEY})"))


async def one(conn: AsyncConnection, sql: str, **values: Any) -> Any:
    """Run a statement and return its first row, or None."""
    return (await conn.execute(sa.text(sql), values)).first()


async def rows(conn: AsyncConnection, sql: str, **values: Any) -> list[Any]:
    """Run a statement and return its rows."""
    return list((await conn.execute(sa.text(sql), values)).all())


async def run(conn: AsyncConnection, sql: str, **values: Any) -> int:
    """Run a statement and return how many rows it concerned."""
    return (await conn.execute(sa.text(sql), values)).rowcount


def stored(value: Mapping[str, Any]) -> bytes:
    """Return an object as the bytes in which it is stored: canonical JSON (`jsonb` would change numbers)."""
    return canonical(dict(value))


def loaded(data: bytes | None) -> dict[str, Any] | None:
    """Read back what `stored` wrote."""
    return None if data is None else parse_canonical(bytes(data))


def time_of(milliseconds: int) -> datetime:
    """Return milliseconds since 1970 as a time that the driver takes."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def ms_of(moment: datetime | None) -> int | None:
    """Return a driver's time as milliseconds since 1970."""
    return None if moment is None else round(moment.timestamp() * 1000)
