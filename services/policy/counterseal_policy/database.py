"""Transactions of the policy service: every one names its tenant, and row-level security holds it to that."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

EVERY_TENANT = "*"
BARRIER = "counterseal.barrier"


@asynccontextmanager
async def transaction(engine: AsyncEngine, tenant: str) -> AsyncIterator[AsyncConnection]:
    """Open a READ COMMITTED transaction that sees and writes one tenant's rows (`EVERY_TENANT`: background work)."""
    async with engine.begin() as connection:
        await connection.execute(sa.text("SELECT set_config('counterseal.tenant', :t, true)"), {"t": tenant})
        yield connection


async def lock_barrier(connection: AsyncConnection, *, exclusive: bool = False) -> None:
    """Take the containment barrier's lock, as a statement of its own; read what it guards in a later one.

    Decisions hold it shared, trips and lifts exclusive. Lock and read in one statement would read a snapshot that is
    older than the wait for the lock (executor's design, section 4: measured late in 25 of 25 rounds).
    """
    function = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
    await connection.execute(sa.text(f"SELECT {function}(hashtextextended(:name, 0))"), {"name": BARRIER})
