"""Ending doubt: fence the credential, then ask what happened. Never "retry because the lease expired".

Killing the old attempt's credential, not an epoch in our own database, is what stops a zombie's second effect. So the
order is: revoke until *verified dead*, then the verdict. What was never redeemed was never sent. Where nothing can be
asked, a person says.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from counterseal.documents.plan import Step
from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import ServiceError
from counterseal_executor import database as db
from counterseal_executor.connectors.base import Attempt, Probe, TargetError
from counterseal_executor.decisions import Decision
from counterseal_executor.events import Event
from counterseal_executor.logins import WITHOUT_CREDENTIAL, Need
from counterseal_executor.plans import store
from counterseal_executor.plans.rows import AttemptRow
from counterseal_executor.plans.unit import Unit, change
from counterseal_executor.work.attempts import keep_result, mark_revoked, raise_logical
from counterseal_executor.work.job import Job

WAIT_MARGIN_MS = 1_000
KEY_MARGIN_MS = 30_000


class Later(Exception):
    """The doubt cannot be ended now: the broker, policy or the target does not answer. Try again after a pause."""


async def end_doubt(job: Job, step: Step) -> bool:
    """Account for one open step; returns False when only a person can. Raises Later, Fenced."""
    async with db.transaction(job.means.engine, job.lease.tenant) as conn:
        row = next(s for s in await store.steps_of(conn, job.lease.plan_id) if s.step_id == step.id)
        attempt = await store.attempt(conn, row.current_attempt or "")
    never_redeemed = await _fence(job, step, attempt)
    if row.state in ("INTENT", "UNDO_INTENT"):
        async with _change(job) as unit:
            await mark_revoked(unit, attempt.attempt_id)
            if never_redeemed:
                _outcome(unit, step, attempt, "not_sent")
                return True
            _outcome(unit, step, attempt, "unknown")
    elif not attempt.revoked:
        async with _change(job) as unit:
            await mark_revoked(unit, attempt.attempt_id)
    return await _verdict(job, step, attempt)


async def _fence(job: Job, step: Step, attempt: AttemptRow) -> bool:
    """Return once no credential of the attempt can act any more; tells whether none ever left the broker."""
    if attempt.revoked:
        return False
    if job.target(step).kind in WITHOUT_CREDENTIAL:
        # Nothing to revoke: wait until whoever sent it must have given up.
        seconds = attempt.timeout_seconds + job.checkpoint_wait(job.tool(step, undo=attempt.undo)) + 2
        ends = attempt.start_ms + int(seconds * 1000) + WAIT_MARGIN_MS
        pause = ends - job.means.maker.clock()
        if pause > 0 and attempt.marker is not None:
            await asyncio.sleep(min(pause / 1000, seconds + 1))
        return False
    try:
        answer = await job.means.broker.revoke(attempt.attempt_id, job.lease.tenant, "RECOVERY")
    except ServiceError as error:
        raise Later from error
    if not answer.verified_dead:
        raise Later
    return answer.never_redeemed


async def _verdict(job: Job, step: Step, attempt: AttemptRow) -> bool:
    tool = job.tool(step, undo=attempt.undo)
    async with db.transaction(job.means.engine, job.lease.tenant) as conn:
        attempt = await store.attempt(conn, attempt.attempt_id)  # the marker may have come after the first look
    probe = await _ask(job, step, attempt, tool)
    if probe is Probe.CANNOT_TELL:
        return False
    async with _change(job) as unit:
        applied = probe is Probe.APPLIED
        data = {
            "attempt_id": attempt.attempt_id,
            "verdict": "applied" if applied else "not_applied",
            "method": "probe",
        }
        unit.record(
            Event("step.resolved", data, step=step.id, attempt=attempt.n, refs=((attempt.intent_event_id, "intent"),))
        )
        await resolve(unit, step, attempt, applied=applied, keep_key=_repeats_key(job, tool, attempt))
    job.means.maker.outbox.wake()
    return True


async def resolve(unit: Unit, step: Step, attempt: AttemptRow, *, applied: bool, keep_key: bool = False) -> None:
    """Move a step in doubt by a verdict, in the caller's change; the caller records it."""
    if applied:
        if attempt.undo:
            unit.move_step(step.id, "probe_undone", recorded=True)
        else:
            unit.move_step(step.id, "probe_applied", recorded=True)
            unit.set_step(step.id, forward_attempt=attempt.attempt_id, reason_code="", error_code="")
        # An undo's read-back asks for what its write answered as well, and only the marker still knows that.
        marker: Mapping[str, Any] = attempt.marker or {}
        output = marker.get("output")
        await keep_result(
            unit, attempt.attempt_id, list(marker.get("before") or []), output if isinstance(output, dict) else {}
        )
    else:
        unit.move_step(step.id, "probe_not_undone" if attempt.undo else "probe_absent", recorded=True)
        if not keep_key:
            raise_logical(unit, step.id, undo=attempt.undo)


async def _ask(job: Job, step: Step, attempt: AttemptRow, tool: ToolDescriptor) -> Probe:
    if attempt.marker is None or tool.reads_only:
        return Probe.ABSENT  # a connector sends nothing that lasts before the marker is stored
    if _repeats_key(job, tool, attempt):
        return Probe.ABSENT  # the target itself knows the key: sending it again is the question and the answer
    if not tool.probe and tool.effect != "E1":
        return Probe.CANNOT_TELL
    purpose = "COMPENSATE" if attempt.undo else "COMMIT"
    target = job.target(step)
    try:
        decision = await _decision(job, purpose)
        need = Need(
            attempt.attempt_id,
            job.plan.body,
            decision,
            step.id,
            tool,
            target,
            await job.authority.token(),
            attempt.undo,
        )
        credential = await job.means.logins.read(need, step.timeout_seconds)
        if tool.probe:
            return await job.connector(step).probe(
                Attempt(
                    attempt.attempt_id, attempt.effect_key, tool, target, attempt.marker, float(step.timeout_seconds)
                ),
                credential,
            )
        # E1 without a probe: an absolute write happened exactly if the world is as it says.
        output = attempt.marker.get("output")
        verdict = await job.connector(step).verify(
            job.call(step, attempt), output if isinstance(output, dict) else {}, credential
        )
    except (ServiceError, TargetError) as error:
        raise Later from error
    return Probe.APPLIED if verdict.ok else Probe.ABSENT


async def _decision(job: Job, purpose: str) -> Decision:
    """Return a decision to read under; where the commit's is no longer given, undoing still may look."""
    try:
        return await job.authority.decision(purpose, 0)
    except ServiceError as error:
        if purpose == "COMPENSATE" or error.reason == "CONTAINED":
            raise
        return await job.authority.decision("COMPENSATE", 0)


def _repeats_key(job: Job, tool: ToolDescriptor, attempt: AttemptRow) -> bool:
    """Whether the target still honours the attempt's key, so that sending it again cannot do it twice."""
    ends = attempt.start_ms + tool.idempotency.window_seconds * 1000 - KEY_MARGIN_MS
    return tool.effect == "E2" and job.means.maker.clock() < ends


def _change(job: Job) -> AbstractAsyncContextManager[Unit]:
    return change(job.means.engine, job.means.maker, job.lease.tenant, job.lease.plan_id, epoch=job.lease.epoch)


def _outcome(unit: Unit, step: Step, attempt: AttemptRow, outcome: str) -> None:
    data = {"attempt_id": attempt.attempt_id, "outcome": outcome, "cost_minor": 0, "tainted": False}
    event_id = unit.record(
        Event("step.outcome", data, step=step.id, attempt=attempt.n, refs=((attempt.intent_event_id, "intent"),))
    )
    event = "not_sent" if outcome == "not_sent" else "lease_lost"
    unit.move_step(step.id, event, recorded=True, outcome_event_id=event_id)
