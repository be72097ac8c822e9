"""The barrier at rest.

Whoever makes an intent durable holds the advisory lock shared; whoever stops a scope holds it alone. So when the stop
has committed, every intent that did not see it is already durable, and none can become so later.
"""

from collections.abc import Mapping
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal.errors import Contained
from counterseal_executor import database as db
from counterseal_executor.containment.engine import ScopeState, adopt


async def everything(conn: AsyncConnection) -> list[ScopeState]:
    """Return every scope that this service was told about."""
    found = await db.rows(conn, "SELECT scope, epoch, stopped, reason_code, update_time FROM barrier ORDER BY scope")
    return [ScopeState(r.scope, r.epoch, r.stopped, r.reason_code, db.ms_of(r.update_time) or 0) for r in found]


async def get(conn: AsyncConnection, scope: str) -> ScopeState | None:
    """Return one scope, or None."""
    row = await db.one(
        conn, "SELECT scope, epoch, stopped, reason_code, update_time FROM barrier WHERE scope = :scope", scope=scope
    )
    if row is None:
        return None
    return ScopeState(row.scope, row.epoch, row.stopped, row.reason_code, db.ms_of(row.update_time) or 0)


async def put(conn: AsyncConnection, told: ScopeState, now_ms: int) -> tuple[ScopeState, bool]:
    """Adopt a state under the exclusive lock; returns the state here, and whether it changed."""
    known = await get(conn, told.scope)
    if not adopt(known, told):
        return (known or told), False
    await db.run(
        conn,
        "INSERT INTO barrier (scope, epoch, stopped, reason_code, update_time)"
        " VALUES (:scope, :epoch, :stopped, :reason, :now)"
        " ON CONFLICT (scope) DO UPDATE SET epoch = :epoch, stopped = :stopped, reason_code = :reason,"
        " update_time = :now",
        scope=told.scope,
        epoch=told.epoch,
        stopped=told.stopped,
        reason=told.reason_code,
        now=db.time_of(now_ms),
    )
    return replace(told, update_ms=now_ms), True


async def refuse_contained(conn: AsyncConnection, scopes: Mapping[str, int]) -> None:
    """Raise Contained when a scope is stopped, or rose above the epoch that the decision saw.

    Call it after `database.share_barrier`, in a statement of its own. scopes: scope -> epoch seen.
    """
    row = await db.one(
        conn,
        "SELECT scope, epoch FROM barrier JOIN unnest(CAST(:scopes AS text[]), CAST(:epochs AS bigint[]))"
        " AS d(scope, seen) USING (scope) WHERE stopped OR epoch > seen LIMIT 1",
        scopes=list(scopes),
        epochs=list(scopes.values()),
    )
    if row is not None:
        raise Contained(f"{row.scope} is stopped, or was since the decision", scope=row.scope, epoch=row.epoch)


async def live_plans(conn: AsyncConnection, scope: str) -> list[tuple[str, str]]:
    """Return (tenant, plan id) of every plan in scope that has not ended."""
    found = await db.rows(
        conn,
        "SELECT tenant, plan_id::text FROM plan WHERE scopes @> ARRAY[CAST(:scope AS text)] AND end_time IS NULL",
        scope=scope,
    )
    return [(row[0], row[1]) for row in found]


async def open_intents(conn: AsyncConnection, scope: str) -> tuple[int, int]:
    """Return (intents without an outcome or with a credential not verified dead, steps in doubt) of a scope."""
    row = await db.one(
        conn,
        "SELECT count(*) FILTER (WHERE s.state IN ('INTENT', 'UNDO_INTENT') OR a.revoke_time IS NULL),"
        " count(*) FILTER (WHERE s.state IN ('IN_DOUBT', 'UNDO_IN_DOUBT'))"
        " FROM plan p JOIN step s USING (plan_id) JOIN attempt a ON a.attempt_id = s.current_attempt"
        " WHERE p.scopes @> ARRAY[CAST(:scope AS text)]",
        scope=scope,
    )
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


async def tenant_of_plan(conn: AsyncConnection, plan_digest: str) -> str | None:
    """Return the tenant of a plan by its digest."""
    row = await db.one(conn, "SELECT tenant FROM plan WHERE plan_digest = :digest", digest=plan_digest)
    return None if row is None else str(row[0])
