"""Calls, fences and descriptors for connector tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from counterseal.documents.plan import Condition
from counterseal.documents.tool import ToolDescriptor, build_tool
from counterseal_executor.connectors.base import Attempt, Call, Target

CONTEXT = {"subject": "user:ana", "tenant": "acme", "environment": "prod", "agent": "bot", "request_id": "r-1"}
ANY_OBJECT = {"type": "object", "additionalProperties": False}


@dataclass
class RecordingFence:
    """Remembers markers; raises `error` instead when there is one."""

    error: Exception | None = None
    markers: list[Mapping[str, Any]] = field(default_factory=list)

    async def before_commit(self, marker: Mapping[str, Any]) -> None:
        if self.error is not None:
            raise self.error
        self.markers.append(marker)


def tool(kind: str, config: Mapping[str, Any], *, effect: str = "E3", name: str = "bank.withdraw") -> ToolDescriptor:
    reads = effect == "E0"
    return build_tool(
        {
            "v": 1,
            "name": name,
            "version": "1.0.0",
            "title": "A tool",
            "description": "A tool of a test.",
            "connector": {"kind": kind, "config": dict(config)},
            "input_schema": ANY_OBJECT,
            "output_schema": ANY_OBJECT,
            "effect": effect,
            "reversibility": "R0" if reads else "R2",
            "residual_effects": [],
            "blast": {"records": 0 if reads else 1},
            "preview": "none",
            "probe": effect == "E3",
            "idempotency": {"kind": "key" if effect == "E2" else "none", "window_seconds": 60 if effect == "E2" else 0},
            "pre_kinds": ["tool_state"],
            "sensitive": [],
            "targets": ["bank"],
            "credential_role": "bank",
            "max_concurrency": 4,
            "open_world": False,
        }
    )


def call(
    descriptor: ToolDescriptor,
    target: Target,
    args: Mapping[str, Any],
    *,
    pre: Mapping[str, Any] | None = None,
    before: Sequence[Mapping[str, Any]] | None = None,
    key: str = "effect-1",
    timeout_seconds: float = 10.0,
) -> Call:
    conditions = tuple(Condition("tool_state", ref, value) for ref, value in (pre or {}).items())
    return Call("attempt-1", key, descriptor, target, args, conditions, CONTEXT, before, timeout_seconds)


def attempt(made: Call, fence: RecordingFence) -> Attempt:
    marker = fence.markers[-1] if fence.markers else None
    return Attempt(made.attempt_id, made.effect_key, made.tool, made.target, marker, 10.0)
