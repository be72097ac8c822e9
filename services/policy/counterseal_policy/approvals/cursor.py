"""Up to where each tenant's log was read for what became of plans."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

_STARTS = """
SELECT asked.tenant, greatest(asked.first, coalesce(c.next_index, 0)) AS start FROM (
  SELECT t.tenant, min(o.log_index) AS first FROM approval_task t
   JOIN decision d ON d.decision_id = t.decision_id JOIN outbox o ON o.event_id = d.event_id
   WHERE t.state IN ('PENDING', 'APPROVED') AND o.log_index IS NOT NULL GROUP BY t.tenant) AS asked
 LEFT JOIN tail_cursor c ON c.tenant = asked.tenant ORDER BY asked.tenant
"""


async def starts(connection: AsyncConnection) -> list[tuple[str, int]]:
    """Return the tenants with open tasks, and from which index on their logs may say something about them.

    A plan's commit and end come after the decision that made its task: a log that was not read for long is not read
    from its beginning.
    """
    return [(row.tenant, int(row.start)) for row in await connection.execute(sa.text(_STARTS))]


async def move(connection: AsyncConnection, tenant: str, index: int) -> None:
    """Remember that everything before `index` was read."""
    await connection.execute(
        sa.text(
            "INSERT INTO tail_cursor (tenant, next_index) VALUES (:tenant, :index)"
            " ON CONFLICT (tenant) DO UPDATE SET next_index = excluded.next_index"
        ),
        {"tenant": tenant, "index": index},
    )
