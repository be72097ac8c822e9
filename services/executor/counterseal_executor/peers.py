"""The services that the executor calls, as it needs them: values in, values out, our own errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc
from counterseal.api.common.v1 import decision_pb2
from counterseal.api.credentials.v1 import grant_pb2, grant_pb2_grpc, token_pb2, token_pb2_grpc
from counterseal.api.policy.v1 import decision_pb2 as policy_pb2
from counterseal.api.policy.v1 import decision_pb2_grpc as policy_grpc
from counterseal.canonical import parse_strict
from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import NotFound
from counterseal.identity import TOKEN_METADATA_KEY
from counterseal.ids import new_id
from counterseal.rpc.status import from_rpc_error
from counterseal_executor.decisions import SUPPORTED_OBLIGATIONS, Decision

T = TypeVar("T")

PREVIEW = decision_pb2.DECISION_PURPOSE_PREVIEW
COMMIT = decision_pb2.DECISION_PURPOSE_COMMIT
COMPENSATE = decision_pb2.DECISION_PURPOSE_COMPENSATE
ANY = grant_pb2.GRANT_PURPOSE_UNSPECIFIED
READ, WRITE = grant_pb2.GRANT_PURPOSE_READ, grant_pb2.GRANT_PURPOSE_WRITE

CALL_SECONDS = 10.0
REVOKE_SECONDS = 20.0
MAX_READ_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """Policy's answer: what a reader sees of it, and the signed decision where there is one."""

    view: policy_pb2.Decision
    signed: decision_pb2.SignedDecision | None

    @property
    def outcome(self) -> str:
        """ALLOW, DENY or REQUIRE_APPROVAL."""
        name: str = decision_pb2.DecisionOutcome.Name(self.view.outcome)
        return name.removeprefix("DECISION_OUTCOME_")


class Policy:
    """Decisions about drafts and plans, asked under the token of whom they are for."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = policy_grpc.DecisionServiceStub(channel)

    async def decide(self, draft: bytes, digest: str, tools: Sequence[ToolDescriptor], token: str) -> Answer:
        """Ask whether a draft's targets may be read."""
        request = policy_pb2.DecideRequest(
            plan_draft=draft,
            plan_draft_digest=digest,
            tool_descriptors=[tool.body for tool in tools],
            supported_obligations=SUPPORTED_OBLIGATIONS,
        )
        answer = await _call(self._stub.Decide, request, token, "policy")
        return Answer(answer.decision, answer.signed_decision if answer.HasField("signed_decision") else None)

    async def authorize(
        self,
        plan: bytes,
        digest: str,
        purpose: Any,
        tools: Sequence[ToolDescriptor],
        rationale: bytes | None,
        token: str,
    ) -> Answer:
        """Ask about exact plan bytes."""
        request = policy_pb2.AuthorizePlanRequest(
            canonical_plan=plan,
            plan_digest=digest,
            purpose=purpose,
            tool_descriptors=[tool.body for tool in tools],
            rationale=rationale or b"",
            supported_obligations=SUPPORTED_OBLIGATIONS,
        )
        answer = await _call(self._stub.AuthorizePlan, request, token, "policy")
        return Answer(answer.decision, answer.signed_decision if answer.HasField("signed_decision") else None)


@dataclass(frozen=True, slots=True)
class Token:
    """A txn-token and when it ends."""

    text: str
    expire_time_ms: int


@dataclass(frozen=True, slots=True)
class Grant:
    """An issued grant."""

    grant_id: str
    expire_time_ms: int


@dataclass(frozen=True, slots=True)
class Wrapper:
    """Where to fetch a credential: a single-use token, the path that must have made it, the path to read."""

    token: str = field(repr=False)
    creation_path: str
    credential_path: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """What became of an attempt's grants: whether none ever left the broker, and whether all are verified dead."""

    never_redeemed: bool
    verified_dead: bool


class Broker:
    """Continuation tokens and grants."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._tokens = token_pb2_grpc.TokenServiceStub(channel)
        self._grants = grant_pb2_grpc.GrantServiceStub(channel)

    async def continuation(self, decision: Decision, plan: bytes) -> Token:
        """Exchange a signed decision for the token under which a worker acts; no bearer token is ever stored."""
        request = token_pb2.ExchangeTokenRequest(signed_decision=decision.wire(), canonical_plan=plan)
        answer = await _call(self._tokens.ExchangeToken, request, None, "credentials")
        return Token(answer.txn_token, answer.expire_time.ToMilliseconds())

    async def issue(
        self,
        *,
        purpose: Any,
        attempt_id: str,
        decision: Decision,
        plan: bytes,
        step_id: str,
        undo: bool,
        tool: ToolDescriptor,
        target: str,
        intent_event_id: str,
        ttl_seconds: int,
        token: str,
    ) -> Grant:
        """Create a grant. A WRITE grant is one per attempt and decision; each READ login has a grant of its own.

        A grant is redeemed once: recovery probes and then reads back in one attempt, and each needs a login.
        """
        kind = f"read:{new_id()}" if purpose == READ else "write"
        request = grant_pb2.IssueGrantRequest(
            idempotency_key=f"{attempt_id}:{kind}:{step_id}:{decision.statement.decision_id}",
            purpose=purpose,
            attempt_id=attempt_id,
            signed_decision=decision.wire(),
            plan=plan,
            step_id=step_id,
            undo=undo,
            tool_descriptor=tool.body,
            target=target,
            intent_event_id=intent_event_id,
            ttl=Duration(seconds=ttl_seconds),
        )
        answer = await _call(self._grants.IssueGrant, request, token, "credentials")
        return Grant(answer.grant_id, answer.expire_time.ToMilliseconds())

    async def redeem(self, grant_id: str, token: str) -> Wrapper:
        """Fetch the single-use wrapper; never log or store it."""
        request = grant_pb2.RedeemGrantRequest(grant_id=grant_id)
        answer = await _call(self._grants.RedeemGrant, request, token, "credentials")
        return Wrapper(answer.wrapping_token, answer.creation_path, answer.credential_path)

    async def report_lease(self, grant_id: str, lease_id: str) -> None:
        """Tell the broker which lease the read created."""
        request = grant_pb2.ReportLeaseRequest(grant_id=grant_id, lease_id=lease_id)
        await _call(self._grants.ReportLease, request, None, "credentials")

    async def revoke(
        self, attempt_id: str, tenant: str, reason: str, purpose: Any = None, *, seconds: float = REVOKE_SECONDS
    ) -> Revoked:
        """Revoke an attempt's grants and wait for verified death, up to `seconds`; leaves a tombstone unless READ."""
        request = grant_pb2.RevokeAttemptRequest(
            attempt_id=attempt_id, reason_code=reason, tenant=tenant, purpose=purpose or ANY
        )
        answer = await _call(self._grants.RevokeAttempt, request, None, "credentials", seconds=seconds)
        return Revoked(answer.never_redeemed, answer.verified_dead)


class Ledger:
    """What the ledger says about a tenant's log; what it is to hold goes through the outbox."""

    def __init__(self, channel: Callable[[], grpc.aio.Channel]) -> None:
        self._channel = channel

    async def unsigned_since(self, tenant: str, fresh_ms: int) -> int | None:
        """Return when the oldest entry that no checkpoint covers was taken (ms), or None when none is that old.

        fresh_ms: a checkpoint signed after this moment answers by itself: what it leaves out is younger. The age of
        the checkpoint alone would not do: an idle log's last one is old, and the entry after it may be new.
        Raises LedgerUnavailable.
        """
        stub = reader_pb2_grpc.LedgerReaderServiceStub(self._channel())
        signed = 0
        try:
            last = await _call(stub.GetCheckpoint, reader_pb2.GetCheckpointRequest(tenant=tenant), None, "audit")
            if last.size >= last.log_size or last.publish_time.ToMilliseconds() >= fresh_ms:
                return None
            signed = last.size
        except NotFound:
            pass  # nothing was signed yet, or there is no log
        try:
            first = await _call(stub.GetEntry, reader_pb2.GetEntryRequest(tenant=tenant, index=signed), None, "audit")
        except NotFound:
            return None
        received = int(parse_strict(first.entry.entry)["srv"]["receive_time_ms"])
        return received if received < fresh_ms else None


async def _call(method: Any, request: Any, token: str | None, peer: str, *, seconds: float = CALL_SECONDS) -> Any:
    metadata = () if token is None else ((TOKEN_METADATA_KEY, token),)
    try:
        return await method(request, metadata=metadata, timeout=seconds)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, peer=peer) from None
