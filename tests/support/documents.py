"""Small valid documents that tests vary."""

from typing import Any

from counterseal.documents.plan import Actor, Draft, Plan, ServerFields, StepFill, build_plan, parse_draft
from counterseal.documents.tool import ToolDescriptor, build_tool

DIGEST = "sha256:" + "ab" * 32
PLAN_ID = "0199d0a0-0000-7000-8000-000000000001"


def tool_document(**changes: Any) -> dict[str, Any]:
    """Return a tool document: an E3 write of the simulator, unless changed."""
    return {
        "v": 1,
        "name": "shop.refund",
        "version": "1.0.0",
        "title": "Refund",
        "description": "Refunds one charge.",
        "connector": {"kind": "sim", "config": {"op": "put"}},
        "input_schema": {
            "type": "object",
            "properties": {"charge_id": {"type": "string"}, "amount_minor": {"type": "integer", "minimum": 1}},
            "required": ["charge_id", "amount_minor"],
            "additionalProperties": False,
        },
        "output_schema": {
            "type": "object",
            "properties": {"refund_id": {"type": "string"}},
            "additionalProperties": False,
        },
        "effect": "E3",
        "reversibility": "R3",
        "residual_effects": [],
        "blast": {"records": 1},
        "preview": "none",
        "probe": True,
        "idempotency": {"kind": "none", "window_seconds": 0},
        "pre_kinds": ["tool_state"],
        "sensitive": [],
        "targets": ["shop"],
        "credential_role": "shop",
        "max_concurrency": 4,
        "open_world": False,
        **changes,
    }


def tool(**changes: Any) -> ToolDescriptor:
    """Return the descriptor of `tool_document`."""
    return build_tool(tool_document(**changes))


def draft_document(**changes: Any) -> dict[str, Any]:
    """Return a client's document with one step."""
    return {
        "v": 1,
        "objective": "Refund the broken kettle",
        "confidence_ppm": 950_000,
        "steps": [step_document()],
        **changes,
    }


def step_document(**changes: Any) -> dict[str, Any]:
    """Return one step of a client's document."""
    return {
        "id": "s1",
        "tool": "shop.refund@1.0.0",
        "target": "shop",
        "args": {"charge_id": "ch_1", "amount_minor": 1500},
        "undo": "none",
        **changes,
    }


def server_fields(draft: Draft, **changes: Any) -> ServerFields:
    """Return server fields for a draft, the same digest for every tool."""
    values: dict[str, Any] = {
        "plan_id": PLAN_ID,
        "nonce": "0f" * 16,
        "tenant": "acme",
        "environment": "prod",
        "request_id": "0199d0a0-0000-7000-8000-0000000000aa",
        "actor": Actor("user:ana", "refund-bot", "3.2.1", ({"sub": "refund-bot", "version": "3.2.1"},)),
        "taint": False,
        "rationale_digest": None,
        "policy_snapshot": None,
        "steps": {
            step.id: StepFill(DIGEST, (), None, None if step.undoable is None else DIGEST) for step in draft.steps
        },
        **changes,
    }
    return ServerFields(**values)


def plan(document: dict[str, Any] | None = None, **changes: Any) -> Plan:
    """Return a plan made of a client's document and server fields."""
    draft = parse_draft(document or draft_document())
    return build_plan(draft, server_fields(draft, **changes))
