"""Rows of legal holds, and which entries each covers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal_audit.retention.database import one, rows, run
from counterseal_audit.retention.engine import Covers
from counterseal_audit.retention.payload_store import Found


@dataclass(frozen=True, slots=True)
class HoldRow:
    """One hold, as it is stored."""

    hold_id: str
    tenant: str
    covers: Covers
    value: str
    place_time_ms: int
    lift_time_ms: int | None
    count: int


_HOLD = "hold_id::text, tenant, covers, value, place_time_ms, lift_time_ms, count"


async def insert_hold(conn: AsyncConnection, new: HoldRow) -> bool:
    """Store a hold; False when one with the same selector stands."""
    return bool(
        await run(
            conn,
            "INSERT INTO ledger_hold (hold_id, tenant, covers, value, place_time_ms) VALUES"
            " (CAST(:hold_id AS uuid), :tenant, :covers, :value, :place)"
            " ON CONFLICT (tenant, covers, value) WHERE lift_time_ms IS NULL DO NOTHING",
            hold_id=new.hold_id,
            tenant=new.tenant,
            covers=str(new.covers),
            value=new.value,
            place=new.place_time_ms,
        )
    )


async def standing(conn: AsyncConnection, tenant: str) -> list[HoldRow]:
    """Return the holds of a tenant that stand."""
    found = await rows(
        conn,
        f"SELECT {_HOLD} FROM ledger_hold WHERE tenant = :tenant AND lift_time_ms IS NULL ORDER BY hold_id",
        tenant=tenant,
    )
    return [_hold(row) for row in found]


async def hold(conn: AsyncConnection, tenant: str, hold_id: str, *, lock: bool = False) -> HoldRow | None:
    """Return a hold of a tenant."""
    tail = " FOR UPDATE" if lock else ""
    row = await one(
        conn,
        f"SELECT {_HOLD} FROM ledger_hold WHERE tenant = :tenant AND hold_id = CAST(:hold_id AS uuid){tail}",
        tenant=tenant,
        hold_id=hold_id,
    )
    return None if row is None else _hold(row)


async def holds(conn: AsyncConnection, tenant: str, *, lifted: bool, before: str, most: int) -> list[HoldRow]:
    """Return a tenant's holds, newest first."""
    found = await rows(
        conn,
        f"SELECT {_HOLD} FROM ledger_hold WHERE tenant = :tenant AND (:lifted OR lift_time_ms IS NULL)"
        " AND (:before = '' OR hold_id < CAST(NULLIF(:before, '') AS uuid)) ORDER BY hold_id DESC LIMIT :most",
        tenant=tenant,
        lifted=lifted,
        before=before,
        most=most,
    )
    return [_hold(row) for row in found]


async def hold_next(conn: AsyncConnection, hold_id: str, log_id: int) -> int:
    """Return the first index of a log that a hold was not applied to; locks it against other replicas."""
    await run(
        conn,
        "INSERT INTO ledger_hold_log (hold_id, log_id, next_idx) VALUES (CAST(:hold_id AS uuid), :log_id, 0)"
        " ON CONFLICT DO NOTHING",
        hold_id=hold_id,
        log_id=log_id,
    )
    row = await one(
        conn,
        "SELECT next_idx FROM ledger_hold_log WHERE hold_id = CAST(:hold_id AS uuid) AND log_id = :log_id FOR UPDATE",
        hold_id=hold_id,
        log_id=log_id,
    )
    return int(row.next_idx)


async def set_hold_next(conn: AsyncConnection, hold_id: str, log_id: int, index: int, held_rows: int) -> None:
    """Note up to which index a hold was applied, and how many rows more it holds."""
    await run(
        conn,
        "UPDATE ledger_hold_log SET next_idx = :index WHERE hold_id = CAST(:hold_id AS uuid) AND log_id = :log_id",
        hold_id=hold_id,
        log_id=log_id,
        index=index,
    )
    await run(
        conn,
        "UPDATE ledger_hold SET count = count + :rows WHERE hold_id = CAST(:hold_id AS uuid)",
        hold_id=hold_id,
        rows=held_rows,
    )


async def note_held(conn: AsyncConnection, log_id: int, indexes: Sequence[int], hold_id: str) -> None:
    """Note that a hold covers entries."""
    await run(
        conn,
        "INSERT INTO ledger_held (log_id, idx, hold_id) SELECT :log_id, t.idx, CAST(:hold_id AS uuid)"
        " FROM unnest(CAST(:indexes AS bigint[])) AS t(idx) ON CONFLICT DO NOTHING",
        log_id=log_id,
        indexes=list(indexes),
        hold_id=hold_id,
    )


async def release(conn: AsyncConnection, hold_id: str) -> dict[int, list[int]]:
    """Forget what a hold covers; returns log -> entries that no other hold covers."""
    found = await rows(
        conn,
        "WITH gone AS (DELETE FROM ledger_held WHERE hold_id = CAST(:hold_id AS uuid) RETURNING log_id, idx)"
        " SELECT g.log_id, g.idx FROM gone g WHERE NOT EXISTS (SELECT 1 FROM ledger_held h WHERE h.log_id = g.log_id"
        " AND h.idx = g.idx AND h.hold_id <> CAST(:hold_id AS uuid))",
        hold_id=hold_id,
    )
    free: dict[int, list[int]] = {}
    for row in found:
        free.setdefault(int(row.log_id), []).append(int(row.idx))
    return free


async def lift(conn: AsyncConnection, hold_id: str, now_ms: int) -> None:
    """Mark a hold as lifted."""
    await run(
        conn,
        "UPDATE ledger_hold SET lift_time_ms = :now WHERE hold_id = CAST(:hold_id AS uuid)",
        hold_id=hold_id,
        now=now_ms,
    )


async def held_entries(conn: AsyncConnection, log_id: int, needle: bytes) -> list[Found]:
    """Return the held entries of a log whose bytes hold `needle`."""
    found = await rows(
        conn,
        "SELECT DISTINCT e.idx, e.entry FROM ledger_held h JOIN ledger_entry e USING (log_id, idx)"
        " WHERE e.log_id = :log_id AND position(CAST(:needle AS bytea) IN e.entry) > 0",
        log_id=log_id,
        needle=needle,
    )
    return [Found(int(row.idx), bytes(row.entry)) for row in found]


async def declared(conn: AsyncConnection, event_id: str) -> bool:
    """Tell whether the entry of a hold is in the outbox."""
    found = await one(conn, "SELECT 1 FROM outbox WHERE event_id = CAST(:event_id AS uuid)", event_id=event_id)
    return found is not None


async def lock_retention(conn: AsyncConnection, tenant: str) -> None:
    """Let one order or hold of a tenant be placed at a time, as each looks at the other."""
    await run(
        conn, "SELECT pg_advisory_xact_lock(hashtextextended('counterseal.retention.' || :tenant, 0))", tenant=tenant
    )


def _hold(row: Any) -> HoldRow:
    return HoldRow(
        row.hold_id, row.tenant, Covers(row.covers), row.value, row.place_time_ms, row.lift_time_ms, row.count
    )
