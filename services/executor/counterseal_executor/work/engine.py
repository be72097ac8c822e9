"""What a worker does next with a plan. Pure: the plan's bytes and its rows in, one action out.

Order of concerns: first account for what may have happened (open steps), then read back what has, then stop if
something failed or somebody asked, and only then start something new. Undoing runs in reverse order of the DAG, so
that no undo runs under a standing dependent.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from counterseal.canonical import pointer
from counterseal.documents.plan import Plan, Undo, topological_order
from counterseal_executor.plans.rows import PlanRow, StepRow
from counterseal_executor.states import OPEN_STEPS, SELF_RESUMING, STANDING

Kind = Literal["settle", "run", "verify", "undo", "verify_undo", "move_plan", "move_step", "wait"]


@dataclass(frozen=True, slots=True)
class Action:
    """The next action: `event` for moves, `step_id` for what concerns a step, `reason_code` for the ledger."""

    kind: Kind
    step_id: str = ""
    event: str = ""
    reason_code: str = ""


WAIT = Action("wait")


def next_action(
    plan: Plan, row: PlanRow, steps: Mapping[str, StepRow], now_ms: int, stuck: Collection[str] = ()
) -> Action:
    """Return what to do now. stuck: open steps whose doubt this worker could not end; a person may have to."""
    open_steps = [step.step_id for step in steps.values() if step.state in OPEN_STEPS]
    for step_id in open_steps:
        if step_id not in stuck:
            return Action("settle", step_id)
    if row.state == "COMMITTED":
        return Action("move_plan", event="claim")
    if row.state == "RUNNING":
        return (
            Action("move_plan", event="in_doubt", reason_code="IN_DOUBT")
            if open_steps
            else _run(plan, row, steps, now_ms)
        )
    if row.state == "HALTED":
        return WAIT if open_steps else _resume(row, steps, now_ms)
    if row.state == "COMPENSATING":
        return Action("move_plan", event="comp_in_doubt", reason_code="IN_DOUBT") if open_steps else _undo(plan, steps)
    return WAIT


def _run(plan: Plan, row: PlanRow, steps: Mapping[str, StepRow], now_ms: int) -> Action:
    for step in steps.values():
        if step.state == "APPLIED":
            return Action("verify", step.step_id)
    failed = [step for step in steps.values() if step.state in ("NOT_APPLIED", "MISAPPLIED", "RESOLVED")]
    if failed:
        reason = failed[0].reason_code
        if plan.step(failed[0].step_id).on_fail == "hold":
            return Action("move_plan", event="hold", reason_code=reason)
        return Action(
            "move_plan", event="step_failed" if effects_stand(steps) else "failed_no_effect", reason_code=reason
        )
    if row.cancel_requested:
        return Action("move_plan", event="cancel")
    if all(step.state == "VERIFIED" for step in steps.values()):
        return Action("move_plan", event="all_verified")
    if row.deadline_ms is not None and now_ms >= row.deadline_ms:
        return Action("move_plan", event="deadline")
    for planned in topological_order(plan.steps):
        step = steps[planned.id]
        if step.state in ("PENDING", "READY") and all(steps[need].state == "VERIFIED" for need in planned.needs):
            return Action("run", step.step_id)
    return WAIT


def _resume(row: PlanRow, steps: Mapping[str, StepRow], now_ms: int) -> Action:
    if row.cancel_requested and row.halt_reason != "CONTAINED":
        return Action("move_plan", event="compensate" if effects_stand(steps) else "no_effects")
    due = row.next_try_ms is None or row.next_try_ms <= now_ms
    if (row.halt_reason in SELF_RESUMING and due) or row.halt_reason == "IN_DOUBT":
        return Action("move_plan", event="resume")
    return WAIT


def _undo(plan: Plan, steps: Mapping[str, StepRow]) -> Action:
    for step in steps.values():
        if step.state in ("PENDING", "READY"):
            return Action("move_step", step.step_id, "skip")
        if step.state == "UNDONE_UNVERIFIED":
            return Action("verify_undo", step.step_id)
    for step in steps.values():
        if step.state == "UNDO_FAILED":
            return Action("move_plan", event="comp_failed", reason_code=step.reason_code)
    for planned in reversed(topological_order(plan.steps)):
        step = steps[planned.id]
        if step.state == "UNDO_READY":
            return Action("undo", step.step_id)
        if step.state in STANDING:
            if planned.undoable is not None:
                return Action("move_step", step.step_id, "undo")
            # A read has nothing to undo; an irreversible write stays, and the plan says so at its end.
            return (
                Action("verify", step.step_id)
                if step.state == "APPLIED"
                else Action("move_step", step.step_id, "irreversible")
            )
    if any(step.state in ("KEPT", "RESOLVED") and step.effect != "E0" for step in steps.values()):
        return Action("move_plan", event="irreversible_left")
    if any(step.state == "COMPENSATED" for step in steps.values()):
        return Action("move_plan", event="all_compensated")
    return Action("move_plan", event="no_effects")


def effects_stand(steps: Mapping[str, StepRow]) -> bool:
    """Tell whether an effect of the plan is known to be at a target."""
    return any(step.state in STANDING and step.effect != "E0" for step in steps.values())


def undo_args(undo: Undo, before: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an undo's arguments with every `{"$before": "/pointer"}` replaced by that value of the before-image.

    Raises KeyError when the before-image holds nothing there.
    """
    return {key: _resolved(value, before) for key, value in undo.args.items()}


def _resolved(value: Any, before: list[dict[str, Any]]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"$before"} and isinstance(value["$before"], str):
            return pointer(before, value["$before"])
        return {key: _resolved(item, before) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, before) for item in value]
    return value


def visible_output(schema: Mapping[str, Any], sensitive: Collection[str], output: Any, where: str = "") -> Any:
    """Return an output without what the tool did not declare (default deny) and without what it marks sensitive."""
    if where in sensitive:
        return "[redacted]"
    if isinstance(output, dict):
        properties = schema.get("properties", {})
        return {
            key: visible_output(properties[key], sensitive, value, f"{where}/{key}")
            for key, value in output.items()
            if key in properties
        }
    if isinstance(output, list):
        items = schema.get("items", {})
        return [visible_output(items, sensitive, value, f"{where}/*") for value in output]
    return output
