"""Plans, steps and attempts read from their rows."""

from typing import Any

from counterseal_executor import database as db
from counterseal_executor.plans.rows import AttemptRow, PlanRow, StepRow

PLAN_COLUMNS = """plan_id::text, tenant, plan_digest, body, rationale, idempotency_key, request_digest, subject, agent,
 agent_version, request_id, txn, scopes, not_before_time, expire_time, deadline_seconds, create_time, state,
 reason_code, halt_reason, decision, disclosed, seq, open_steps, committed_ack, cancel_requested, commit_time,
 deadline_time, end_time, lease_epoch, tries, next_try_time"""
STEP_COLUMNS = """step_id, position, tool, tool_digest, target, effect, state, logical_attempt, undo_logical_attempt,
 attempt_count, current_attempt::text, forward_attempt::text, reason_code, error_code, output, intent_event_id::text,
 outcome_event_id::text"""
ATTEMPT_COLUMNS = """attempt_id::text, plan_id::text, step_id, n, undo, tool_digest, effect_key, args,
 intent_event_id::text, start_time, timeout_seconds, grant_id::text, marker, before_image, result, revoke_time"""


def plan_row(row: Any) -> PlanRow:
    """Read a row selected by PLAN_COLUMNS."""
    values = row._mapping  # noqa: SLF001 (SQLAlchemy's documented accessor)
    return PlanRow(
        plan_id=values["plan_id"],
        tenant=values["tenant"],
        plan_digest=values["plan_digest"],
        body=bytes(values["body"]),
        rationale=None if values["rationale"] is None else bytes(values["rationale"]),
        idempotency_key=values["idempotency_key"],
        request_digest=values["request_digest"],
        subject=values["subject"],
        agent=values["agent"],
        agent_version=values["agent_version"],
        request_id=values["request_id"],
        txn=values["txn"],
        scopes=tuple(values["scopes"]),
        not_before_ms=db.ms_of(values["not_before_time"]),
        expire_ms=db.ms_of(values["expire_time"]) or 0,
        deadline_seconds=values["deadline_seconds"],
        create_ms=db.ms_of(values["create_time"]) or 0,
        state=values["state"],
        reason_code=values["reason_code"],
        halt_reason=values["halt_reason"],
        decision=db.loaded(values["decision"]),
        disclosed=values["disclosed"],
        seq=values["seq"],
        open_steps=values["open_steps"],
        committed_ack=values["committed_ack"],
        cancel_requested=values["cancel_requested"],
        commit_ms=db.ms_of(values["commit_time"]),
        deadline_ms=db.ms_of(values["deadline_time"]),
        end_ms=db.ms_of(values["end_time"]),
        lease_epoch=values["lease_epoch"],
        tries=values["tries"],
        next_try_ms=db.ms_of(values["next_try_time"]),
    )


def step_row(row: Any) -> StepRow:
    """Read a row selected by STEP_COLUMNS."""
    values = dict(row._mapping)  # noqa: SLF001 (SQLAlchemy's documented accessor)
    output = values.pop("output")
    return StepRow(output=None if output is None else bytes(output), **values)


def attempt_row(row: Any) -> AttemptRow:
    """Read a row selected by ATTEMPT_COLUMNS."""
    values = row._mapping  # noqa: SLF001 (SQLAlchemy's documented accessor)
    before = db.loaded(values["before_image"])
    return AttemptRow(
        attempt_id=values["attempt_id"],
        plan_id=values["plan_id"],
        step_id=values["step_id"],
        n=values["n"],
        undo=values["undo"],
        tool_digest=values["tool_digest"],
        effect_key=values["effect_key"],
        args=db.loaded(values["args"]) or {},
        intent_event_id=values["intent_event_id"],
        start_ms=db.ms_of(values["start_time"]) or 0,
        timeout_seconds=values["timeout_seconds"],
        grant_id=values["grant_id"],
        marker=db.loaded(values["marker"]),
        before=None if before is None else list(before["rows"]),
        result=db.loaded(values["result"]),
        revoked=values["revoke_time"] is not None,
    )
