"""Grants in PostgreSQL: locks, constraints, counters. READ COMMITTED; locks are taken in the order
barrier, attempt, grant, counters, so that no two calls wait for each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal.canonical import canonical
from counterseal.documents.decision import Statement
from counterseal.errors import PriorGrantLive
from counterseal.vault.names import DatabaseRole, Environment
from counterseal_credentials.grants.engine import Asked, Lending, State

_COLUMNS = (
    "grant_id, tenant, request_digest, state, purpose, attempt_id, plan_digest, step, tool, action, mode, tier, "
    "ttl_seconds, target, request_id, txn, subject, agent, scopes, epochs, holder, vault_accessor, lease_id, "
    "not_after, create_time, redeem_time, revoke_time, verify_time, revoke_reason, tries"
)
_LIVE = "state NOT IN ('REVOKED', 'FAILED')"


@dataclass(frozen=True, slots=True)
class Grant:
    """One grant as it is stored. Times are aware datetimes; the accessor reveals nothing but lets us revoke."""

    grant_id: str
    tenant: str
    request_digest: str
    state: State
    purpose: str
    attempt_id: str
    plan_digest: str
    step: str
    tool: str
    action: str
    mode: str
    tier: int
    ttl_seconds: int
    target: str
    request_id: str
    txn: str
    subject: str
    agent: str
    scopes: tuple[str, ...]
    epochs: tuple[int, ...]
    holder: str
    vault_accessor: str | None
    lease_id: str | None
    not_after: datetime
    create_time: datetime
    redeem_time: datetime | None
    revoke_time: datetime | None
    verify_time: datetime | None
    revoke_reason: str | None
    tries: int

    def role(self, environment: Environment) -> DatabaseRole:
        """Return the role that it lends."""
        return environment.tenant(self.tenant).role(self.action, "rw" if self.mode == "rw" else "ro", self.tier)


async def by_key(connection: AsyncConnection, tenant: str, key: str) -> Grant | None:
    """Return the grant of an idempotency key."""
    return await _one(connection, "tenant = :tenant AND idempotency_key = :key", {"tenant": tenant, "key": key})


async def get(connection: AsyncConnection, grant_id: str, *, lock: bool = False) -> Grant | None:
    """Return a grant, locked until the transaction ends if asked."""
    return await _one(connection, "grant_id = CAST(:id AS uuid)", {"id": grant_id}, "FOR UPDATE" if lock else "")


async def of_attempt(connection: AsyncConnection, tenant: str, attempt_id: str, purpose: str | None) -> list[Grant]:
    """Return an attempt's grants, of one purpose if asked, locked until the transaction ends."""
    where = "tenant = :tenant AND attempt_id = CAST(:attempt AS uuid) AND (:purpose = '' OR purpose = :purpose)"
    arguments = {"tenant": tenant, "attempt": attempt_id, "purpose": purpose or ""}
    return await _many(connection, where, arguments, "ORDER BY grant_id FOR UPDATE")


async def newest(connection: AsyncConnection, tenant: str, state: str, before: str, limit: int) -> list[Grant]:
    """Return a tenant's grants, newest first, older than the grant `before` (empty: from the newest)."""
    where = "tenant = :tenant AND (:state = '' OR state = :state) AND (:before = '' OR grant_id::text < :before)"
    arguments = {"tenant": tenant, "state": state, "before": before}
    return await _many(connection, where, arguments, f"ORDER BY grant_id DESC LIMIT {int(limit)}")


async def tombstone(connection: AsyncConnection, tenant: str, attempt_id: str, *, leave: bool) -> bool:
    """Lock the attempt's row (made if it is new) and tell whether it has a tombstone; `leave` one if asked."""
    arguments = {"tenant": tenant, "attempt": attempt_id}
    await connection.execute(
        sa.text(
            "INSERT INTO attempt (tenant, attempt_id) VALUES (:tenant, CAST(:attempt AS uuid)) ON CONFLICT DO NOTHING"
        ),
        arguments,
    )
    where = "tenant = :tenant AND attempt_id = CAST(:attempt AS uuid)"
    found = await connection.scalar(sa.text(f"SELECT tombstone_time FROM attempt WHERE {where} FOR UPDATE"), arguments)
    if leave and found is None:
        await connection.execute(
            sa.text(f"UPDATE attempt SET tombstone_time = clock_timestamp() WHERE {where}"), arguments
        )
    return found is not None


async def still_alive(connection: AsyncConnection, expire_time_ms: int) -> bool:
    """Tell whether a moment lies ahead, by the database's clock *after* the waits for locks (now() is older)."""
    query = "SELECT CAST(:expire AS bigint) > extract(epoch FROM clock_timestamp()) * 1000"
    return bool(await connection.scalar(sa.text(query), {"expire": expire_time_ms}))


async def count_up(connection: AsyncConnection, tenant: str, limits: Sequence[tuple[str, int]]) -> str | None:
    """Count one more live grant under each (agent, most); return the agent whose limit is reached, or None.

    The tenant's total stands under the empty agent name; it comes last everywhere.
    """
    for agent, most in limits:
        arguments = {"tenant": tenant, "agent": agent, "most": most}
        await connection.execute(
            sa.text("INSERT INTO live_count (tenant, agent, n) VALUES (:tenant, :agent, 0) ON CONFLICT DO NOTHING"),
            {"tenant": tenant, "agent": agent},
        )
        found = await connection.scalar(
            sa.text(
                "UPDATE live_count SET n = n + 1 WHERE tenant = :tenant AND agent = :agent AND n < :most RETURNING n"
            ),
            arguments,
        )
        if found is None:
            return agent or tenant
    return None


async def insert(
    connection: AsyncConnection,
    grant_id: str,
    asked: Asked,
    decision: Statement,
    lending: Lending,
    digest: str,
    holder: str,
) -> Grant:
    """Store a REQUESTED grant. Raises PriorGrantLive when the step's earlier effect grant is not verified dead."""
    role = lending.role
    values: Mapping[str, Any] = {
        "grant_id": grant_id,
        "tenant": decision.tenant,
        "key": asked.idempotency_key,
        "digest": digest,
        "purpose": asked.purpose,
        "attempt": asked.attempt_id,
        "plan": decision.plan_digest,
        "step": asked.step_id,
        "tool": lending.tool.reference,
        "tool_digest": lending.tool.digest,
        "action": role.action,
        "mode": role.mode,
        "tier": role.tier,
        "ttl": lending.ttl_seconds,
        "life": float(lending.ttl_seconds),
        "target": lending.target,
        "decision_id": decision.decision_id,
        "decision_digest": decision.digest,
        "intent": asked.intent_event_id or None,
        "request_id": decision.request_id,
        "txn": decision.txn,
        "subject": decision.subject,
        "agent": decision.agent or "",
        "act": canonical({"act": decision.act and dict(decision.act)}).decode(),
        "scopes": list(lending.scopes),
        "epochs": list(lending.epochs),
        "holder": holder,
    }
    try:
        await connection.execute(
            sa.text(
                "INSERT INTO grants (grant_id, tenant, idempotency_key, request_digest, state, purpose, attempt_id, "
                "plan_digest, step, tool, tool_digest, action, mode, tier, ttl_seconds, target, decision_id, "
                "decision_digest, intent_event_id, request_id, txn, subject, agent, act, scopes, epochs, holder, "
                "not_after, create_time) VALUES (CAST(:grant_id AS uuid), :tenant, :key, :digest, 'REQUESTED', "
                ":purpose, CAST(:attempt AS uuid), :plan, :step, :tool, :tool_digest, :action, :mode, :tier, :ttl, "
                ":target, :decision_id, :decision_digest, :intent, :request_id, :txn, :subject, :agent, "
                "CAST(:act AS jsonb), CAST(:scopes AS text[]), CAST(:epochs AS bigint[]), :holder, "
                "clock_timestamp() + make_interval(secs => :life), clock_timestamp())"
            ),
            values,
        )
    except IntegrityError as error:
        if "one_live_effect" in str(error.orig):
            raise PriorGrantLive(step_id=asked.step_id) from None
        raise
    found = await get(connection, grant_id)
    assert found is not None  # noqa: S101
    return found


async def bind(connection: AsyncConnection, grant_id: str) -> bool:
    """REQUESTED -> BINDING while it may still be lent; tells whether it was us who did it."""
    return await _move(
        connection,
        grant_id,
        "state = 'BINDING', bind_time = clock_timestamp()",
        "state = 'REQUESTED' AND not_after > clock_timestamp()",
    )


async def bound(connection: AsyncConnection, grant_id: str, accessor: str) -> bool:
    """BINDING -> BOUND with the accessor; False: a trip, a revocation or the reconciler was faster."""
    return await _move(
        connection,
        grant_id,
        "state = 'BOUND', vault_accessor = :accessor, redeem_time = clock_timestamp()",
        "state = 'BINDING'",
        accessor=accessor,
    )


async def report(connection: AsyncConnection, grant_id: str, holder: str, lease_id: str) -> bool:
    """Store the lease that the holder's read created, once."""
    return await _move(
        connection,
        grant_id,
        "lease_id = :lease",
        "holder = :holder AND lease_id IS NULL",
        lease=lease_id,
        holder=holder,
    )


async def fail(connection: AsyncConnection, grant: Grant, reason: str) -> bool:
    """REQUESTED or BINDING -> FAILED: its wrapper never left this process."""
    moved = await _move(
        connection,
        grant.grant_id,
        "state = 'FAILED', revoke_reason = :reason, revoke_time = clock_timestamp(), verify_time = clock_timestamp()",
        "state IN ('REQUESTED', 'BINDING')",
        reason=reason,
    )
    if moved:
        await _count_down(connection, grant)
    return moved


async def revoke(connection: AsyncConnection, grant: Grant, reason: str) -> bool:
    """BOUND -> REVOKING."""
    return await _move(
        connection,
        grant.grant_id,
        "state = 'REVOKING', revoke_reason = :reason, revoke_time = clock_timestamp(), next_try_time = NULL",
        "state = 'BOUND'",
        reason=reason,
    )


async def verified(connection: AsyncConnection, grant: Grant) -> bool:
    """REVOKING -> REVOKED: token gone, leases gone, sessions swept since."""
    moved = await _move(
        connection, grant.grant_id, "state = 'REVOKED', verify_time = clock_timestamp()", "state = 'REVOKING'"
    )
    if moved:
        await _count_down(connection, grant)
    return moved


async def claim_dying(connection: AsyncConnection, seconds: float) -> list[Grant]:
    """Return the REVOKING grants whose turn it is, and push their next turn ahead; no two replicas get one."""
    rows = await connection.execute(
        sa.text(
            "UPDATE grants SET tries = tries + 1, next_try_time = clock_timestamp() + make_interval(secs => :s) "
            "WHERE grant_id IN (SELECT grant_id FROM grants WHERE state = 'REVOKING' "
            "AND (next_try_time IS NULL OR next_try_time < clock_timestamp()) ORDER BY revoke_time LIMIT 200 "
            f"FOR UPDATE SKIP LOCKED) RETURNING {_COLUMNS}"
        ),
        {"s": seconds},
    )
    return [_grant(row) for row in rows]


async def overdue(connection: AsyncConnection, binding_seconds: float) -> list[Grant]:
    """Return, locked, what must leave its state: past `not_after`, or BINDING for too long (its process died)."""
    where = (
        "(state IN ('REQUESTED', 'BOUND') AND not_after < clock_timestamp()) OR (state = 'BINDING' AND "
        "(not_after < clock_timestamp() OR bind_time < clock_timestamp() - make_interval(secs => :s)))"
    )
    return await _many(connection, where, {"s": binding_seconds}, "ORDER BY grant_id LIMIT 200 FOR UPDATE SKIP LOCKED")


async def in_scope(connection: AsyncConnection, scope: str) -> list[Grant]:
    """Return, locked, every live grant under a containment scope."""
    where = f"{_LIVE} AND :scope = ANY(scopes)"
    return await _many(connection, where, {"scope": scope}, "ORDER BY grant_id FOR UPDATE")


async def live_in_scope(connection: AsyncConnection, scope: str) -> int:
    """Return how many grants of a scope are not verified dead."""
    query = f"SELECT count(*) FROM grants WHERE {_LIVE} AND :scope = ANY(scopes)"
    return int(await connection.scalar(sa.text(query), {"scope": scope}) or 0)


async def known_leases(connection: AsyncConnection, tenant: str) -> set[str]:
    """Return every lease id of a tenant's live grants that was reported."""
    query = f"SELECT lease_id FROM grants WHERE tenant = :tenant AND {_LIVE} AND lease_id IS NOT NULL"
    return {row.lease_id for row in await connection.execute(sa.text(query), {"tenant": tenant})}


async def unreported(connection: AsyncConnection, tenant: str) -> bool:
    """Tell whether a live grant of the tenant may have a lease that nobody reported."""
    query = (
        f"SELECT 1 FROM grants WHERE tenant = :tenant AND {_LIVE} AND state <> 'REQUESTED' AND lease_id IS NULL LIMIT 1"
    )
    return await connection.scalar(sa.text(query), {"tenant": tenant}) is not None


async def _count_down(connection: AsyncConnection, grant: Grant) -> None:
    for agent in (grant.agent, ""):
        await connection.execute(
            sa.text("UPDATE live_count SET n = n - 1 WHERE tenant = :tenant AND agent = :agent AND n > 0"),
            {"tenant": grant.tenant, "agent": agent},
        )
        if not agent:
            return


async def _move(connection: AsyncConnection, grant_id: str, change: str, condition: str, **values: object) -> bool:
    query = f"UPDATE grants SET {change} WHERE grant_id = CAST(:id AS uuid) AND {condition} RETURNING grant_id"
    return await connection.scalar(sa.text(query), {"id": grant_id, **values}) is not None


async def _one(
    connection: AsyncConnection, where: str, arguments: Mapping[str, object], tail: str = ""
) -> Grant | None:
    found = await _many(connection, where, arguments, tail)
    return found[0] if found else None


async def _many(connection: AsyncConnection, where: str, arguments: Mapping[str, object], tail: str) -> list[Grant]:
    rows = await connection.execute(sa.text(f"SELECT {_COLUMNS} FROM grants WHERE {where} {tail}"), dict(arguments))
    return [_grant(row) for row in rows]


def _grant(row: sa.Row[Any]) -> Grant:
    values = dict(row._mapping)  # noqa: SLF001 (SQLAlchemy's public name for it)
    values["grant_id"], values["attempt_id"] = str(row.grant_id), str(row.attempt_id)
    values["state"] = State(row.state)
    values["scopes"], values["epochs"] = tuple(row.scopes), tuple(row.epochs)
    return Grant(**values)
