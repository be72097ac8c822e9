"""One task as the agent does it: each call is a plan that is proposed, committed and seen to its end."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from examples.retail.catalogue import draft
from examples.retail.workload import Action, Task

from counterseal.client import AgentRequest, EchoMismatch
from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import InputInvalid, ServiceError
from counterseal.ids import new_id

PLAN_SECONDS = 120.0
PATIENT_TRIES = 60
PATIENT_PAUSE_SECONDS = 1.0
RECORD_TRIES = 100
RECORD_PAUSE_SECONDS = 0.1
T = TypeVar("T")

RETRYING = ("UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
REFUSING = ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "PERMISSION_DENIED", "UNAUTHENTICATED", "NOT_FOUND")
"""Errors that say no to this call; any other is a fault of ours, which refuses nothing."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """What became of one call. `refused`: it was said no to, for the reasons. `done`: the plan ended SUCCEEDED."""

    action: Action
    decision: str
    reason_codes: tuple[str, ...]
    plan_digest: str
    refused: bool
    done: bool
    state: str
    intent_index: int | None = None
    outcome_index: int | None = None

    @property
    def as_reference(self) -> bool:
        """Whether it was refused exactly when it had to be, with a reason, and else done."""
        if self.action.refused is not None:
            return self.refused and bool(self.reason_codes)
        return self.done


async def run_task(request: AgentRequest, tools: Mapping[str, ToolDescriptor], task: Task) -> list[CallResult]:
    """Run a task's calls in order, each after the end of the one before."""
    return [await run_call(request, tools, action) for action in task.actions]


async def run_call(request: AgentRequest, tools: Mapping[str, ToolDescriptor], action: Action) -> CallResult:
    """Run one call; never raises for what a service answers, nor for what the task file holds."""
    plan_digest = ""
    try:
        key = new_id()
        plan = draft(tools, action.tool, action.args)
        proposal = await _patiently(lambda: request.propose(plan, idempotency_key=key))
        plan_digest = proposal.plan_digest
        if proposal.outcome != "ALLOW":
            return _no(action, proposal.outcome, proposal.reason_codes, plan_digest, proposal.plan.state)
        await _patiently(lambda: request.commit(proposal.plan_id, plan_digest, idempotency_key=key))
        ended = await _patiently(lambda: request.wait(proposal.plan_id, seconds=PLAN_SECONDS))
        left = await _recorded(request, ended)
    except ServiceError as error:
        return refused_by(action, error, plan_digest)
    except UnicodeError:  # half of a surrogate pair in a tool's name: it cannot even be sent
        return _no(action, "DENY", (InputInvalid.reason,), plan_digest, "NOT_SENT")
    except (TimeoutError, EchoMismatch) as error:
        state = type(error).__name__
        return CallResult(action, "NONE", (), plan_digest, refused=False, done=False, state=state)
    return _ended(action, left, tuple(left.decision.reason_codes) or proposal.reason_codes)


def refused_by(action: Action, error: ServiceError, plan_digest: str = "") -> CallResult:
    """Return what an error makes of a call: a refusal, or a fault that refuses nothing."""
    if error.code in REFUSING:
        return _no(action, "DENY", (error.reason,), plan_digest, error.reason)
    return CallResult(action, "NONE", (error.reason,), plan_digest, refused=False, done=False, state=error.reason)


async def _recorded(request: AgentRequest, plan: Any) -> Any:
    """Return the ended plan once the ledger has acknowledged its outcome too; the outbox may need a moment."""
    for _ in range(RECORD_TRIES):
        step = plan.steps[0]
        if not step.outcome_event_id or step.HasField("outcome_index"):
            return plan
        await asyncio.sleep(RECORD_PAUSE_SECONDS)
        plan = (await _patiently(partial(request.get, plan.plan_id))).plan
    return plan


async def _patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call that reads or carries an idempotency key, while its error says that a repeat may help.

    A service that was just restarted needs some seconds; what was committed before is found again by its key.
    """
    for _ in range(PATIENT_TRIES):
        try:
            return await work()
        except ServiceError as error:
            if error.next_action != "RETRY" and error.code not in RETRYING:
                raise
        await asyncio.sleep(PATIENT_PAUSE_SECONDS)
    return await work()


def _no(action: Action, decision: str, reasons: tuple[str, ...], plan_digest: str, state: str) -> CallResult:
    return CallResult(action, decision, reasons, plan_digest, refused=True, done=False, state=state)


def _ended(action: Action, plan: Any, reasons: tuple[str, ...]) -> CallResult:
    step = plan.steps[0]
    refused = plan.state in ("REJECTED", "FAILED_NO_EFFECT")
    codes = tuple(code for code in (plan.reason_code, step.reason_code, step.error_code) if code)
    return CallResult(
        action,
        "ALLOW",
        codes if refused else reasons,
        plan.plan_digest,
        refused=refused,
        done=plan.state == "SUCCEEDED",
        state=plan.state,
        intent_index=step.intent_index if step.HasField("intent_index") else None,
        outcome_index=step.outcome_index if step.HasField("outcome_index") else None,
    )
