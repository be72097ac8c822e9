"""What an agent does for one user request: propose, check the echo, commit, watch, wait."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from counterseal.api.common.v1 import decision_pb2
from counterseal.api.executor.v1 import plan_pb2, plan_pb2_grpc
from counterseal.canonical import JsonObject
from counterseal.client.connection import Connection
from counterseal.client.draft import Draft, verify_echo
from counterseal.client.tokens import Tokens
from counterseal.errors import ServiceError
from counterseal.ids import new_id

PROPOSE_SECONDS = 60.0
POLL_SECONDS = 0.25
REOPEN_REASONS = frozenset({"TOKEN_INVALID", "READER_TOO_SLOW"})


@dataclass(frozen=True, slots=True)
class Proposal:
    """An accepted or denied proposal. `body` are the exact plan bytes, empty on a denial; `document` is their JSON.

    The echo is verified: `document` is what was proposed plus the server's own fields.
    """

    plan_id: str
    plan_digest: str
    body: bytes
    document: JsonObject
    plan: plan_pb2.Plan

    @property
    def outcome(self) -> str:
        """`ALLOW`, `DENY` or `REQUIRE_APPROVAL`."""
        return outcome_name(self.plan.decision.outcome)

    @property
    def reason_codes(self) -> tuple[str, ...]:
        """Why, in the suite's reason codes and rules' own."""
        return tuple(self.plan.decision.reason_codes)


class AgentRequest:
    """One user request carried out by an agent. All calls carry its txn-token."""

    def __init__(self, connection: Connection, tokens: Tokens, request_id: str) -> None:
        self._connection = connection
        self._tokens = tokens
        self.request_id = request_id

    async def propose(self, draft: Draft, *, idempotency_key: str | None = None) -> Proposal:
        """Propose a plan and verify its echo.

        A denial is an answer, not an error: look at `outcome`. Raises ServiceError, EchoMismatch.
        """
        request = draft.request(idempotency_key or new_id())
        answer = await self._call("ProposePlan", request, seconds=PROPOSE_SECONDS, repeat=True)
        body = bytes(answer.canonical_plan)
        document = verify_echo(request, body, answer.plan_digest) if body else {}
        return Proposal(answer.plan_id, answer.plan_digest, body, document, answer.plan)

    async def verify(self, plan_id: str) -> plan_pb2.Plan:
        """Ask policy again about a proposed plan; changes nothing."""
        answer = await self._call("VerifyPlan", plan_pb2.VerifyPlanRequest(plan_id=plan_id), repeat=True)
        plan: plan_pb2.Plan = answer.plan
        return plan

    async def commit(self, plan_id: str, plan_digest: str, *, idempotency_key: str | None = None) -> plan_pb2.Plan:
        """Commit exactly the bytes of this digest. Raises ServiceError, such as ApprovalRequired."""
        request = plan_pb2.CommitPlanRequest(
            plan_id=plan_id, plan_digest=plan_digest, idempotency_key=idempotency_key or new_id()
        )
        answer = await self._call("CommitPlan", request, seconds=PROPOSE_SECONDS, repeat=True)
        plan: plan_pb2.Plan = answer.plan
        return plan

    async def get(self, plan_id: str) -> plan_pb2.GetPlanResponse:
        """Return a plan and its exact bytes."""
        answer: plan_pb2.GetPlanResponse = await self._call(
            "GetPlan", plan_pb2.GetPlanRequest(plan_id=plan_id), repeat=True
        )
        return answer

    async def cancel(self, plan_id: str) -> plan_pb2.Plan:
        """Withdraw a plan, or stop it after its commit: no new step starts, applied ones are compensated."""
        answer = await self._call("CancelPlan", plan_pb2.CancelPlanRequest(plan_id=plan_id))
        plan: plan_pb2.Plan = answer.plan
        return plan

    async def watch(self, plan_id: str, after_seq: int = 0) -> AsyncIterator[plan_pb2.WatchPlanResponse]:
        """Yield the plan's events, gapless, until the terminal one.

        The stream is opened again after its token expired or the service went away for a moment.
        """
        failures = 0
        while True:
            stub = plan_pb2_grpc.PlanServiceStub(self._connection.channel("executor"))
            request = plan_pb2.WatchPlanRequest(plan_id=plan_id, after_seq=after_seq)
            token = await self._tokens.get()
            try:
                async for event in self._connection.stream("executor", stub.WatchPlan, request, token=token):
                    failures = 0
                    if event.type:
                        after_seq = event.seq
                        yield event
                    if event.terminal:
                        return
            except ServiceError as error:
                failures += 1
                if (error.reason not in REOPEN_REASONS and error.code != "UNAVAILABLE") or failures > 40:
                    raise
            await asyncio.sleep(min(2.0, POLL_SECONDS * (1 + failures)))

    async def wait(self, plan_id: str, *, seconds: float = 120.0) -> plan_pb2.Plan:
        """Wait until a committed plan has ended and return it; raises TimeoutError when it has not by then."""
        async with asyncio.timeout(seconds):
            while True:
                async for _ in self.watch(plan_id):
                    pass
                plan = (await self.get(plan_id)).plan
                if plan.terminal:
                    return plan
                await asyncio.sleep(POLL_SECONDS)

    async def run(self, draft: Draft, *, seconds: float = 120.0) -> plan_pb2.Plan:
        """Propose, commit and wait, for plans that need no approval. A denied plan is returned as it is.

        Raises ServiceError (ApprovalRequired), EchoMismatch, TimeoutError.
        """
        proposal = await self.propose(draft)
        if proposal.outcome == "DENY":
            return proposal.plan
        await self.commit(proposal.plan_id, proposal.plan_digest)
        return await self.wait(proposal.plan_id, seconds=seconds)

    async def _call(self, name: str, request: object, *, seconds: float = 30.0, repeat: bool = False) -> Any:
        stub = plan_pb2_grpc.PlanServiceStub(self._connection.channel("executor"))
        token = await self._tokens.get()
        return await self._connection.call(
            "executor", getattr(stub, name), request, token=token, seconds=seconds, repeat=repeat
        )


def outcome_name(outcome: "decision_pb2.DecisionOutcome.ValueType") -> str:
    """Return `ALLOW`, `DENY`, `REQUIRE_APPROVAL` or `UNSPECIFIED`."""
    return decision_pb2.DecisionOutcome.Name(outcome).removeprefix("DECISION_OUTCOME_")
