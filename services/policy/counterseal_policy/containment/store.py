"""Containment in PostgreSQL. Writers hold the barrier's lock exclusively, decisions share it."""

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal.errors import NotFound, VersionMismatch
from counterseal_policy.containment.engine import State, newer

_COLUMNS = (
    "scope, tenant, epoch, stopped, reason_code, (extract(epoch FROM update_time) * 1000)::bigint AS update_time_ms"
)


async def read_all(connection: AsyncConnection) -> list[State]:
    """Return every scope that was ever tripped."""
    return [_state(row) for row in await connection.execute(sa.text(f"SELECT {_COLUMNS} FROM containment"))]


async def read_scopes(connection: AsyncConnection, scopes: Sequence[str]) -> dict[str, State]:
    """Return what is known of some scopes; the caller holds the barrier's lock from an earlier statement."""
    rows = await connection.execute(
        sa.text(f"SELECT {_COLUMNS} FROM containment WHERE scope = ANY(:scopes)"), {"scopes": list(scopes)}
    )
    return {row.scope: _state(row) for row in rows}


async def trip(connection: AsyncConnection, scope: str, tenant: str, reason_code: str) -> State:
    """Stop a scope at its next epoch. The caller holds the barrier's lock exclusively."""
    row = await connection.execute(
        sa.text(
            "INSERT INTO containment AS c (scope, tenant, epoch, stopped, reason_code)"
            " VALUES (:scope, :tenant, 1, true, :reason)"
            " ON CONFLICT (scope) DO UPDATE SET epoch = c.epoch + 1, stopped = true,"
            f" reason_code = excluded.reason_code, update_time = clock_timestamp() RETURNING {_COLUMNS}"
        ),
        {"scope": scope, "tenant": tenant, "reason": reason_code},
    )
    return _state(row.one())


async def check_liftable(connection: AsyncConnection, scope: str, tenant: str, epoch: int) -> None:
    """Raise NotFound, or VersionMismatch unless the scope is stopped at that very epoch."""
    known = (await read_scopes(connection, [scope])).get(scope)
    if known is None or known.tenant != tenant:
        raise NotFound("no such scope was tripped")
    if known.epoch != epoch or not known.stopped:
        raise VersionMismatch("the scope is not stopped at that epoch", epoch=known.epoch)


async def lift(connection: AsyncConnection, scope: str, epoch: int) -> State:
    """End a stop at the epoch after it. The caller holds the lock exclusively since `check_liftable`."""
    row = await connection.execute(
        sa.text(
            "UPDATE containment SET epoch = epoch + 1, stopped = false, reason_code = 'LIFTED',"
            f" update_time = clock_timestamp() WHERE scope = :scope AND epoch = :epoch RETURNING {_COLUMNS}"
        ),
        {"scope": scope, "epoch": epoch},
    )
    return _state(row.one())


async def adopt(connection: AsyncConnection, states: Iterable[State]) -> list[State]:
    """Take over what executor or credentials were told directly, where it is newer; returns what changed.

    The caller holds the barrier's lock exclusively.
    """
    adopted: list[State] = []
    known = {state.scope: (state.epoch, state.stopped) for state in await read_all(connection)}
    for state in states:
        theirs = (state.epoch, state.stopped)
        if state.epoch < 1 or not newer(theirs, known.get(state.scope)):
            continue
        row = await connection.execute(
            sa.text(
                "INSERT INTO containment (scope, tenant, epoch, stopped, reason_code)"
                " VALUES (:scope, :tenant, :epoch, :stopped, :reason)"
                " ON CONFLICT (scope) DO UPDATE SET epoch = excluded.epoch, stopped = excluded.stopped,"
                f" reason_code = excluded.reason_code, update_time = clock_timestamp() RETURNING {_COLUMNS}"
            ),
            {
                "scope": state.scope,
                "tenant": state.tenant,
                "epoch": state.epoch,
                "stopped": state.stopped,
                "reason": state.reason_code or "ADOPTED",
            },
        )
        known[state.scope] = theirs
        adopted.append(_state(row.one()))
    return adopted


def _state(row: sa.Row[tuple[object, ...]]) -> State:
    return State(
        str(row.scope), str(row.tenant), int(row.epoch), bool(row.stopped), str(row.reason_code), row.update_time_ms
    )
