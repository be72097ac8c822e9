"""What the executor believes of a signed decision: nothing but what signature and bytes say."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from counterseal.api.common.v1 import decision_pb2
from counterseal.clock import Clock
from counterseal.documents.decision import Statement, open_statement
from counterseal.documents.plan import Plan
from counterseal.errors import DecisionInvalid, QueueFull

AUDIENCE = "executor"
SUPPORTED_OBLIGATIONS = ("max_grant_ttl",)
"""What this executor can fulfil; policy denies a plan that needs more, and `check_plan` refuses one that slipped by."""

EXPIRY_SLACK_MS = 1_000
"""Who refuses a decision for its age has a clock of their own."""
SLOW_RETRY_MS = 1_000

Key = Callable[[str], Awaitable[bytes]]
"""Returns the 32 public bytes of an active decision key. Raises LookupError for any other."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision whose signature was checked: what it says, and the exact bytes to pass on."""

    statement: Statement
    signature: bytes
    key: str

    def wire(self) -> decision_pb2.SignedDecision:
        """Return the decision as it travels."""
        return decision_pb2.SignedDecision(statement=self.statement.body, signature=self.signature, key=self.key)

    def lives_until(self, now_ms: int, needed_ms: int) -> bool:
        """Tell whether it lives for `needed_ms` from now."""
        return self.statement.expire_time_ms - now_ms >= needed_ms

    def has_aged(self, now_ms: int) -> bool:
        """Tell whether others may call it expired by now: then a refusal says that we were slow, and no more."""
        return not self.lives_until(now_ms, EXPIRY_SLACK_MS)


def verify_ed25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether a signature is good."""
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


async def open_decision(signed: decision_pb2.SignedDecision, key: Key, environment: str, clock: Clock) -> Decision:
    """Check signature, audience, environment and life. Raises DecisionInvalid."""
    if not signed.key.startswith(f"decision-{environment}:"):
        raise DecisionInvalid("the decision is signed by a key that does not sign decisions here")
    try:
        public_key = await key(signed.key)
    except LookupError:
        raise DecisionInvalid("the decision is signed by an unknown or archived key") from None
    statement = open_statement(signed.statement, signed.signature, public_key, verify_ed25519)
    statement.require(audience=AUDIENCE, environment=environment, now_ms=clock())
    return Decision(statement, signed.signature, signed.key)


def check_plan(decision: Decision, plan: Plan, purpose: str) -> None:
    """Refuse a decision that does not allow exactly this plan for this purpose. Raises DecisionInvalid."""
    statement = decision.statement
    expected = {
        "outcome": ("ALLOW", statement.outcome),
        "purpose": (purpose, statement.purpose),
        "plan digest": (plan.digest, statement.plan_digest),
        "tenant": (plan.tenant, statement.tenant),
        "environment": (plan.environment, statement.environment),
        "subject": (plan.actor.subject, statement.subject),
        "agent": (plan.actor.agent, statement.agent),
        "agent version": (plan.actor.agent_version, statement.agent_version),
    }
    for what, (mine, theirs) in expected.items():
        if mine != theirs:
            raise DecisionInvalid(f"the decision is for another {what}", field=what)
    for step in plan.steps:
        for obligation in statement.step(step.id).obligations:
            if obligation.type not in SUPPORTED_OBLIGATIONS:
                raise DecisionInvalid(
                    f"the obligation {obligation.type!r} is not known here", obligation=obligation.type
                )


def check_draft(decision: Decision, draft_digest: str, tenant: str) -> None:
    """Refuse a decision that does not permit reading for this draft. Raises DecisionInvalid."""
    statement = decision.statement
    if statement.purpose != "PREVIEW" or statement.outcome == "DENY":
        raise DecisionInvalid("the decision does not permit a preview")
    if statement.plan_digest != draft_digest or statement.tenant != tenant:
        raise DecisionInvalid("the decision is for another draft")


@contextmanager
def while_it_lives(decision: Decision, clock: Clock, again: str) -> Iterator[None]:
    """Turn the refusal of a decision that has expired meanwhile into an invitation to try again.

    Raises QueueFull then; any other refusal of it passes.
    """
    try:
        yield
    except DecisionInvalid:
        if not decision.has_aged(clock()):
            raise
        raise too_slow(f"the decision expired before the target was read; {again}") from None


def too_slow(message: str) -> QueueFull:
    """Return what a caller is told when a decision aged on the way: nothing is wrong with it, and nothing happened."""
    return QueueFull(message, retry_after_ms=SLOW_RETRY_MS)
