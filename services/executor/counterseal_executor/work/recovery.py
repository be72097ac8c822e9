"""The loop in every executor that finds plans without an owner, expires proposals, and ends forgotten credentials.

One-shot recovery at start leaves plans stuck: every process looks all the time, and a released plan carries the time
before which nobody needs to look at it again.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import sqlalchemy as sa

from counterseal.documents.effects import commit_event_id
from counterseal.errors import IdempotencyKeyReused, LedgerUnavailable, ServiceError
from counterseal_executor import database as db
from counterseal_executor.plans.rows import PlanRow
from counterseal_executor.plans.unit import Fenced, change
from counterseal_executor.work import attempts
from counterseal_executor.work.driver import Driver
from counterseal_executor.work.job import Means, open_job
from counterseal_executor.work.lease import Lease, Leases

MIN_PAUSE_SECONDS = 0.2
FORGOTTEN_SECONDS = 60
FAILED_PAUSE_SECONDS = 10.0
CLOSE_SECONDS = 5.0

log = logging.getLogger(__name__)


class Recovery:
    """Owns the workers of this process."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._leases = Leases(means.engine, means.owner, means.config.lease_seconds)
        self._slots = asyncio.Semaphore(means.config.max_workers)
        self._tasks: set[asyncio.Task[None]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    def start(self, row: PlanRow) -> None:
        """Take up a plan that was just committed or changed, without waiting for the loop."""
        self._track(self._take_up(row))

    async def loop(self, stopping: asyncio.Event) -> None:
        """Look for work until `stopping`; then wait for the workers, which end at their next step."""
        while not stopping.is_set():
            try:
                await self._look()
            except (sa.exc.SQLAlchemyError, OSError) as error:
                log.warning("recovery could not look", extra={"error": type(error).__name__})
            try:
                async with asyncio.timeout(self._means.config.recovery_seconds):
                    await stopping.wait()
            except TimeoutError:
                continue

    def stop(self) -> None:
        """Let every worker end after what it is doing, and take up nothing more."""
        self._closing.set()

    async def close(self) -> None:
        """Let every worker end after what it is doing; who does not in time is cut off and taken over later."""
        self.stop()
        if self._tasks or self._background:
            await asyncio.wait([*self._tasks, *self._background], timeout=CLOSE_SECONDS)
        for task in [*self._tasks, *self._background]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._background, return_exceptions=True)

    async def _look(self) -> None:
        if not self._means.restore.current:
            return
        await self._expire()
        await self._end_forgotten()
        while not self._slots.locked() and not self._closing.is_set():
            await self._slots.acquire()  # before the claim: a lease that waits for a slot would run out unrenewed
            lease = await self._leases.claim()
            if lease is None:
                self._slots.release()
                return
            self._track(self._drive(lease))

    async def _take_up(self, row: PlanRow) -> None:
        if self._closing.is_set() or not self._means.restore.current:
            return
        if row.state == "COMMITTED":
            try:
                await self._means.maker.outbox.deliver(commit_event_id(row.plan_digest))
            except LedgerUnavailable:
                return  # the relay delivers it, the loop takes the plan up then
            except IdempotencyKeyReused:
                return  # the outbox has told the restore check, which judges it
        if self._slots.locked():
            return  # the loop of whoever has room takes it
        await self._slots.acquire()
        lease = await self._leases.claim(row.plan_id)
        if lease is None:
            self._slots.release()
        else:
            await self._drive(lease)

    async def _drive(self, lease: Lease) -> None:
        """Drive a claimed plan in a slot that is already ours."""
        done = asyncio.Event()
        keeper = asyncio.create_task(self._leases.keep(lease, done))
        pause = FAILED_PAUSE_SECONDS
        try:
            job = await open_job(self._means, lease)
            pause = await Driver(job, self._background, self._closing).run()
        except Fenced:
            lease.lose()
        except ServiceError as error:
            log.warning("a plan cannot go on", extra={"plan_id": lease.plan_id, "reason": error.reason})
        except Exception:
            # One plan's fault must not stop the others; it is looked at again, and its age is alarmed on.
            log.exception("a worker failed", extra={"plan_id": lease.plan_id})
        finally:
            self._slots.release()
            done.set()
        await keeper
        await self._leases.release(lease, max(pause, MIN_PAUSE_SECONDS))

    async def _expire(self) -> None:
        async with db.transaction(self._means.engine, db.EVERY_TENANT) as conn:
            found = await db.rows(
                conn,
                "SELECT tenant, plan_id::text FROM plan WHERE state = 'PROPOSED' AND expire_time < clock_timestamp()"
                " LIMIT 100",
            )
        for tenant, plan_id in found:
            async with change(self._means.engine, self._means.maker, tenant, plan_id) as unit:
                if unit.plan.state == "PROPOSED":
                    unit.move_plan("expire", reason_code="PLAN_EXPIRED")

    async def _end_forgotten(self) -> None:
        """Revoke what a crash left: attempts that are long over and whose credentials nobody saw die."""
        async with db.transaction(self._means.engine, db.EVERY_TENANT) as conn:
            found = await db.rows(
                conn,
                "SELECT a.attempt_id::text, p.tenant, p.plan_id::text FROM attempt a JOIN plan p USING (plan_id)"
                " JOIN step s ON s.plan_id = a.plan_id AND s.step_id = a.step_id"
                " WHERE a.revoke_time IS NULL AND NOT (s.current_attempt = a.attempt_id"
                " AND s.state IN ('INTENT', 'UNDO_INTENT', 'IN_DOUBT', 'UNDO_IN_DOUBT'))"
                " AND a.start_time < clock_timestamp() - make_interval(secs => :age + a.timeout_seconds) LIMIT 20",
                age=FORGOTTEN_SECONDS,
            )
        for attempt_id, tenant, plan_id in found:
            await self._end_one(attempt_id, tenant, plan_id)

    async def _end_one(self, attempt_id: str, tenant: str, plan_id: str) -> None:
        try:
            answer = await self._means.broker.revoke(attempt_id, tenant, "EXPIRED")
        except ServiceError as error:
            log.warning("an old attempt was not revoked yet", extra={"plan_id": plan_id, "reason": error.reason})
            return
        if answer.verified_dead:
            async with db.transaction(self._means.engine, tenant) as conn:
                await attempts.note_revoked(conn, attempt_id)

    def _track(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
