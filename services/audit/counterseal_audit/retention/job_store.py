"""Rows of erasures: the job, and how far it is in each log."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal_audit.retention.database import one, rows, run
from counterseal_audit.retention.engine import Range, State


@dataclass(frozen=True, slots=True)
class Job:
    """One erasure, as it is stored."""

    job_id: str
    tenant: str
    person: str
    state: State
    event_id: str
    report_event_id: str
    order_time_ms: int
    deks: tuple[str, ...]
    count: int
    reported: tuple[str, ...]
    finish_time_ms: int | None


_JOB = (
    "job_id::text, tenant, person, state, event_id::text, report_event_id::text, order_time_ms, deks, count, reported,"
    " finish_time_ms"
)


async def insert_job(
    conn: AsyncConnection,
    *,
    job_id: str,
    tenant: str,
    person: str,
    event_id: str,
    report_event_id: str,
    now_ms: int,
) -> bool:
    """Store an order; False when an unfinished one for the person exists."""
    return bool(
        await run(
            conn,
            "INSERT INTO ledger_erasure (job_id, tenant, person, state, event_id, report_event_id, order_time_ms)"
            " VALUES (CAST(:job_id AS uuid), :tenant, :person, 'ORDERED', CAST(:event_id AS uuid),"
            " CAST(:report_event_id AS uuid), :now_ms)"
            " ON CONFLICT DO NOTHING",
            job_id=job_id,
            tenant=tenant,
            person=person,
            event_id=event_id,
            report_event_id=report_event_id,
            now_ms=now_ms,
        )
    )


async def open_job(conn: AsyncConnection, tenant: str, person: str) -> Job | None:
    """Return the unfinished erasure of a person."""
    row = await one(
        conn,
        f"SELECT {_JOB} FROM ledger_erasure WHERE tenant = :tenant AND person = :person AND state <> 'FINISHED'",
        tenant=tenant,
        person=person,
    )
    return _job(row)


async def job(conn: AsyncConnection, job_id: str, *, tenant: str | None = None, lock: bool = False) -> Job | None:
    """Return an erasure, of a tenant if one is named. lock: keep other replicas away until the transaction ends."""
    tail = " FOR UPDATE" if lock else ""
    row = await one(
        conn,
        f"SELECT {_JOB} FROM ledger_erasure WHERE job_id = CAST(:job_id AS uuid)"
        f" AND (CAST(:tenant AS text) IS NULL OR tenant = :tenant){tail}",
        job_id=job_id,
        tenant=tenant,
    )
    return _job(row)


async def unfinished(conn: AsyncConnection) -> list[str]:
    """Return the erasures that are not finished, oldest first."""
    found = await rows(conn, "SELECT job_id::text FROM ledger_erasure WHERE state <> 'FINISHED' ORDER BY job_id")
    return [str(row.job_id) for row in found]


async def jobs(conn: AsyncConnection, tenant: str, *, unfinished_only: bool, before: str, most: int) -> list[Job]:
    """Return a tenant's erasures, newest first."""
    found = await rows(
        conn,
        f"SELECT {_JOB} FROM ledger_erasure WHERE tenant = :tenant AND (NOT :open OR state <> 'FINISHED')"
        " AND (:before = '' OR job_id < CAST(NULLIF(:before, '') AS uuid)) ORDER BY job_id DESC LIMIT :most",
        tenant=tenant,
        open=unfinished_only,
        before=before,
        most=most,
    )
    return [known for known in map(_job, found) if known is not None]


async def set_job(
    conn: AsyncConnection,
    job_id: str,
    state: State,
    *,
    deks: Iterable[str] | None = None,
    deleted: int = 0,
    reported: Iterable[str] | None = None,
    finish_time_ms: int | None = None,
) -> None:
    """Move an erasure on. What is None stays; `deleted` is added to its count."""
    await run(
        conn,
        "UPDATE ledger_erasure SET state = :state, count = count + :deleted,"
        " deks = coalesce(CAST(:deks AS text[]), deks), reported = coalesce(CAST(:reported AS text[]), reported),"
        " finish_time_ms = coalesce(CAST(:finish AS bigint), finish_time_ms) WHERE job_id = CAST(:job_id AS uuid)",
        job_id=job_id,
        state=str(state),
        deleted=deleted,
        deks=None if deks is None else list(deks),
        reported=None if reported is None else list(reported),
        finish=finish_time_ms,
    )


async def set_range(conn: AsyncConnection, job_id: str, part: Range) -> None:
    """Store which entries of a log an erasure has still to look at."""
    await run(
        conn,
        "INSERT INTO ledger_erasure_log (job_id, log_id, next_idx, end_idx) VALUES"
        " (CAST(:job_id AS uuid), :log_id, :next, :end) ON CONFLICT (job_id, log_id)"
        " DO UPDATE SET next_idx = excluded.next_idx, end_idx = excluded.end_idx",
        job_id=job_id,
        log_id=part.log_id,
        next=part.next_idx,
        end=part.end_idx,
    )


async def ranges(conn: AsyncConnection, job_id: str) -> list[Range]:
    """Return which entries of which log an erasure has still to look at."""
    found = await rows(
        conn,
        "SELECT log_id, next_idx, end_idx FROM ledger_erasure_log WHERE job_id = CAST(:job_id AS uuid) ORDER BY log_id",
        job_id=job_id,
    )
    return [Range(row.log_id, row.next_idx, row.end_idx) for row in found]


async def seen(conn: AsyncConnection, job_id: str) -> dict[int, int]:
    """Return log -> up to which index reports were looked for."""
    found = await rows(
        conn,
        "SELECT log_id, seen_idx FROM ledger_erasure_log WHERE job_id = CAST(:job_id AS uuid)",
        job_id=job_id,
    )
    return {int(row.log_id): int(row.seen_idx) for row in found}


async def set_seen(conn: AsyncConnection, job_id: str, log_id: int, index: int) -> None:
    """Note up to which index of a log reports were looked for."""
    await run(
        conn,
        "INSERT INTO ledger_erasure_log (job_id, log_id, next_idx, end_idx, seen_idx) VALUES"
        " (CAST(:job_id AS uuid), :log_id, 0, 0, :index) ON CONFLICT (job_id, log_id)"
        " DO UPDATE SET seen_idx = excluded.seen_idx",
        job_id=job_id,
        log_id=log_id,
        index=index,
    )


def _job(row: Any) -> Job | None:
    if row is None:
        return None
    return Job(
        row.job_id,
        row.tenant,
        row.person,
        State(row.state),
        row.event_id,
        row.report_event_id,
        row.order_time_ms,
        tuple(row.deks),
        row.count,
        tuple(row.reported),
        row.finish_time_ms,
    )
