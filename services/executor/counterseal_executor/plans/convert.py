"""Plans between their rows and the wire."""

from collections.abc import Mapping, Sequence
from typing import Any

from counterseal.api.common.v1 import decision_pb2
from counterseal.api.executor.v1 import plan_pb2
from counterseal_executor.peers import Answer
from counterseal_executor.plans.rows import PlanRow, StepRow
from counterseal_executor.plans.store import WatchEvent
from counterseal_executor.states import PLAN_TERMINAL


def decision_view(answer: Answer) -> dict[str, Any]:
    """Return what is kept of policy's answer for readers."""
    view = answer.view
    return {
        "decision_id": view.decision_id,
        "outcome": answer.outcome,
        "reason_codes": list(view.reason_codes),
        "rules": list(view.rules),
        "task_id": view.task_id,
        "card_digest": view.card_digest,
        "snapshot_id": view.snapshot_id,
        "safer_alternative": view.safer_alternative,
        "class_level": view.class_level,
    }


def plan_message(plan: PlanRow, steps: Sequence[StepRow], indices: Mapping[str, int]) -> plan_pb2.Plan:
    """Return a plan as a reader sees it. indices: event id -> ledger index of what the ledger acknowledged."""
    message = plan_pb2.Plan(
        plan_id=plan.plan_id,
        plan_digest=plan.plan_digest,
        state=plan.state,
        reason_code=plan.reason_code,
        steps=[_step(step, indices) for step in steps],
        agent=plan.agent or "",
        request_id=plan.request_id,
        seq=plan.seq,
        terminal=plan.state in PLAN_TERMINAL,
    )
    message.create_time.FromMilliseconds(plan.create_ms)
    if plan.commit_ms is not None:
        message.commit_time.FromMilliseconds(plan.commit_ms)
    if plan.end_ms is not None:
        message.end_time.FromMilliseconds(plan.end_ms)
    if plan.decision is not None:
        message.decision.CopyFrom(_decision(plan.decision))
    return message


def event_message(event: WatchEvent) -> plan_pb2.WatchPlanResponse:
    """Return one event of Watch."""
    message = plan_pb2.WatchPlanResponse(
        seq=event.seq,
        type=event.type,
        step_id=event.step_id,
        data_json=event.data,
        event_id=event.event_id,
        state=event.state,
        terminal=event.state in PLAN_TERMINAL,
    )
    message.event_time.FromMilliseconds(event.event_time_ms)
    return message


def event_ids(steps: Sequence[StepRow]) -> list[str]:
    """Return the ids of the events whose ledger index a reader is shown."""
    return [item for step in steps for item in (step.intent_event_id, step.outcome_event_id) if item is not None]


def _decision(view: Mapping[str, Any]) -> plan_pb2.PlanDecision:
    return plan_pb2.PlanDecision(
        **{key: value for key, value in view.items() if key != "outcome"},
        outcome=decision_pb2.DecisionOutcome.Value(f"DECISION_OUTCOME_{view['outcome']}"),
    )


def _step(step: StepRow, indices: Mapping[str, int]) -> plan_pb2.Step:
    message = plan_pb2.Step(
        id=step.step_id,
        tool=step.tool,
        target=step.target,
        state=step.state,
        attempt_count=step.attempt_count,
        reason_code=step.reason_code,
        error_code=step.error_code,
        output_json=step.output or b"",
        intent_event_id=step.intent_event_id or "",
        outcome_event_id=step.outcome_event_id or "",
    )
    intent, outcome = indices.get(step.intent_event_id or ""), indices.get(step.outcome_event_id or "")
    if intent is not None:
        message.intent_index = intent
    if outcome is not None:
        message.outcome_index = outcome
    return message
