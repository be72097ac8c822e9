"""Plans, steps and attempts as values. Pure."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A plan. Times in milliseconds since 1970. `decision` is policy's latest answer as readers see it."""

    plan_id: str
    tenant: str
    plan_digest: str
    body: bytes
    rationale: bytes | None
    idempotency_key: str
    request_digest: str
    subject: str
    agent: str | None
    agent_version: str | None
    request_id: str
    txn: str
    scopes: tuple[str, ...]
    not_before_ms: int | None
    expire_ms: int
    deadline_seconds: int
    create_ms: int
    state: str
    reason_code: str
    halt_reason: str
    decision: dict[str, Any] | None
    disclosed: bool
    seq: int
    open_steps: int
    committed_ack: bool
    cancel_requested: bool
    commit_ms: int | None
    deadline_ms: int | None
    end_ms: int | None
    lease_epoch: int
    tries: int
    next_try_ms: int | None


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step. `current_attempt` is the latest try, `forward_attempt` the one whose effect stands or stood."""

    step_id: str
    position: int
    tool: str
    tool_digest: str
    target: str
    effect: str
    state: str
    logical_attempt: int
    undo_logical_attempt: int
    attempt_count: int
    current_attempt: str | None
    forward_attempt: str | None
    reason_code: str
    error_code: str
    output: bytes | None
    intent_event_id: str | None
    outcome_event_id: str | None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One try of one step. `marker` is set once the connector may commit; `before` and `result` once it is known."""

    attempt_id: str
    plan_id: str
    step_id: str
    n: int
    undo: bool
    tool_digest: str
    effect_key: str
    args: dict[str, Any]
    intent_event_id: str
    start_ms: int
    timeout_seconds: int
    grant_id: str | None
    marker: dict[str, Any] | None
    before: list[dict[str, Any]] | None
    result: dict[str, Any] | None
    revoked: bool
