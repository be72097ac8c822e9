"""The barrier in PostgreSQL.

One rule everywhere: the advisory lock is a statement of its own and the read is the next one. A lock taken inside the
reading statement reads a snapshot from before the wait, and lets a grant through that was issued under the old state.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal_credentials.containment.engine import ScopeState

_LOCK = "hashtextextended('counterseal.barrier', 0)"
_COLUMNS = "scope, epoch, stopped, reason_code, update_time_ms"


async def lock_shared(connection: AsyncConnection) -> None:
    """Hold the barrier still until the transaction ends, beside others that only read it."""
    await connection.execute(sa.text(f"SELECT pg_advisory_xact_lock_shared({_LOCK})"))


async def lock_exclusive(connection: AsyncConnection) -> None:
    """Wait until nobody relies on the barrier, and keep it until the transaction ends."""
    await connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))


async def states(connection: AsyncConnection, scopes: Iterable[str]) -> dict[str, ScopeState]:
    """Return the states of those of `scopes` that were ever told."""
    rows = await connection.execute(
        sa.text(f"SELECT {_COLUMNS} FROM barrier WHERE scope = ANY(:scopes)"), {"scopes": list(scopes)}
    )
    return {row.scope: ScopeState(*row) for row in rows}


async def everything(connection: AsyncConnection) -> list[ScopeState]:
    """Return every scope that this service was told about."""
    rows = await connection.execute(sa.text(f"SELECT {_COLUMNS} FROM barrier ORDER BY scope"))
    return [ScopeState(*row) for row in rows]


async def put(connection: AsyncConnection, state: ScopeState, now_ms: int) -> ScopeState:
    """Store a state; an epoch never falls, and at equal epochs a stop is never taken back."""
    row = (
        await connection.execute(
            sa.text(
                f"INSERT INTO barrier ({_COLUMNS}) VALUES (:scope, :epoch, :stopped, :reason, :now) "
                "ON CONFLICT (scope) DO UPDATE SET epoch = excluded.epoch, stopped = excluded.stopped, "
                "reason_code = excluded.reason_code, update_time_ms = excluded.update_time_ms "
                "WHERE excluded.epoch > barrier.epoch "
                "OR (excluded.epoch = barrier.epoch AND excluded.stopped AND NOT barrier.stopped) "
                f"RETURNING {_COLUMNS}"
            ),
            {
                "scope": state.scope,
                "epoch": state.epoch,
                "stopped": state.stopped,
                "reason": state.reason_code,
                "now": now_ms,
            },
        )
    ).one_or_none()
    if row is not None:
        return ScopeState(*row)
    return (await states(connection, [state.scope]))[state.scope]


@dataclass(frozen=True, slots=True)
class Revocation:
    """How far the revocation of a stopped scope is. revoked_epoch: the last epoch recorded as n of n."""

    credential_count: int
    revoked_count: int
    revoked_epoch: int
    revoked_time_ms: int


async def condemned(connection: AsyncConnection, state: ScopeState, count: int) -> None:
    """Note how many credentials were alive when the scope was stopped at this epoch; repeated orders add none."""
    await connection.execute(
        sa.text(
            "UPDATE barrier SET credential_count = CASE WHEN counted_epoch = :epoch "
            "THEN greatest(credential_count, :count) ELSE :count END, counted_epoch = :epoch WHERE scope = :scope"
        ),
        {"scope": state.scope, "epoch": state.epoch, "count": count},
    )


async def revocation(connection: AsyncConnection, scope: str) -> Revocation:
    """Return how far a scope's revocation is; `revoked_count` is the caller's to fill."""
    row = (
        await connection.execute(
            sa.text("SELECT credential_count, 0, revoked_epoch, revoked_time_ms FROM barrier WHERE scope = :scope"),
            {"scope": scope},
        )
    ).one()
    return Revocation(*row)


async def unreported(connection: AsyncConnection) -> list[ScopeState]:
    """Return, locked, the stopped scopes whose n of n is not recorded for their epoch."""
    rows = await connection.execute(
        sa.text(
            f"SELECT {_COLUMNS} FROM barrier WHERE stopped AND revoked_epoch < epoch "
            "ORDER BY scope FOR UPDATE SKIP LOCKED"
        )
    )
    return [ScopeState(*row) for row in rows]


async def report(connection: AsyncConnection, state: ScopeState, now_ms: int) -> int | None:
    """Mark a scope's epoch as revoked n of n and return n; None when somebody did already."""
    found: int | None = await connection.scalar(
        sa.text(
            "UPDATE barrier SET revoked_epoch = epoch, revoked_time_ms = :now "
            "WHERE scope = :scope AND epoch = :epoch AND stopped AND revoked_epoch < epoch RETURNING credential_count"
        ),
        {"scope": state.scope, "epoch": state.epoch, "now": now_ms},
    )
    return found
