"""Entries to look through, and the payload rows and keys that go. Only here payload is changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal_audit.retention.database import one, rows, run
from counterseal_audit.retention.engine import Range


@dataclass(frozen=True, slots=True)
class Found:
    """An entry that holds a needle."""

    index: int
    entry: bytes


async def logs_of(conn: AsyncConnection, tenant: str, environment: str) -> list[int]:
    """Return the logs of a tenant, every shard, oldest first."""
    found = await rows(
        conn,
        "SELECT log_id FROM ledger_log WHERE tenant = :tenant AND environment = :environment ORDER BY shard",
        tenant=tenant,
        environment=environment,
    )
    return [int(row.log_id) for row in found]


async def size_of(conn: AsyncConnection, log_id: int, *, lock: bool = False) -> int:
    """Return how many entries a log has. lock: hold appends back until the transaction ends."""
    tail = " FOR UPDATE" if lock else ""
    row = await one(conn, f"SELECT size FROM ledger_head WHERE log_id = :log_id{tail}", log_id=log_id)
    return int(row.size)


async def entries_with(conn: AsyncConnection, part: Range, needle: bytes) -> list[Found]:
    """Return the entries of a range whose bytes hold `needle`."""
    found = await rows(
        conn,
        "SELECT idx, entry FROM ledger_entry WHERE log_id = :log_id AND idx >= :start AND idx < :stop"
        " AND position(CAST(:needle AS bytea) IN entry) > 0 ORDER BY idx",
        log_id=part.log_id,
        start=part.next_idx,
        stop=part.end_idx,
        needle=needle,
    )
    return [Found(int(row.idx), bytes(row.entry)) for row in found]


# Below: only inside `retaining`.


async def destroy_keys(conn: AsyncConnection, log_id: int, person: str) -> list[UUID]:
    """Destroy the live key of a person in a log; returns which keys these were."""
    found = await rows(
        conn,
        "UPDATE ledger_dek SET wrapped = NULL, destroy_time = clock_timestamp()"
        " WHERE log_id = :log_id AND subject = :person AND destroy_time IS NULL RETURNING dek_id",
        log_id=log_id,
        person=person,
    )
    return [UUID(str(row.dek_id)) for row in found]


async def open_transactions(conn: AsyncConnection) -> set[str]:
    """Return the transactions that are open in this database but for this one, whoever's they are."""
    found = await rows(
        conn,
        "SELECT l.virtualxid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'virtualxid'"
        " AND l.virtualxid = l.virtualtransaction AND a.datname = current_database() AND l.pid <> pg_backend_pid()",
    )
    return {row.virtualxid for row in found}


async def scrub_keys(conn: AsyncConnection) -> None:
    """Write the table of keys anew, so that no page holds a destroyed one any more.

    A row that some open transaction may still see is written again: nothing may be open that was when keys were
    destroyed. The table is waited for shortly: appends of sealed fields queue behind whoever waits for it. Raises
    LedgerUnavailable, as part of `transaction`, when somebody holds it.
    """
    await run(conn, "SET LOCAL lock_timeout = '200ms'")
    await run(conn, "SELECT ledger_scrub_keys()")


async def delete_payload(conn: AsyncConnection, log_id: int, indexes: Sequence[int]) -> int:
    """Delete the payload of entries; returns how many rows that was."""
    if not indexes:
        return 0
    return await run(
        conn,
        "DELETE FROM ledger_payload WHERE log_id = :log_id AND idx = ANY(CAST(:indexes AS bigint[]))",
        log_id=log_id,
        indexes=list(indexes),
    )


async def delete_due(conn: AsyncConnection, log_id: int, day: date, most: int) -> int:
    """Delete up to `most` payload rows of a log that were due before `day` and that no hold covers.

    `held` is asked for twice: a row that is being held just now is waited for, and then only the outer condition is
    looked at again.
    """
    return await run(
        conn,
        "DELETE FROM ledger_payload WHERE log_id = :log_id AND NOT held"
        " AND (idx, ord) IN (SELECT idx, ord FROM ledger_payload"
        " WHERE log_id = :log_id AND due_on < :day AND NOT held ORDER BY idx, ord LIMIT :most)",
        log_id=log_id,
        day=day,
        most=most,
    )


async def mark_held(conn: AsyncConnection, log_id: int, indexes: Sequence[int], *, held: bool) -> int:
    """Set or clear the hold of entries' payload; returns how many rows that was."""
    if not indexes:
        return 0
    return await run(
        conn,
        "UPDATE ledger_payload SET held = :held WHERE log_id = :log_id AND idx = ANY(CAST(:indexes AS bigint[]))",
        log_id=log_id,
        indexes=list(indexes),
        held=held,
    )


# A sweep that is under way.


async def start_sweep(conn: AsyncConnection, log_id: int, day: date) -> tuple[date, int]:
    """Begin a sweep of a log, or go on with the one that was interrupted; returns its day and count, locked."""
    await run(
        conn,
        "INSERT INTO ledger_sweep (log_id, due_on) VALUES (:log_id, :day) ON CONFLICT DO NOTHING",
        log_id=log_id,
        day=day,
    )
    row = await one(conn, "SELECT due_on, count FROM ledger_sweep WHERE log_id = :log_id FOR UPDATE", log_id=log_id)
    return row.due_on, int(row.count)


async def count_swept(conn: AsyncConnection, log_id: int, count: int) -> None:
    """Add what a batch deleted."""
    await run(conn, "UPDATE ledger_sweep SET count = count + :count WHERE log_id = :log_id", log_id=log_id, count=count)


async def end_sweep(conn: AsyncConnection, log_id: int) -> None:
    """Forget a sweep: its entry is in the outbox."""
    await run(conn, "DELETE FROM ledger_sweep WHERE log_id = :log_id", log_id=log_id)
