"""Transactions of erasure, retention and holds.

Whatever a step reads and writes is one transaction, the entry that declares it included (`outbox`): a crash leaves the
step undone or done, and what it removed declared.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.errors import LedgerUnavailable
from counterseal_audit.database import CONNECTION_LOST

RETENTION_ROLE = "counterseal_audit_retention"


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a transaction as the runtime role. Raises LedgerUnavailable when the database cannot be had."""
    try:
        async with engine.begin() as conn:
            yield conn
    except CONNECTION_LOST as error:
        raise LedgerUnavailable("the ledger's database does not answer") from error


async def see(conn: AsyncConnection, log_id: int) -> None:
    """Let the transaction see the rows of one log and no other's."""
    await run(conn, "SELECT set_config('counterseal.log_id', :log_id, true)", log_id=str(log_id))


@asynccontextmanager
async def retaining(conn: AsyncConnection) -> AsyncIterator[None]:
    """Be the retention role for the block: it alone changes payload and keys."""
    await run(conn, f"SET LOCAL ROLE {RETENTION_ROLE}")
    yield
    await run(conn, "SET LOCAL ROLE NONE")


async def run(conn: AsyncConnection, sql: str, **values: Any) -> int:
    """Run a statement and return how many rows it concerned."""
    return (await conn.execute(sa.text(sql), values)).rowcount


async def rows(conn: AsyncConnection, sql: str, **values: Any) -> list[Any]:
    """Run a statement and return its rows."""
    return list((await conn.execute(sa.text(sql), values)).all())


async def one(conn: AsyncConnection, sql: str, **values: Any) -> Any:
    """Run a statement and return its first row, or None."""
    return (await conn.execute(sa.text(sql), values)).first()
