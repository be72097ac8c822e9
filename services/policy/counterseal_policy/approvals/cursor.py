"""Up to where each tenant's logs were read for what became of plans: a place (`counterseal.ledger.places`)."""

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
    """Return the tenants with open tasks, and from which place on their logs may say something about them.

    A plan's commit and end come after the decision that made its task: a log that was not read for long is not read
    from its beginning. That is so in the first of a tenant's logs, where the decision is or which is all older. A place
    in a later log is beyond every index, so what lies behind it is read whole: the decision may be in a log before.
    """
    return [(row.tenant, int(row.start)) for row in await connection.execute(sa.text(_STARTS))]


async def move(connection: AsyncConnection, tenant: str, at: int) -> None:
    """Remember that everything before place `at` was read."""
    await connection.execute(
        sa.text(
            "INSERT INTO tail_cursor (tenant, next_index) VALUES (:tenant, :index)"
            " ON CONFLICT (tenant) DO UPDATE SET next_index = excluded.next_index"
        ),
        {"tenant": tenant, "index": at},
    )
