"""Reading an effect back: SUCCEEDED and ROLLED_BACK are said of what was looked at, never of what was sent."""

from typing import Any

from counterseal.documents.plan import Condition, Step
from counterseal.errors import ServiceError
from counterseal_executor import database as db
from counterseal_executor.connectors.base import Credential, TargetError, changed_precondition
from counterseal_executor.decisions import Decision
from counterseal_executor.events import Event
from counterseal_executor.logins import Need
from counterseal_executor.peers import READ
from counterseal_executor.plans import store
from counterseal_executor.plans.rows import AttemptRow
from counterseal_executor.plans.unit import change
from counterseal_executor.work.doubts import Later
from counterseal_executor.work.job import Job


async def read_back(job: Job, step: Step, *, undo: bool) -> None:
    """Read a step's effect (or its undo's) back and record the verdict. Raises Later when nothing can be read."""
    async with db.transaction(job.means.engine, job.lease.tenant) as conn:
        row = next(s for s in await store.steps_of(conn, job.lease.plan_id) if s.step_id == step.id)
        attempt = await store.attempt(conn, (row.current_attempt if undo else row.forward_attempt) or "")
    tool = job.tool(step, undo=undo)
    if tool.reads_only:
        # The answer of a read is its own read-back.
        await _record(job, step, attempt, ok=True, evidence={}, after=None)
        return
    output = (attempt.result or {}).get("output", {})
    try:
        decision = await _decision(job, undo=undo)
        credential = await _login(job, step, attempt, decision)
        call = job.call(step, attempt, before=attempt.before)
        verdict = await job.connector(step).verify(call, output, credential)
        ok, evidence = verdict.ok, dict(verdict.evidence)
        values = await _observed(job, step, attempt, credential)
    except (ServiceError, TargetError) as error:
        raise Later from error
    if ok and values is not None and not undo:
        missed = changed_precondition(_posts(step), values)
        if missed is not None:
            ok, evidence = False, {**evidence, "postcondition": missed}
    await _record(job, step, attempt, ok=ok, evidence=evidence, after=values if not undo else None)


async def guard_holds(job: Job, step: Step) -> bool:
    """Tell whether the target still is as the step left it: an undo never overwrites other people's work.

    Raises Later when nothing can be read. True where the tool names no values to compare.
    """
    async with db.transaction(job.means.engine, job.lease.tenant) as conn:
        row = next(s for s in await store.steps_of(conn, job.lease.plan_id) if s.step_id == step.id)
        forward = await store.attempt(conn, row.forward_attempt or "")
    after = (forward.result or {}).get("after")
    if after is None:
        return True
    try:
        decision = await job.authority.decision("COMPENSATE", 0)
        credential = await _login(job, step, forward, decision)
        values = await _observed(job, step, forward, credential)
    except (ServiceError, TargetError) as error:
        raise Later from error
    conditions = [Condition("tool_state", name, value) for name, value in after.items()]
    return values is None or changed_precondition(conditions, values) is None


async def _decision(job: Job, *, undo: bool) -> Decision:
    try:
        return await job.authority.decision("COMPENSATE" if undo else "COMMIT", 0)
    except ServiceError as error:
        if undo or error.reason == "CONTAINED":
            raise
        return await job.authority.decision("COMPENSATE", 0)


async def _login(job: Job, step: Step, attempt: AttemptRow, decision: Decision) -> Credential | None:
    need = Need(
        attempt.attempt_id,
        job.plan.body,
        decision,
        step.id,
        job.tool(step, undo=attempt.undo),
        job.target(step),
        await job.authority.token(),
        attempt.undo,
    )
    return await job.means.logins.read(need, step.timeout_seconds)


async def _observed(job: Job, step: Step, attempt: AttemptRow, credential: Credential | None) -> dict[str, Any] | None:
    tool = job.tool(step, undo=attempt.undo)
    if "tool_state" not in tool.pre_kinds or attempt.undo or (step.undoable is None and not _posts(step)):
        return None
    observation = await job.connector(step).observe(job.call(step, attempt), credential)
    return dict(observation.values)


def _posts(step: Step) -> tuple[Condition, ...]:
    return tuple(condition for condition in step.post if condition.kind == "tool_state")


async def _record(
    job: Job, step: Step, attempt: AttemptRow, *, ok: bool, evidence: dict[str, Any], after: dict[str, Any] | None
) -> None:
    async with change(
        job.means.engine, job.means.maker, job.lease.tenant, job.lease.plan_id, epoch=job.lease.epoch
    ) as unit:
        data = {"attempt_id": attempt.attempt_id, "verdict": "ok" if ok else "bad"}
        if attempt.undo:
            data["undoes"] = unit.steps[step.id].forward_attempt or ""
        sealed = {"evidence": evidence} if evidence else {}
        unit.record(Event("step.verified", data, sealed, step=step.id, attempt=attempt.n))
        unit.move_step(step.id, "readback_ok" if ok else "readback_bad", recorded=True)
        if not ok:
            unit.set_step(step.id, reason_code="PRECONDITION_CHANGED")
        if after is not None:
            await db.run(
                unit.conn,
                "UPDATE attempt SET result = :result WHERE attempt_id = :id",
                result=db.stored({**(attempt.result or {}), "after": after}),
                id=attempt.attempt_id,
            )
    job.means.signals.changed(job.lease.plan_id)


async def end_reads(job: Job, attempt_id: str) -> None:
    """Give back the read-only logins of an attempt; they end by themselves after 60 s."""
    try:
        await job.means.broker.revoke(attempt_id, job.lease.tenant, "DONE", READ)
    except ServiceError:
        return
