"""Takes erasures from step to step until every service has reported; goes on where a crash left them.

Any number of replicas: a job's row is locked for each step, and a step that somebody else took is not taken again.
"""

import asyncio
import logging
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.canonical import parse_strict
from counterseal.clock import Clock
from counterseal.errors import ServiceError
from counterseal.rpc.ledger_wire import new_entry
from counterseal.rpc.outbox import Outbox
from counterseal_audit.payloads.keys import DataKeys
from counterseal_audit.retention import engine, job_store, payload_store
from counterseal_audit.retention.database import retaining, see, transaction
from counterseal_audit.retention.engine import Range, State
from counterseal_audit.retention.job_store import Job
from counterseal_audit.retention.scrubbing import Scrubber

BATCH_ENTRIES = 10_000
LOOK_SECONDS = 1.0

log = logging.getLogger("counterseal.audit.retention")


@dataclass(frozen=True, slots=True)
class Eraser:
    """The erasures of this environment. backup_days: how long backups of this database are kept."""

    database: AsyncEngine
    outbox: Outbox
    keys: DataKeys
    environment: str
    backup_days: int
    clock: Clock
    scrubber: Scrubber
    batch_entries: int = BATCH_ENTRIES

    async def run(self, stopping: asyncio.Event) -> None:
        """Work off what is unfinished until `stopping` is set; one background task per process."""
        while not stopping.is_set():
            try:
                for job_id in await self.unfinished():
                    await self.advance(job_id)
            except ServiceError as error:
                log.warning("erasures wait: %s", error.reason)
            try:
                await asyncio.wait_for(stopping.wait(), LOOK_SECONDS)
            except TimeoutError:
                continue

    async def unfinished(self) -> list[str]:
        """Return the jobs that have something to do or to wait for."""
        async with transaction(self.database) as conn:
            return await job_store.unfinished(conn)

    async def advance(self, job_id: str) -> None:
        """Take every step of a job that can be taken now. Raises LedgerUnavailable, SealUnavailable; ask again then."""
        while await self.step(job_id):
            pass

    async def step(self, job_id: str) -> bool:
        """Take one step; returns whether there may be another at once."""
        async with transaction(self.database) as conn:
            job = await job_store.job(conn, job_id)
            all_deleted = all(part.done for part in await job_store.ranges(conn, job_id))
        if job is None or job.state is State.FINISHED:
            return False
        if job.state is State.ERASING and all_deleted and not await self.scrubber.scrub(job_id):
            return False  # nobody is told that it is done while a file holds the key
        ordered_at = 0
        if job.state is State.ORDERED:  # nothing is destroyed before the log says that it was ordered
            ordered_at = (await self.outbox.deliver(job.event_id)).index
        if job.state is State.WAITING and engine.OURSELVES not in job.reported:
            await self.outbox.deliver(job.report_event_id)
        async with transaction(self.database) as conn:
            job = await job_store.job(conn, job_id, lock=True)
            if job is None or job.state is State.FINISHED:
                return False
            if job.state is State.ORDERED:
                destroyed = await self._destroy(conn, job, ordered_at)
            elif job.state is State.WAITING:
                return await self._look_for_reports(conn, job)
            else:
                return await self._delete(conn, job)
        self.keys.forget(destroyed)
        await self.scrubber.scrub(job_id)
        return True

    async def _destroy(self, conn: AsyncConnection, job: Job, ordered_at: int) -> list[UUID]:
        """Destroy the person's keys with every log's head held, so that each append is before or behind it."""
        destroyed: list[UUID] = []
        logs = await payload_store.logs_of(conn, job.tenant, self.environment)
        for log_id in logs:
            size = await payload_store.size_of(conn, log_id, lock=True)
            async with retaining(conn):
                destroyed += await payload_store.destroy_keys(conn, log_id, job.person)
            await job_store.set_range(conn, job.job_id, Range(log_id, 0, size))
            await job_store.set_seen(conn, job.job_id, log_id, ordered_at if log_id == logs[-1] else size)
        await job_store.set_job(conn, job.job_id, State.ERASING, deks=map(str, destroyed))
        return destroyed

    async def _delete(self, conn: AsyncConnection, job: Job) -> bool:
        """Delete one batch; after the last one say what was erased, in the same transaction."""
        late = job.state is State.SWEEPING
        for part in await job_store.ranges(conn, job.job_id):
            if part.done:
                continue
            batch = part.batch(self.batch_entries)
            deleted = await self._delete_batch(conn, job, batch)
            await job_store.set_range(conn, job.job_id, Range(part.log_id, batch.end_idx, part.end_idx))
            await job_store.set_job(conn, job.job_id, job.state, deleted=deleted)
            return True
        if not late:
            await self.outbox.put(conn, self._erased(job, job.deks, job.count))
            await job_store.set_job(conn, job.job_id, State.WAITING)
            return True
        await job_store.set_job(conn, job.job_id, State.FINISHED, finish_time_ms=self.clock())
        return False

    async def _delete_batch(self, conn: AsyncConnection, job: Job, batch: Range) -> int:
        await see(conn, batch.log_id)
        found = await payload_store.entries_with(conn, batch, engine.quoted(job.person))
        theirs = [
            one.index
            for one in found
            if engine.to_erase(parse_strict(one.entry), job.person, job.order_time_ms, job.deks)
        ]
        async with retaining(conn):
            return await payload_store.delete_payload(conn, batch.log_id, theirs)

    async def _look_for_reports(self, conn: AsyncConnection, job: Job) -> bool:
        """Read what the logs gained; once every service has reported, look for what came late."""
        reported = set(job.reported)
        seen = await job_store.seen(conn, job.job_id)
        sizes: dict[int, int] = {}
        for log_id in await payload_store.logs_of(conn, job.tenant, self.environment):
            sizes[log_id] = size = await payload_store.size_of(conn, log_id)
            await see(conn, log_id)
            needle = engine.quoted(job.job_id)
            news = await payload_store.entries_with(conn, Range(log_id, seen.get(log_id, 0), size), needle)
            reported |= {engine.erased_by(parse_strict(one.entry), job.job_id) for one in news} - {""}
            await job_store.set_seen(conn, job.job_id, log_id, size)
        waiting = bool(engine.missing(reported))
        await job_store.set_job(
            conn, job.job_id, State.WAITING if waiting else State.SWEEPING, reported=sorted(reported)
        )
        if waiting:
            return False
        known = {part.log_id: part.end_idx for part in await job_store.ranges(conn, job.job_id)}
        for log_id, size in sizes.items():
            await job_store.set_range(conn, job.job_id, Range(log_id, known.get(log_id, 0), size))
        return True

    def _erased(self, job: Job, deks: tuple[str, ...], count: int) -> ledger_pb2.NewEntry:
        now = self.clock()
        return new_entry(
            "payload.erased",
            {
                "job_id": job.job_id,
                "deks": list(deks),
                "count": count,
                "policy": engine.ERASURE_POLICY,
                "backup_horizon": engine.backup_horizon(now, self.backup_days).isoformat(),
            },
            event_id=job.report_event_id,
            event_time_ms=now,
            tenant=job.tenant,
            environment=self.environment,
            refs=[(job.event_id, "order")],
        )
