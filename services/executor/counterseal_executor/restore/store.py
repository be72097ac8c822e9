"""How far each tenant's logs were compared with this database, and what this database knows of its own entries.

How far: a place (`counterseal.ledger.places`), in the column `next_index`.

An entry is known by its row in `outbox`: that row is committed before the entry is sent, by whichever replica, so the
ledger cannot show one that a database of this state lacks. Whoever prunes the outbox one day may remove rows below
`next_index` only: they were compared, and are never read again.
"""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal.ledger.registry import SYSTEM_TENANT
from counterseal_executor import database as db


async def tenants(conn: AsyncConnection) -> list[str]:
    """Return every tenant that this database has heard of, and the environment's own log."""
    found = await db.rows(
        conn,
        "SELECT tenant FROM ledger_cursor UNION SELECT tenant FROM tool UNION SELECT DISTINCT tenant FROM plan"
        " UNION SELECT :system ORDER BY 1",
        system=SYSTEM_TENANT,
    )
    return [row[0] for row in found]


async def next_place(conn: AsyncConnection, tenant: str) -> int:
    """Return the first place of a tenant's logs that was not compared yet."""
    row = await db.one(conn, "SELECT next_index FROM ledger_cursor WHERE tenant = :tenant", tenant=tenant)
    return 0 if row is None else int(row[0])


async def move(conn: AsyncConnection, tenant: str, at: int) -> None:
    """Remember that everything before place `at` was compared; never goes back, whoever else compares."""
    await db.run(
        conn,
        "INSERT INTO ledger_cursor (tenant, next_index) VALUES (:tenant, :next_index) ON CONFLICT (tenant) DO UPDATE"
        " SET next_index = EXCLUDED.next_index WHERE ledger_cursor.next_index < EXCLUDED.next_index",
        tenant=tenant,
        next_index=at,
    )


async def known(conn: AsyncConnection, event_ids: Sequence[str]) -> set[str]:
    """Return which of these events this database has written."""
    found = await db.rows(
        conn, "SELECT event_id::text FROM outbox WHERE event_id = ANY(CAST(:ids AS uuid[]))", ids=list(event_ids)
    )
    return {row[0] for row in found}
