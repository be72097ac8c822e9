"""`DecisionService`: wire forms to values and back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from counterseal.api.common.v1 import decision_pb2 as common
from counterseal.api.policy.v1 import decision_pb2 as pb
from counterseal.api.policy.v1 import decision_pb2_grpc
from counterseal.errors import InputInvalid, ServiceError
from counterseal.identity import current_caller
from counterseal.rpc.interceptor import OnRefused, Refusal
from counterseal_policy.decisions.decider import Answer, Decider, PlanQuestion
from counterseal_policy.decisions.outcome import StepEvaluation

_SERVICE = "/counterseal.api.policy.v1.DecisionService"
_PURPOSES = {
    common.DECISION_PURPOSE_PREVIEW: "PREVIEW",
    common.DECISION_PURPOSE_COMMIT: "COMMIT",
    common.DECISION_PURPOSE_COMPENSATE: "COMPENSATE",
}
_PURPOSE = {name: value for value, name in _PURPOSES.items()}
_OUTCOME = {
    "ALLOW": common.DECISION_OUTCOME_ALLOW,
    "DENY": common.DECISION_OUTCOME_DENY,
    "REQUIRE_APPROVAL": common.DECISION_OUTCOME_REQUIRE_APPROVAL,
}


class DecisionService(decision_pb2_grpc.DecisionServiceServicer):
    """See the proto. A denial is a successful response; an error means that no decision was made."""

    def __init__(self, decider: Decider, on_refused: OnRefused) -> None:
        self._decider = decider
        self._on_refused = on_refused

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:
        """Decide about a draft."""
        async with self._recorded(f"{_SERVICE}/Decide"):
            answer = await self._decider.decide_draft(
                current_caller(),
                request.plan_draft,
                request.plan_draft_digest,
                list(request.tool_descriptors),
                frozenset(request.supported_obligations),
            )
        return pb.DecideResponse(decision=to_wire(answer), signed_decision=_signed(answer))

    async def AuthorizePlan(self, request: pb.AuthorizePlanRequest, context: Any) -> pb.AuthorizePlanResponse:
        """Decide about exact plan bytes."""
        purpose = _PURPOSES.get(request.purpose)
        if purpose is None:
            raise InputInvalid("purpose is required")
        question = PlanQuestion(
            body=request.canonical_plan,
            digest=request.plan_digest,
            purpose=purpose,
            descriptors=list(request.tool_descriptors),
            previews=list(request.previews),
            rationale=request.rationale,
            supported_obligations=frozenset(request.supported_obligations),
            snapshot_id=request.snapshot_id,
        )
        async with self._recorded(f"{_SERVICE}/AuthorizePlan"):
            answer = await self._decider.authorize(current_caller(), question)
        return pb.AuthorizePlanResponse(decision=to_wire(answer), signed_decision=_signed(answer))

    @asynccontextmanager
    async def _recorded(self, method: str) -> AsyncIterator[None]:
        """A question that cannot be judged at all leaves a `call.refused` entry: a decision was asked for."""
        try:
            yield
        except ServiceError as error:
            if error.code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "PERMISSION_DENIED"):
                caller = current_caller()
                names = (caller.tenant, caller.request_id, caller.agent)
                await self._on_refused(Refusal(method, caller.peer, error.reason, *names))
            raise


def to_wire(answer: Answer) -> pb.Decision:
    """Return a decision as the contract has it."""
    evaluation = answer.evaluation
    expire = Timestamp()
    expire.FromMilliseconds(answer.expire_time_ms)
    return pb.Decision(
        decision_id=answer.decision_id,
        purpose=_PURPOSE[answer.purpose],
        outcome=_OUTCOME[evaluation.outcome],
        reason_codes=evaluation.reason_codes,
        rules=evaluation.rules,
        snapshot_id=answer.snapshot_id,
        steps=[_step(step) for step in evaluation.steps if not step.undo],
        class_level=evaluation.class_level,
        task_id=answer.task_id or "",
        card_digest=answer.card_digest or "",
        safer_alternative=evaluation.safer_alternative or "",
        expire_time=expire,
    )


def _step(step: StepEvaluation) -> pb.StepDecision:
    return pb.StepDecision(
        step_id=step.id,
        outcome=_OUTCOME[step.outcome],
        class_level=step.class_level,
        reason_codes=step.reason_codes,
        obligations=sorted({owed.type for owed in step.obligations}),
    )


def _signed(answer: Answer) -> common.SignedDecision | None:
    if answer.signed is None:
        return None
    return common.SignedDecision(
        statement=answer.signed.statement, signature=answer.signed.signature, key=answer.signed.key
    )
