"""Driving one owned plan: look, do the next thing, look again, until there is nothing to do."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import sqlalchemy as sa

from counterseal.errors import Contained, PolicyChanged, ServiceError, WrongState
from counterseal_executor import database as db
from counterseal_executor import states
from counterseal_executor.events import Event
from counterseal_executor.logins import WITHOUT_CREDENTIAL
from counterseal_executor.plans import store
from counterseal_executor.plans.unit import Fenced, Unit, change
from counterseal_executor.work import attempts, readback
from counterseal_executor.work.doubts import Later, end_doubt
from counterseal_executor.work.engine import Action, next_action
from counterseal_executor.work.job import Job, look

MAX_PAUSE_SECONDS = 60.0
CONGESTED_SECONDS = 4.0
"""Until the next try when too many credentials were out at once: about what a few steps take."""

log = logging.getLogger(__name__)


class Driver:
    """Works on one plan until it ends, waits for somebody, or goes to another worker."""

    def __init__(self, job: Job, background: "set[asyncio.Task[None]]", closing: asyncio.Event) -> None:
        self._job = job
        self._closing = closing
        self._stuck: set[str] = set()
        self._background = background

    async def run(self) -> float:
        """Drive the plan; returns for how many seconds nobody needs to look at it again."""
        while not self._closing.is_set():
            row, steps = await look(self._job)
            action = next_action(self._job.plan, row, steps, self._job.means.maker.clock(), self._stuck)
            if action.kind == "wait":
                return MAX_PAUSE_SECONDS if self._stuck else 0.0
            try:
                await self._do(action)
            except attempts.Halt as halt:
                await self._halt(halt.event, halt.reason, congested=halt.congested)
            except Contained:
                await self._halt("trip", "CONTAINED")
            except PolicyChanged:
                await self._halt("pause", "POLICY_CHANGED")
            except WrongState:
                continue  # somebody moved the plan in between; look again
            except Later:
                return _pause(row.tries)
            except ServiceError as error:
                log.warning("a plan waits for a service", extra={"plan_id": row.plan_id, "reason": error.reason})
                return _pause(row.tries)
        return 0.0

    async def _do(self, action: Action) -> None:
        job, kind = self._job, action.kind
        if kind == "settle":
            if not await end_doubt(job, job.plan.step(action.step_id)):
                await self._doubt_remains(action.step_id)
        elif kind in ("run", "undo"):
            await self._attempt(action.step_id, undo=kind == "undo")
        elif kind in ("verify", "verify_undo"):
            await readback.read_back(job, job.plan.step(action.step_id), undo=kind == "verify_undo")
            await self._reads_end(action.step_id)
        elif kind == "move_step":
            async with self._change() as unit:
                unit.move_step(action.step_id, action.event, reason_code=action.reason_code)
        else:
            await self._move(action)

    async def _attempt(self, step_id: str, *, undo: bool) -> None:
        job = self._job
        step = job.plan.step(step_id)
        if undo and not await readback.guard_holds(job, step):
            async with self._change() as unit:
                unit.move_step(step_id, "guard_failed", reason_code="PRECONDITION_CHANGED")
            return
        _, steps = await look(job)
        refusals = steps[step_id].logical_attempt - 1
        if refusals and steps[step_id].error_code and not undo:
            await asyncio.sleep(min(step.retry.backoff_seconds * 2 ** (refusals - 1), MAX_PAUSE_SECONDS))
        await attempts.perform(job, step, undo=undo)
        self._spawn(self._revoke(step_id))

    async def _doubt_remains(self, step_id: str) -> None:
        """Nobody can be asked. A plan that is being undone may undo something that is perhaps not there."""
        self._stuck.add(step_id)
        undo = self._job.plan.step(step_id).undoable
        async with self._change() as unit:
            step = unit.steps[step_id]
            if unit.plan.state == "COMPENSATING" and step.state == "IN_DOUBT" and undo is not None and undo.if_exists:
                unit.set_step(step_id, forward_attempt=step.current_attempt)
                unit.move_step(step_id, "undo_if_exists")

    async def _move(self, action: Action) -> None:
        async with self._change() as unit:
            before, event = unit.plan.state, action.event
            if event in ("all_verified", "failed_no_effect"):
                _close_steps(unit)
            after = states.after_plan(before, event)
            if after == "COMPENSATING":
                cause = action.reason_code or event
                count = sum(s.state in states.STANDING and s.effect != "E0" for s in unit.steps.values())
                unit.move_plan(event, reason_code=action.reason_code, recorded=True)
                unit.record(Event("compensation.started", {"cause": cause, "step_count": count}))
                return
            if before == "COMPENSATING":
                unit.record(Event("compensation.ended", _undone(unit, after)))
            unit.move_plan(event, reason_code=action.reason_code)
        self._job.means.maker.outbox.wake()
        self._job.means.signals.changed(self._job.lease.plan_id)

    async def _halt(self, event: str, reason: str, *, congested: bool = False) -> None:
        """Pause the plan where its state allows; one that is being undone needs a person instead.

        Pauses are scattered: plans that were stopped together must not come back together.
        """
        async with self._change() as unit:
            tries = unit.plan.tries + (0 if congested else 1)
            scatter = self._job.means.maker.randomness(1)[0] / 255
            pause = CONGESTED_SECONDS if congested else _pause(tries - 1)
            if event not in states.PLAN.get(unit.plan.state, {}):
                event = "comp_failed" if unit.plan.state == "COMPENSATING" and reason == "POLICY_CHANGED" else ""
            if event:
                unit.move_plan(event, reason_code=reason)
            unit.set_plan(tries=tries, next_try_ms=unit.now_ms + int(pause * (0.75 + 0.5 * scatter) * 1000))
        self._job.means.maker.outbox.wake()
        self._job.means.signals.changed(self._job.lease.plan_id)
        if not event:
            raise Later

    async def _revoke(self, step_id: str) -> None:
        """End the attempt's credential, whatever became of it; the recovery loop repeats what fails here."""
        job = self._job
        async with db.transaction(job.means.engine, job.lease.tenant) as conn:
            row = next(s for s in await store.steps_of(conn, job.lease.plan_id) if s.step_id == step_id)
            attempt = await store.attempt(conn, row.current_attempt or "")
        if not attempt.revoked:
            await attempts.revoke(job, attempt, "DONE")

    async def _reads_end(self, step_id: str) -> None:
        job = self._job
        if job.target(job.plan.step(step_id)).kind in WITHOUT_CREDENTIAL:
            return
        _, steps = await look(job)
        attempt_id = steps[step_id].current_attempt
        if attempt_id is not None and not job.tool(job.plan.step(step_id), undo=False).reads_only:
            self._spawn(readback.end_reads(job, attempt_id))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.create_task(_quietly(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _change(self) -> AbstractAsyncContextManager[Unit]:
        job = self._job
        if not job.lease.valid:
            raise Fenced
        return change(job.means.engine, job.means.maker, job.lease.tenant, job.lease.plan_id, epoch=job.lease.epoch)


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except (ServiceError, sa.exc.SQLAlchemyError, OSError) as error:
        log.warning("background work of a plan failed", extra={"error": type(error).__name__})


def _pause(tries: int) -> float:
    """Return the growing pause before the next look, in seconds."""
    return float(min(MAX_PAUSE_SECONDS, 2 ** min(tries, 6)))


def _close_steps(unit: Unit) -> None:
    """Bring every step to its terminal state: what is verified is kept, what never ran is skipped."""
    for step_id, step in unit.steps.items():
        if step.state == "VERIFIED":
            unit.move_step(step_id, "plan_done")
        elif step.state in ("PENDING", "READY"):
            unit.move_step(step_id, "skip")


def _undone(unit: Unit, after: str) -> dict[str, object]:
    return {
        "state": after,
        "compensated_count": sum(s.state == "COMPENSATED" for s in unit.steps.values()),
        "failed_count": sum(
            s.state == "UNDO_FAILED" or (s.state in ("KEPT", "RESOLVED") and s.effect != "E0")
            for s in unit.steps.values()
        ),
    }
