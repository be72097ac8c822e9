"""The decision card: the compact record that a person reads before approving. Pure; same record, same bytes.

Two parts that never mix: `ours` holds what this service computed from bytes, catalogue and rules; `claimed_by_agent` is
the agent's word. The summary is a template over named facts, never prose of a model. The nonce keeps the digest from
confirming a guess of the content. Renderings escape control, bidi and invisible characters: that is the CLI's part.
"""

from collections.abc import Mapping
from typing import Any

from counterseal.canonical import JsonObject, canonical, digest
from counterseal.documents.plan import Plan
from counterseal.documents.tool import ToolDescriptor
from counterseal_policy.decisions.assembler import Request
from counterseal_policy.decisions.intake import Descriptors
from counterseal_policy.decisions.outcome import Evaluation, StepEvaluation

KIND = "decision-card"


def build_card(
    plan: Plan,
    tools: Descriptors,
    request: Request,
    evaluation: Evaluation,
    *,
    decision_id: str,
    snapshot_id: str,
    nonce: str,
    rationale: str | None,
) -> tuple[bytes, str, str]:
    """Return the card's canonical bytes, its digest and its summary. nonce: 128 random bits in lower-case hex."""
    top = max(evaluation.steps, key=lambda step: step.class_level)
    text = summary(plan, request, evaluation)
    document: JsonObject = {
        "v": 1,
        "nonce": nonce,
        "plan_digest": plan.digest,
        "decision_id": decision_id,
        "snapshot_id": snapshot_id,
        "summary": text,
        "ours": {
            "tenant": request.tenant,
            "environment": request.environment,
            "subject": request.subject,
            "agent": request.agent,
            "agent_version": request.agent_version,
            "stage": f"S{evaluation.stage}",
            "class": {"level": evaluation.class_level, "set_by": top.class_source, "step": top.id},
            "blast_radius": _blast(plan, tools, evaluation),
            "steps": [_step(step, tools) for step in evaluation.steps],
            "approvals_needed": [
                {"source": need.source, "reason": need.reason, "need": need.need, "roles": list(need.roles)}
                for need in evaluation.requirements
            ],
            "obligations": [
                {"type": owed.type, "properties": dict(owed.properties)} for owed in evaluation.obligations
            ],
            "constraints": dict(request.constraints),
            "taint": request.taint,
            "previews": [
                {"step": step.id, "digest": step.preview_digest} for step in plan.steps if step.preview_digest
            ],
            "limits": [],
        },
        "claimed_by_agent": _claims(plan, rationale),
    }
    body = canonical(document)
    return body, digest(KIND, body), text


def summary(plan: Plan, request: Request, evaluation: Evaluation) -> str:
    """Return one line over named facts: who, for whom, what, class, amounts."""
    who = request.agent or "a person"
    calls = ", ".join(f"{step.tool} on {step.target}" for step in plan.steps[:4])
    more = len(plan.steps) - 4
    calls += f" and {more} more" if more > 0 else ""
    amounts = _amounts(evaluation)
    moved = f"; {', '.join(f'{key} {value}' for key, value in sorted(amounts.items()))}" if amounts else ""
    taint = "; under untrusted input" if request.taint else ""
    return f"{who} for {request.subject}: {calls} (C{evaluation.class_level}){moved}{taint}"[:1000]


def _amounts(evaluation: Evaluation) -> dict[str, int]:
    sums: dict[str, int] = {}
    for step in evaluation.steps:
        if step.undo:
            continue
        for name, value in step.facts.num.items():
            unit = step.facts.text.get("currency") if name.endswith("_minor") else None
            key = f"{name}.{unit}" if unit else name
            sums[key] = sums.get(key, 0) + value
    return sums


def _blast(plan: Plan, tools: Descriptors, evaluation: Evaluation) -> JsonObject:
    used = [tools[step.tool] for step in plan.steps]
    records = [tool.blast_records for tool in used]
    return {
        "step_count": len(plan.steps),
        "records": None if any(count is None for count in records) else sum(count or 0 for count in records),
        "targets": sorted({step.target for step in plan.steps}),
        # As text: a sum of exact integers may lie beyond what every reader's numbers hold.
        "amounts": {key: str(value) for key, value in _amounts(evaluation).items()},
        "effect": max(tool.effect for tool in used),
        "reversibility": max(tool.reversibility for tool in used),
        "compensable": all(step.undoable is not None or tools[step.tool].reads_only for step in plan.steps),
        "residual_effects": sorted({residue for tool in used for residue in tool.residual_effects}),
    }


def _step(step: StepEvaluation, tools: Descriptors) -> JsonObject:
    tool: ToolDescriptor = tools[step.tool]
    return {
        "id": step.id,
        "undo": step.undo,
        "tool": step.tool,
        "tool_digest": tool.digest,
        "title": tool.title,
        "effect": tool.effect,
        "reversibility": tool.reversibility,
        "class": {"level": step.class_level, "set_by": step.class_source},
        "outcome": step.outcome,
        "reason_codes": list(step.reason_codes),
        "rules": [
            {"rule": item.name, "effect": item.effect, "verdict": item.verdict, "cause": item.cause}
            for item in step.verdicts
            if not item.shadow
        ],
        "facts": facts_document(step),
    }


def facts_document(step: StepEvaluation) -> JsonObject:
    """Return a step's facts as they were judged, for the card and the record."""
    facts: dict[str, Mapping[str, Any]] = {
        "num": step.facts.num,
        "text": step.facts.text,
        "flag": step.facts.flag,
        "list": {name: list(values) for name, values in step.facts.list.items()},
    }
    document: JsonObject = {kind: dict(values) for kind, values in facts.items() if values}
    if step.facts.resource_id is not None:
        document["resource_id"] = step.facts.resource_id
    return document


def _claims(plan: Plan, rationale: str | None) -> JsonObject:
    content = plan.content
    claims: JsonObject = {
        "objective": content.objective,
        "constraints": list(content.constraints),
        "selected_plan": [
            {"id": step.id, "tool": step.tool, "target": step.target, "args": dict(step.args)} for step in plan.steps
        ],
        "rejected_alternatives": list(content.rejected_alternatives),
        "data_sources": list(content.data_sources),
        "confidence_ppm": content.confidence_ppm,
        "confidence_method": content.confidence_method,
        "unverified": list(content.unverified),
    }
    if content.model is not None:
        claims["model"] = {
            "provider": content.model.provider,
            "id": content.model.id,
            "version": content.model.version,
        }
    if rationale is not None:
        claims["rationale"] = rationale
    return claims
