"""One try of one step, forward or undo: intent, acknowledgement, credential, effect, outcome, revocation.

The order is the promise. Nothing is sent before the ledger has acknowledged the intent, nor, where that is configured,
anything irreversible before a signed checkpoint covers it; the grant's id is stored
before the grant is redeemed, so that whoever takes over knows what to revoke; and whatever goes wrong before the
connector is called is *not sent*, for sure, while everything after it is what the connector says, or unknown.
"""

import asyncio
import logging
import math
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.documents.effects import effect_key, output_digest, resolved_args_digest
from counterseal.documents.plan import Step
from counterseal.errors import Contained, ServiceError
from counterseal_executor import database as db
from counterseal_executor.connectors.base import Answer, Applied, Credential, Refused, Unknown
from counterseal_executor.containment import store as containment
from counterseal_executor.decisions import Decision
from counterseal_executor.events import Event
from counterseal_executor.logins import WITHOUT_CREDENTIAL, Need
from counterseal_executor.peers import WRITE
from counterseal_executor.plans import store
from counterseal_executor.plans.rows import AttemptRow
from counterseal_executor.plans.unit import Fenced, Unit, change
from counterseal_executor.states import SELF_RESUMING
from counterseal_executor.work.engine import undo_args, visible_output
from counterseal_executor.work.fence import AttemptFence
from counterseal_executor.work.job import Job

GRANT_MARGIN_SECONDS = 10
MAX_UNDO_TRIES = 3
REFUSED_FOR_GOOD = frozenset(
    {
        "INPUT_INVALID",
        "NOT_CANONICAL",
        "IDEMPOTENCY_KEY_REUSED",
        "PEER_NOT_ALLOWED",
        "ENVIRONMENT_MISMATCH",
        "LOG_FROZEN",
        "LOG_FORKED",
    }
)
NOT_SENT_CODES = frozenset({"FENCED", "LEASE_LOST", "CONTAINED"})

log = logging.getLogger(__name__)


class Halt(Exception):
    """The plan cannot go on now: `reason` is a HALTED reason, `event` the plan's transition.

    congested: nothing is broken, there are only too many at once; the next try comes soon instead of ever later.
    """

    def __init__(self, reason: str, event: str = "pause", *, congested: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.event = event
        self.congested = congested


@dataclass(frozen=True, slots=True)
class Try:
    """An intent that is durable here; `entry` is what the ledger is sent of it."""

    step: Step
    attempt: AttemptRow
    decision: Decision
    entry: ledger_pb2.NewEntry


async def perform(job: Job, step: Step, *, undo: bool) -> None:
    """Make one attempt of a step. Raises Fenced when the lease went elsewhere, Halt when the plan must pause."""
    purpose = "COMPENSATE" if undo else "COMMIT"
    checkpoint_wait = job.checkpoint_wait(job.tool(step, undo=undo))
    seconds = step.timeout_seconds + math.ceil(checkpoint_wait)
    decision = await job.authority.decision(purpose, seconds)
    try:
        started = await _intend(job, step, decision, undo=undo)
    except Contained:
        # The stop may be older than the plan's resumption: a decision that saw it says so by its epochs.
        decision = await job.authority.decision(purpose, seconds, fresh=True)
        started = await _intend(job, step, decision, undo=undo)
    if started is None:
        return
    try:
        acknowledged = await job.means.maker.outbox.deliver(started.attempt.intent_event_id)
        if checkpoint_wait:
            await job.means.checkpoints.cover(started.entry, acknowledged)
    except ServiceError as error:
        await _not_sent(job, started, error.reason)
        raise Halt(_ledger_halt(error.reason)) from None
    try:
        credential = await _borrow(job, started)
    except ServiceError as error:
        halt = _halt_of(error, aged=started.decision.has_aged(job.means.maker.clock()))
        revoked = await revoke(job, started.attempt, "DONE")
        await _not_sent(job, started, error.reason, revoked=revoked)
        raise halt from None
    if not job.lease.valid:
        raise Fenced
    answer = await _execute(job, started, credential)
    await _settle_answer(job, started, answer)


async def _intend(job: Job, step: Step, decision: Decision, *, undo: bool) -> Try | None:
    """tx1: under barrier and epoch, READY -> INTENT with its attempt and event. None: nothing to do any more."""
    tool = job.tool(step, undo=undo)
    async with change(
        job.means.engine, job.means.maker, job.lease.tenant, job.lease.plan_id, epoch=job.lease.epoch, barrier=True
    ) as unit:
        await containment.refuse_contained(unit.conn, decision.statement.epochs)
        row = unit.steps[step.id]
        if not undo and row.state == "PENDING":
            unit.move_step(step.id, "deps_met")
        args: dict[str, Any] = dict(step.args)
        undoes = ""
        if undo and step.undoable is not None:
            forward = await store.attempt(unit.conn, row.forward_attempt or "")
            undoes = forward.attempt_id
            try:
                args = undo_args(step.undoable, forward.before or [])
            except KeyError:
                unit.move_step(step.id, "guard_failed", reason_code="PRECONDITION_CHANGED", error_code="BEFORE_MISSING")
                return None
        logical = row.undo_logical_attempt if undo else row.logical_attempt
        attempt_id, number = job.means.maker.new_id(), row.attempt_count + 1
        salt = job.means.maker.randomness(16).hex()
        data = {
            "attempt_id": attempt_id,
            "tool": tool.name,
            "version": tool.version,
            "tool_digest": tool.digest,
            "effect": tool.effect,
            "target": step.target,
            "deadline_time_ms": unit.now_ms + step.timeout_seconds * 1000,
        } | ({"undoes": undoes} if undoes else {})
        sealed = {"args": args, "resolved_args_digest": resolved_args_digest(salt, args)}
        event_id = unit.record(Event("step.intent", data, sealed, step=step.id, attempt=number))
        unit.move_step(
            step.id,
            "undo_intent" if undo else "intent",
            recorded=True,
            attempt_count=number,
            current_attempt=attempt_id,
            intent_event_id=event_id,
        )
        attempt = AttemptRow(
            attempt_id=attempt_id,
            plan_id=job.lease.plan_id,
            step_id=step.id,
            n=number,
            undo=undo,
            tool_digest=tool.digest,
            effect_key=effect_key(job.plan.digest, step.id, logical, undo=undo),
            args=args,
            intent_event_id=event_id,
            start_ms=unit.now_ms,
            timeout_seconds=step.timeout_seconds,
            grant_id=None,
            marker=None,
            before=None,
            result=None,
            revoked=False,
        )
        await _insert(unit, attempt)
    job.means.signals.changed(job.lease.plan_id)
    return Try(step, attempt, decision, unit.entries[event_id])


async def _borrow(job: Job, started: Try) -> Credential | None:
    step, attempt = started.step, started.attempt
    need = Need(
        attempt.attempt_id,
        job.plan.body,
        started.decision,
        step.id,
        job.tool(step, undo=attempt.undo),
        job.target(step),
        await job.authority.token(),
        attempt.undo,
    )
    seconds = min(step.timeout_seconds + GRANT_MARGIN_SECONDS, _granted_most(started))
    if need.tool.reads_only:
        return await job.means.logins.read(need, seconds)
    grant = await job.means.logins.issue_write(need, attempt.intent_event_id, seconds)
    if grant is not None:
        async with db.transaction(job.means.engine, job.lease.tenant) as conn:
            await db.run(
                conn,
                "UPDATE attempt SET grant_id = :grant WHERE attempt_id = :id",
                grant=grant.grant_id,
                id=attempt.attempt_id,
            )
    return await job.means.logins.take_write(grant, need)


def _granted_most(started: Try) -> int:
    """Return the longest life that the decision's obligations leave a grant."""
    limits = [
        int(obligation.properties["seconds"])
        for obligation in started.decision.statement.step(started.step.id).obligations
        if obligation.type == "max_grant_ttl" and isinstance(obligation.properties.get("seconds"), int)
    ]
    return min([900, *limits])


async def _execute(job: Job, started: Try, credential: Credential | None) -> Answer:
    call = job.call(started.step, started.attempt)
    fence = AttemptFence(job, started.attempt.attempt_id, started.decision)
    connector = job.connector(started.step)
    try:
        async with asyncio.timeout(call.timeout_seconds + 2):
            return await connector.execute(call, credential, fence)  # the only line that can change the world
    except Exception as error:  # noqa: BLE001 (what raised may have happened: unknown)
        log.warning("a connector gave no answer", extra={"error": type(error).__name__})
        return Unknown(f"the connector ended in {type(error).__name__}")


async def _settle_answer(job: Job, started: Try, answer: Answer) -> None:
    """tx2: what the connector said, under the epoch. The revocation follows in any case, and nobody waits for it."""
    if isinstance(answer, Refused) and answer.error_code in NOT_SENT_CODES:
        await _not_sent(job, started, "CONTAINED" if answer.error_code == "CONTAINED" else "")
        await revoke(job, started.attempt, "DONE")
        return
    async with change(
        job.means.engine, job.means.maker, job.lease.tenant, job.lease.plan_id, epoch=job.lease.epoch
    ) as unit:
        await settle(job, unit, started.step, started.attempt, answer)
    job.means.maker.outbox.wake()
    job.means.signals.changed(job.lease.plan_id)


async def settle(job: Job, unit: Unit, step: Step, attempt: AttemptRow, answer: Answer) -> None:
    """Move a step by an answer to its attempt and record the outcome. For INTENT and UNDO_INTENT only."""
    tool = job.tool(step, undo=attempt.undo)
    if isinstance(answer, Applied):
        data, sealed = {"outcome": "applied"}, _output(job, tool, answer.output)
        visible = visible_output(tool.output_schema, tool.sensitive, dict(answer.output))
        outcome_id = _outcome(unit, step, attempt, data, sealed)
        unit.move_step(step.id, "ok", recorded=True, outcome_event_id=outcome_id, error_code="")
        unit.set_step(step.id, reason_code="")
        if not attempt.undo:
            unit.set_step(step.id, forward_attempt=attempt.attempt_id, output=db.stored(visible))
        unit.set_plan(tries=0)
        await keep_result(unit, attempt.attempt_id, list(map(dict, answer.before)), dict(answer.output))
    elif isinstance(answer, Refused):
        absent_is_done = attempt.undo and step.undoable is not None and step.undoable.if_exists
        if absent_is_done and answer.error_code == "ROWS_MISSING":
            await settle(job, unit, step, attempt, Applied({}, (), {}))
            return
        reason = "PRECONDITION_CHANGED" if answer.error_code == "PRECONDITION_CHANGED" else "TARGET_REFUSED"
        data = {"outcome": "not_applied", "reason_code": reason, "error_code": answer.error_code}
        outcome_id = _outcome(unit, step, attempt, data, {"error_detail": answer.message})
        again = answer.retryable and _tries_left(unit, step, attempt)
        unit.move_step(
            step.id,
            "retryable_refusal" if again else "refused",
            recorded=True,
            reason_code=reason,
            error_code=answer.error_code,
            outcome_event_id=outcome_id,
        )
        raise_logical(unit, step.id, undo=attempt.undo)
    else:
        outcome_id = _outcome(unit, step, attempt, {"outcome": "unknown"}, {"error_detail": answer.message})
        unit.move_step(step.id, "timeout", recorded=True, outcome_event_id=outcome_id)


async def _not_sent(job: Job, started: Try, reason: str, *, revoked: bool = False) -> None:
    """Record that nothing left this process for the attempt; the step is ready again."""
    async with change(
        job.means.engine, job.means.maker, job.lease.tenant, job.lease.plan_id, epoch=job.lease.epoch
    ) as unit:
        data = {"outcome": "not_sent"} | ({"reason_code": reason} if reason else {})
        outcome_id = _outcome(unit, started.step, started.attempt, data, {})
        unit.move_step(started.step.id, "not_sent", recorded=True, outcome_event_id=outcome_id)
        if revoked or job.target(started.step).kind in WITHOUT_CREDENTIAL:
            await mark_revoked(unit, started.attempt.attempt_id)
    job.means.signals.changed(job.lease.plan_id)


async def revoke(job: Job, attempt: AttemptRow, reason: str) -> bool:
    """Revoke an attempt's grants; returns whether every one is verified dead. A failure is left to the sweeper."""
    step = job.plan.step(attempt.step_id)
    if job.target(step).kind not in WITHOUT_CREDENTIAL:
        try:
            # After a write its read-back has begun to borrow under the same attempt; those logins end by `end_reads`.
            reading = job.tool(step, undo=attempt.undo).reads_only
            purpose = WRITE if reason == "DONE" and not reading else None
            answer = await job.means.broker.revoke(attempt.attempt_id, job.lease.tenant, reason, purpose)
        except ServiceError as error:
            log.warning("an attempt was not revoked yet", extra={"reason": error.reason})
            return False
        if not answer.verified_dead:
            return False
    async with db.transaction(job.means.engine, job.lease.tenant) as conn:
        await note_revoked(conn, attempt.attempt_id)
    return True


def raise_logical(unit: Unit, step_id: str, *, undo: bool) -> None:
    """Let the next attempt be another effect: called after a definite verdict only."""
    row = unit.steps[step_id]
    if undo:
        unit.set_step(step_id, undo_logical_attempt=row.undo_logical_attempt + 1)
    else:
        unit.set_step(step_id, logical_attempt=row.logical_attempt + 1)


async def keep_result(unit: Unit, attempt_id: str, before: list[dict[str, Any]], output: dict[str, Any]) -> None:
    """Store what an attempt found before and what came back; undo and read-back use them."""
    await db.run(
        unit.conn,
        "UPDATE attempt SET before_image = :before, result = :result WHERE attempt_id = :id",
        before=db.stored({"rows": before}),
        result=db.stored({"output": output}),
        id=attempt_id,
    )


async def mark_revoked(unit: Unit, attempt_id: str) -> None:
    """Note, in this change, that no credential of the attempt lives."""
    await note_revoked(unit.conn, attempt_id)


async def note_revoked(conn: AsyncConnection, attempt_id: str) -> None:
    """Note that every credential of an attempt is verified dead (or that there was none)."""
    await db.run(
        conn,
        "UPDATE attempt SET revoke_time = clock_timestamp() WHERE attempt_id = :id AND revoke_time IS NULL",
        id=attempt_id,
    )


def _outcome(unit: Unit, step: Step, attempt: AttemptRow, data: dict[str, Any], sealed: dict[str, Any]) -> str:
    event = Event(
        "step.outcome",
        {"attempt_id": attempt.attempt_id, "cost_minor": 0, "tainted": False, **data},
        sealed,
        step=step.id,
        attempt=attempt.n,
        refs=((attempt.intent_event_id, "intent"),),
    )
    return unit.record(event)


def _output(job: Job, tool: Any, output: Any) -> dict[str, Any]:
    visible = visible_output(tool.output_schema, tool.sensitive, dict(output))
    salt = job.means.maker.randomness(16).hex()
    summary: dict[str, Any] = {"digest": output_digest(salt, dict(output))}
    # An entry holds at most so much; a large output is represented by its digest alone.
    if len(db.stored(visible)) <= 64_000:
        summary["output"] = visible
    return {"output_summary": summary}


def _tries_left(unit: Unit, step: Step, attempt: AttemptRow) -> bool:
    row = unit.steps[step.id]
    if attempt.undo:
        return row.undo_logical_attempt < MAX_UNDO_TRIES
    return row.logical_attempt <= step.retry.max


async def _insert(unit: Unit, attempt: AttemptRow) -> None:
    await db.run(
        unit.conn,
        "INSERT INTO attempt (attempt_id, plan_id, step_id, n, undo, tool_digest, effect_key, args, intent_event_id,"
        " start_time, timeout_seconds) VALUES (:attempt_id, :plan_id, :step_id, :n, :undo, :tool_digest, :effect_key,"
        " :args, :intent_event_id, :start, :timeout)",
        attempt_id=attempt.attempt_id,
        plan_id=attempt.plan_id,
        step_id=attempt.step_id,
        n=attempt.n,
        undo=attempt.undo,
        tool_digest=attempt.tool_digest,
        effect_key=attempt.effect_key,
        args=db.stored(attempt.args),
        intent_event_id=attempt.intent_event_id,
        start=db.time_of(attempt.start_ms),
        timeout=attempt.timeout_seconds,
    )


def _ledger_halt(reason: str) -> str:
    """Return why a plan pauses whose intent the ledger did not take, or did not cover, for a reason."""
    # Only what the ledger will never take needs a person; any other failure is a ledger that did not answer.
    if reason in REFUSED_FOR_GOOD:
        return "OPERATOR"
    return reason if reason in SELF_RESUMING else "LEDGER_UNAVAILABLE"


def _halt_of(error: ServiceError, *, aged: bool = False) -> Halt:
    """Return why a plan pauses when no credential was to be had. aged: the decision had no life left by then."""
    if error.reason == "CONTAINED":
        return Halt("CONTAINED", "trip")
    if error.reason == "LEDGER_UNAVAILABLE":
        return Halt("LEDGER_UNAVAILABLE")
    if error.code == "RESOURCE_EXHAUSTED" or (error.reason == "DECISION_INVALID" and aged):
        # Slow is not wrong: the next try asks policy for a decision of its own.
        return Halt("CREDENTIALS_UNAVAILABLE", congested=True)
    if error.code == "UNAVAILABLE" or error.reason in ("PRIOR_GRANT_LIVE", "INTENT_MISSING"):
        return Halt("CREDENTIALS_UNAVAILABLE")
    if error.reason in ("DECISION_INVALID", "TOOL_CHANGED"):
        return Halt("POLICY_CHANGED")
    return Halt("CREDENTIALS_UNAVAILABLE")
