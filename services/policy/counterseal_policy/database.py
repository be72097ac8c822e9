"""Transactions of the policy service: every one names its tenant, and row-level security holds it to that."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.errors import PolicyUnavailable

EVERY_TENANT = "*"
_PASSING = frozenset({"40001", "40P01", "53300", "55P03", "57014", "57P01", "57P02", "57P03"})
"""Deadlock, too many connections, lock and statement timeouts, shutdown: asking again may work."""
BARRIER = "counterseal.barrier"


@asynccontextmanager
async def transaction(engine: AsyncEngine, tenant: str) -> AsyncIterator[AsyncConnection]:
    """Open a READ COMMITTED transaction that sees and writes one tenant's rows (`EVERY_TENANT`: background work).

    Raises PolicyUnavailable when the database is away or too slow: no decision was made, asking again may work.
    """
    try:
        async with engine.begin() as connection:
            await connection.execute(sa.text("SELECT set_config('counterseal.tenant', :t, true)"), {"t": tenant})
            yield connection
    except (OSError, sa.exc.TimeoutError) as error:
        raise PolicyUnavailable("the policy service's database does not answer", retry_after_ms=1000) from error
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _PASSING:
            raise PolicyUnavailable("the policy service's database does not answer", retry_after_ms=1000) from error
        raise


async def lock_barrier(connection: AsyncConnection, *, exclusive: bool = False) -> None:
    """Take the containment barrier's lock, as a statement of its own; read what it guards in a later one.

    Decisions hold it shared, trips and lifts exclusive. Lock and read in one statement would read a snapshot that is
    older than the wait for the lock (executor's design, section 4: measured late in 25 of 25 rounds).
    """
    function = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
    await connection.execute(sa.text(f"SELECT {function}(hashtextextended(:name, 0))"), {"name": BARRIER})
