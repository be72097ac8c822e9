"""Every error that a service answers with, and every reason code of the suite. Knows no gRPC.

    ServiceError
      PERMISSION_DENIED
        TenantMismatch EnvironmentMismatch ApproverIneligible PeerNotAllowed ContextMismatch RoleRequired
      NOT_FOUND
        UnknownTool NotFound
      INVALID_ARGUMENT
        InputInvalid NotCanonical PlanInvalid
      FAILED_PRECONDITION
        Contained ApprovalRequired PolicyChanged PlanDigestMismatch CardDigestMismatch PlanBytesNeeded
        PlanExpired PreconditionChanged ToolChanged WrongState SnapshotMismatch SecondPersonRequired
        DecisionInvalid IntentMissing AttemptRevoked PriorGrantLive InDoubt StoppedByOperator FactsErased
        LogFrozen LogForked AnchorMissing StateBehindLedger
      RESOURCE_EXHAUSTED
        ApprovalQueueFull GrantLimit QueueFull ReaderTooSlow
      UNAUTHENTICATED
        TokenInvalid TokenRevoked
      ALREADY_EXISTS
        IdempotencyKeyReused
      ABORTED
        VersionMismatch
      UNAVAILABLE
        PolicyUnavailable CredentialsUnavailable ExecutorUnavailable LedgerUnavailable CheckpointStale
        ContainmentStale SealUnavailable BreakerOpen
      INTERNAL
        InternalError

An error means that no decision was made, which every client treats as a denial. A denial itself is a successful
response that carries reason codes.
"""

from collections.abc import Mapping
from typing import ClassVar

NEXT_ACTION: Mapping[str, str] = {
    "ALLOWED_BY_RULE": "NONE",
    "APPROVED": "NONE",
    "NO_MATCHING_ALLOW": "NONE",
    "DENIED_BY_RULE": "NONE",
    "CONSTRAINT_VIOLATED": "NONE",
    "RULE_INDETERMINATE": "NONE",
    "TENANT_MISMATCH": "NONE",
    "ENVIRONMENT_MISMATCH": "NONE",
    "UNKNOWN_TOOL": "NONE",
    "INPUT_INVALID": "NONE",
    "OBLIGATION_UNSUPPORTED": "NONE",
    "NO_ACTIVE_POLICY": "NONE",
    "APPROVAL_UNVERIFIABLE": "NONE",
    "APPROVER_INELIGIBLE": "NONE",
    "APPROVAL_REJECTED": "NONE",
    "CONTAINED": "NONE",
    "APPROVAL_REQUIRED": "REQUEST_APPROVAL",
    "CLASS_GATE": "REQUEST_APPROVAL",
    "AUTONOMY_STAGE": "REQUEST_APPROVAL",
    "LOW_CONFIDENCE": "REQUEST_APPROVAL",
    "UNVERIFIED_INPUT": "REQUEST_APPROVAL",
    "TAINTED_INPUT": "REQUEST_APPROVAL",
    "APPROVAL_EXPIRED": "REQUEST_APPROVAL",
    "APPROVAL_OUT_OF_SCOPE": "REQUEST_APPROVAL",
    "POLICY_CHANGED": "REQUEST_APPROVAL",
    "CHANGE_FREEZE": "RETRY",
    "LIMIT_EXCEEDED": "RETRY",
    "APPROVAL_QUEUE_FULL": "RETRY",
    "SIGNALS_STALE": "RETRY",
    "TOKEN_INVALID": "NONE",
    "TOKEN_REVOKED": "NONE",
    "PEER_NOT_ALLOWED": "NONE",
    "CONTEXT_MISMATCH": "NONE",
    "ROLE_REQUIRED": "NONE",
    "NOT_CANONICAL": "NONE",
    "PLAN_INVALID": "NONE",
    "NOT_FOUND": "NONE",
    "IDEMPOTENCY_KEY_REUSED": "NONE",
    "VERSION_MISMATCH": "RETRY",
    "PLAN_DIGEST_MISMATCH": "NONE",
    "CARD_DIGEST_MISMATCH": "NONE",
    "PLAN_BYTES_NEEDED": "RETRY",
    "PLAN_EXPIRED": "NONE",
    "PRECONDITION_CHANGED": "NONE",
    "TOOL_CHANGED": "NONE",
    "WRONG_STATE": "NONE",
    "SNAPSHOT_MISMATCH": "RETRY",
    "SECOND_PERSON_REQUIRED": "REQUEST_APPROVAL",
    "DECISION_INVALID": "NONE",
    "INTENT_MISSING": "RETRY",
    "ATTEMPT_REVOKED": "NONE",
    "PRIOR_GRANT_LIVE": "RETRY",
    "IN_DOUBT": "NONE",
    "OPERATOR": "NONE",
    "FACTS_ERASED": "NONE",
    "LOG_FROZEN": "NONE",
    "LOG_FORKED": "NONE",
    "ANCHOR_MISSING": "NONE",
    "STATE_BEHIND_LEDGER": "NONE",
    "GRANT_LIMIT": "RETRY",
    "QUEUE_FULL": "RETRY",
    "READER_TOO_SLOW": "RETRY",
    "POLICY_UNAVAILABLE": "RETRY",
    "CREDENTIALS_UNAVAILABLE": "RETRY",
    "EXECUTOR_UNAVAILABLE": "RETRY",
    "LEDGER_UNAVAILABLE": "RETRY",
    "CHECKPOINT_STALE": "RETRY",
    "CONTAINMENT_STALE": "RETRY",
    "SEAL_UNAVAILABLE": "RETRY",
    "BREAKER_OPEN": "RETRY",
    "INTERNAL": "NONE",
    "TARGET_REFUSED": "NONE",
}
"""Reason code -> what the caller can do next: NONE, RETRY or REQUEST_APPROVAL."""


class ServiceError(Exception):
    """An answer without a decision: a gRPC status name, a stable reason and a message without any secret.

    `metadata` holds every dynamic value; `retry_after_ms` is set where the wait is known.
    """

    code: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str | None = None, *, retry_after_ms: int | None = None, **metadata: str | int) -> None:
        super().__init__(message or (self.__doc__ or "").strip())
        self.retry_after_ms = retry_after_ms
        self.metadata = {key: str(value) for key, value in metadata.items()}

    @property
    def message(self) -> str:
        """What was wrong, in one sentence."""
        return str(self.args[0])

    @property
    def next_action(self) -> str:
        """What the caller can do next: NONE, RETRY or REQUEST_APPROVAL."""
        return NEXT_ACTION[self.reason]


class TenantMismatch(ServiceError):
    """A tenant named in the input is not the token's."""

    code = "PERMISSION_DENIED"
    reason = "TENANT_MISMATCH"


class EnvironmentMismatch(ServiceError):
    """The call is meant for another environment than the one this process serves."""

    code = "PERMISSION_DENIED"
    reason = "ENVIRONMENT_MISMATCH"


class UnknownTool(ServiceError):
    """The tool or its digest is not in the catalogue or registry."""

    code = "NOT_FOUND"
    reason = "UNKNOWN_TOOL"


class InputInvalid(ServiceError):
    """A field is missing, has the wrong type, range or characters."""

    code = "INVALID_ARGUMENT"
    reason = "INPUT_INVALID"


class ApproverIneligible(ServiceError):
    """The voter is in the requester's chain, lacks the role, or carries an agent's token."""

    code = "PERMISSION_DENIED"
    reason = "APPROVER_INELIGIBLE"


class Contained(ServiceError):
    """A containment scope that covers the action is stopped, or its epoch rose since."""

    code = "FAILED_PRECONDITION"
    reason = "CONTAINED"


class ApprovalRequired(ServiceError):
    """A rule demands approvals that are not given yet."""

    code = "FAILED_PRECONDITION"
    reason = "APPROVAL_REQUIRED"


class PolicyChanged(ServiceError):
    """The policy asks for more than it did when the plan was approved."""

    code = "FAILED_PRECONDITION"
    reason = "POLICY_CHANGED"


class ApprovalQueueFull(ServiceError):
    """The agent has too many open approval tasks."""

    code = "RESOURCE_EXHAUSTED"
    reason = "APPROVAL_QUEUE_FULL"


class TokenInvalid(ServiceError):
    """The token is missing, malformed, expired, forged or for another domain."""

    code = "UNAUTHENTICATED"
    reason = "TOKEN_INVALID"


class TokenRevoked(ServiceError):
    """The token was issued before a containment epoch that covers its agent."""

    code = "UNAUTHENTICATED"
    reason = "TOKEN_REVOKED"


class PeerNotAllowed(ServiceError):
    """The caller's certificate is absent or not listed for this method."""

    code = "PERMISSION_DENIED"
    reason = "PEER_NOT_ALLOWED"


class ContextMismatch(ServiceError):
    """The request names another tenant than the token."""

    code = "PERMISSION_DENIED"
    reason = "CONTEXT_MISMATCH"


class RoleRequired(ServiceError):
    """The person's token lacks the role that the method demands."""

    code = "PERMISSION_DENIED"
    reason = "ROLE_REQUIRED"


class NotCanonical(ServiceError):
    """The bytes are not canonical JSON in the strict profile."""

    code = "INVALID_ARGUMENT"
    reason = "NOT_CANONICAL"

    def __init__(self, why: str, *, where: str = "") -> None:
        super().__init__(f"{why} (at {where})" if where else why, pointer=where)


class PlanInvalid(ServiceError):
    """The plan breaks its schema or a lint rule."""

    code = "INVALID_ARGUMENT"
    reason = "PLAN_INVALID"


class NotFound(ServiceError):
    """No such thing, or it belongs to another tenant."""

    code = "NOT_FOUND"
    reason = "NOT_FOUND"


class IdempotencyKeyReused(ServiceError):
    """The idempotency key was used with other content."""

    code = "ALREADY_EXISTS"
    reason = "IDEMPOTENCY_KEY_REUSED"


class VersionMismatch(ServiceError):
    """The resource changed since it was read."""

    code = "ABORTED"
    reason = "VERSION_MISMATCH"


class PlanDigestMismatch(ServiceError):
    """The echoed digest is not that of the stored bytes."""

    code = "FAILED_PRECONDITION"
    reason = "PLAN_DIGEST_MISMATCH"


class CardDigestMismatch(ServiceError):
    """The echoed digest is not that of the stored decision card."""

    code = "FAILED_PRECONDITION"
    reason = "CARD_DIGEST_MISMATCH"


class PlanBytesNeeded(ServiceError):
    """The service no longer holds the plan bytes; send them again."""

    code = "FAILED_PRECONDITION"
    reason = "PLAN_BYTES_NEEDED"


class PlanExpired(ServiceError):
    """The plan's validity window does not hold now."""

    code = "FAILED_PRECONDITION"
    reason = "PLAN_EXPIRED"


class PreconditionChanged(ServiceError):
    """What the plan was made on has changed at the target."""

    code = "FAILED_PRECONDITION"
    reason = "PRECONDITION_CHANGED"


class ToolChanged(ServiceError):
    """A tool was retired or its digest is no longer the plan's."""

    code = "FAILED_PRECONDITION"
    reason = "TOOL_CHANGED"


class WrongState(ServiceError):
    """The resource's state does not permit the call."""

    code = "FAILED_PRECONDITION"
    reason = "WRONG_STATE"


class SnapshotMismatch(ServiceError):
    """The pinned policy snapshot is not the active one."""

    code = "FAILED_PRECONDITION"
    reason = "SNAPSHOT_MISMATCH"


class SecondPersonRequired(ServiceError):
    """Another person must repeat the call, echoing the request digest."""

    code = "FAILED_PRECONDITION"
    reason = "SECOND_PERSON_REQUIRED"


class DecisionInvalid(ServiceError):
    """The signed decision is forged, expired, or does not cover the request."""

    code = "FAILED_PRECONDITION"
    reason = "DECISION_INVALID"


class IntentMissing(ServiceError):
    """The ledger holds no acknowledged intent for the attempt."""

    code = "FAILED_PRECONDITION"
    reason = "INTENT_MISSING"


class AttemptRevoked(ServiceError):
    """The attempt has a tombstone; no credential will be issued for it."""

    code = "FAILED_PRECONDITION"
    reason = "ATTEMPT_REVOKED"


class PriorGrantLive(ServiceError):
    """An earlier credential of the step is not verified dead yet."""

    code = "FAILED_PRECONDITION"
    reason = "PRIOR_GRANT_LIVE"


class InDoubt(ServiceError):
    """Whether the effect happened is not known."""

    code = "FAILED_PRECONDITION"
    reason = "IN_DOUBT"


class StoppedByOperator(ServiceError):
    """An operator stopped the plan."""

    code = "FAILED_PRECONDITION"
    reason = "OPERATOR"


class FactsErased(ServiceError):
    """The facts that the call needs were erased."""

    code = "FAILED_PRECONDITION"
    reason = "FACTS_ERASED"


class LogFrozen(ServiceError):
    """The log is closed for appends."""

    code = "FAILED_PRECONDITION"
    reason = "LOG_FROZEN"


class LogForked(ServiceError):
    """The log's database disagrees with what was signed or seen."""

    code = "FAILED_PRECONDITION"
    reason = "LOG_FORKED"


class AnchorMissing(ServiceError):
    """The log's anchor is gone although the log has entries."""

    code = "FAILED_PRECONDITION"
    reason = "ANCHOR_MISSING"


class StateBehindLedger(ServiceError):
    """The service's database is older than the ledger."""

    code = "FAILED_PRECONDITION"
    reason = "STATE_BEHIND_LEDGER"


class GrantLimit(ServiceError):
    """Too many live grants for the agent or tenant."""

    code = "RESOURCE_EXHAUSTED"
    reason = "GRANT_LIMIT"


class QueueFull(ServiceError):
    """The queue is full."""

    code = "RESOURCE_EXHAUSTED"
    reason = "QUEUE_FULL"


class ReaderTooSlow(ServiceError):
    """The stream's reader fell too far behind; resume from the last sequence."""

    code = "RESOURCE_EXHAUSTED"
    reason = "READER_TOO_SLOW"


class PolicyUnavailable(ServiceError):
    """The policy service did not answer; no decision was made."""

    code = "UNAVAILABLE"
    reason = "POLICY_UNAVAILABLE"


class CredentialsUnavailable(ServiceError):
    """The credentials service or Vault did not answer."""

    code = "UNAVAILABLE"
    reason = "CREDENTIALS_UNAVAILABLE"


class ExecutorUnavailable(ServiceError):
    """The executor did not answer; it may have taken the call. The same call with the same key is safe to repeat."""

    code = "UNAVAILABLE"
    reason = "EXECUTOR_UNAVAILABLE"


class LedgerUnavailable(ServiceError):
    """The ledger did not acknowledge."""

    code = "UNAVAILABLE"
    reason = "LEDGER_UNAVAILABLE"


class CheckpointStale(ServiceError):
    """The ledger's last signed checkpoint is too old."""

    code = "UNAVAILABLE"
    reason = "CHECKPOINT_STALE"


class ContainmentStale(ServiceError):
    """The containment stream is stale; failing closed."""

    code = "UNAVAILABLE"
    reason = "CONTAINMENT_STALE"


class SealUnavailable(ServiceError):
    """No data key is at hand to seal a payload."""

    code = "UNAVAILABLE"
    reason = "SEAL_UNAVAILABLE"


class BreakerOpen(ServiceError):
    """The circuit breaker of the tool and target is open."""

    code = "UNAVAILABLE"
    reason = "BREAKER_OPEN"


class InternalError(ServiceError):
    """Something failed that the caller cannot mend."""

    code = "INTERNAL"
    reason = "INTERNAL"


def all_errors() -> dict[str, type[ServiceError]]:
    """Return every concrete error by its reason; the contract test holds it against the proto enum."""
    return {cls.reason: cls for cls in ServiceError.__subclasses__()}
