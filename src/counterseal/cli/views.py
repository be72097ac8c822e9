"""How plans, decisions, tasks and trips look to people and as JSON."""

from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from counterseal.api.executor.v1 import plan_pb2
from counterseal.api.policy.v1 import approval_pb2
from counterseal.canonical import parse_strict
from counterseal.cli import exits
from counterseal.cli.output import shown
from counterseal.client import outcome_name

FAILED_STATES = frozenset(
    {"ROLLED_BACK", "FAILED_NO_EFFECT", "CANCELLED", "WITHDRAWN", "EXPIRED", "RESOLVED", "HALTED"}
)


def as_json(message: Message) -> dict[str, Any]:
    """Return a message as JSON with the proto's own field names."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def plan_json(plan: plan_pb2.Plan) -> dict[str, Any]:
    """Return a plan as JSON; outputs are JSON values, not bytes."""
    document = as_json(plan)
    for step, source in zip(document.get("steps", []), plan.steps, strict=True):
        if source.output_json:
            step["output"] = parse_strict(source.output_json)
        step.pop("output_json", None)
    if "decision" in document:
        document["decision"]["outcome"] = outcome_name(plan.decision.outcome)
    return document


def plan_lines(plan: plan_pb2.Plan) -> list[str]:
    """Return a plan for a person."""
    decision = plan.decision
    lines = [
        f"plan      {shown(plan.plan_id)}",
        f"digest    {shown(plan.plan_digest)}",
        f"state     {shown(plan.state)}" + (f" ({shown(plan.reason_code)})" if plan.reason_code else ""),
    ]
    if plan.HasField("decision"):
        codes = ", ".join(decision.reason_codes) or "-"
        rules = f" by {', '.join(decision.rules)}" if decision.rules else ""
        lines.append(f"decision  {outcome_name(decision.outcome)}: {shown(codes + rules)}")
        if decision.task_id:
            lines.append(f"approval  task {shown(decision.task_id)}, card {shown(decision.card_digest)}")
        if decision.safer_alternative:
            lines.append(f"instead   {shown(decision.safer_alternative)}")
    for step in plan.steps:
        why = " ".join(filter(None, (step.reason_code, step.error_code)))
        where = ""
        if step.HasField("intent_index"):
            where = f"  leaves {step.intent_index}"
            where += f", {step.outcome_index}" if step.HasField("outcome_index") else ""
        line = f"  {step.id:<8} {step.tool} -> {step.target}  {step.state}{f' ({why})' if why else ''}{where}"
        lines.append(shown(line))
    return lines


def plan_exit(plan: plan_pb2.Plan) -> int:
    """Return the exit code that a plan's state stands for."""
    if plan.state == "NEEDS_ATTENTION" or any(step.state == "IN_DOUBT" for step in plan.steps):
        return exits.IN_DOUBT
    if plan.state == "SUCCEEDED":
        return exits.OK
    if plan.state in FAILED_STATES:
        return exits.REFUSED
    if plan.state == "REJECTED":
        return exits.DENIED
    return decision_exit(plan) if plan.HasField("decision") else exits.OK


def decision_exit(plan: plan_pb2.Plan) -> int:
    """Return the exit code of policy's answer: 0 allow, 5 deny, 6 approval pending."""
    codes = {"ALLOW": exits.OK, "DENY": exits.DENIED, "REQUIRE_APPROVAL": exits.APPROVAL_PENDING}
    return codes.get(outcome_name(plan.decision.outcome), exits.OK)


def task_line(task: approval_pb2.ApprovalTask) -> str:
    """Return a task in one line."""
    state = approval_pb2.ApprovalState.Name(task.state).removeprefix("APPROVAL_STATE_")
    votes = sum(vote.approved for vote in task.votes)
    need = max((requirement.need for requirement in task.requirements), default=0)
    return shown(f"{task.task_id}  {state}  {votes}/{need}  {task.agent} for {task.subject}: {task.summary}")


def moment(message: Message, name: str) -> str:
    """Return a timestamp field as text, `not yet` when it is absent."""
    return getattr(message, name).ToJsonString() if message.HasField(name) else "not yet"
