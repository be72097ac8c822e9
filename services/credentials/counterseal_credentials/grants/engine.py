"""What a grant may lend, decided from bytes alone. Pure: the broker chooses nothing.

Step, tool, role and target come out of the plan bytes under the signed decision; what the executor says is compared
with them, never used in their place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from counterseal.canonical import digest, digest_of, parse_canonical
from counterseal.documents.decision import Statement, nested_act
from counterseal.documents.plan import Draft, Plan, Step, parse_draft, parse_plan
from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import DecisionInvalid, InputInvalid, PlanDigestMismatch, PlanInvalid, ToolChanged
from counterseal.identity import Caller
from counterseal.ids import is_id
from counterseal.vault.names import BadName, DatabaseRole, Environment, smallest_tier
from counterseal_credentials.containment.engine import token_scopes

MAX_READ_SECONDS = 60
MARGIN_SECONDS = 10
SERVICE = "credentials"


class State(Enum):
    """Life of a grant; see the table in the service's README."""

    REQUESTED = "REQUESTED"
    BINDING = "BINDING"
    BOUND = "BOUND"
    REVOKING = "REVOKING"
    REVOKED = "REVOKED"
    FAILED = "FAILED"


ENDED = frozenset({State.REVOKED, State.FAILED})


@dataclass(frozen=True, slots=True)
class Asked:
    """What an Issue asks for. purpose: READ or WRITE; attempt_id: groups the reads of a draft, or names one attempt."""

    idempotency_key: str
    purpose: str
    attempt_id: str
    step_id: str
    undo: bool
    target: str
    intent_event_id: str
    ttl_seconds: int


@dataclass(frozen=True, slots=True)
class Lending:
    """What will be lent, once the barrier, the attempt, the counters and, for WRITE, the ledger agree.

    scopes, epochs: every containment scope that the grant falls under, and the epoch that the decision has seen.
    """

    role: DatabaseRole
    ttl_seconds: int
    target: str
    tool: ToolDescriptor
    scopes: tuple[str, ...]
    epochs: tuple[int, ...]


def read_document(decision: Statement, body: bytes) -> Plan | Draft:
    """Return the plan, or for a PREVIEW the draft, whose digest the decision names.

    Raises PlanDigestMismatch for other bytes, PlanInvalid or NotCanonical for bytes that are neither.
    """
    if digest("plan", body) == decision.plan_digest:
        return parse_plan(body)
    if decision.purpose == "PREVIEW" and digest("plan-draft", body) == decision.plan_digest:
        return parse_draft(parse_canonical(body))
    raise PlanDigestMismatch("the bytes are not those that the decision is about")


def check_caller(decision: Statement, caller: Caller, environment: str, now_ms: int) -> None:
    """Refuse a decision that does not live now, or is for another service or caller. Raises DecisionInvalid."""
    decision.require(audience=SERVICE, environment=environment, now_ms=now_ms)
    same = {
        "tenant": (decision.tenant, caller.tenant),
        "subject": (decision.subject, caller.subject),
        "txn": (decision.txn, caller.txn),
        "request_id": (decision.request_id, caller.request_id),
        "act": (decision.act, nested_act(caller.chain)),
    }
    for name, (decided, called) in same.items():
        if decided != called:
            raise DecisionInvalid(f"the decision's {name} is not the token's", field=name)


def check_purpose(decision: Statement, asked: Asked, scope: frozenset[str]) -> None:
    """Refuse a purpose that the decision does not give. Raises DecisionInvalid.

    READ: a PREVIEW that is not denied, or what allows a commit or compensation. WRITE: a forward step under COMMIT, an
    undo under COMMIT or COMPENSATE, both at ALLOW and under the plan's continuation token only.
    """
    previews = decision.purpose == "PREVIEW" and decision.outcome in ("ALLOW", "REQUIRE_APPROVAL")
    acts = decision.purpose in ("COMMIT", "COMPENSATE") and decision.outcome == "ALLOW"
    if asked.purpose == "READ":
        if not previews and not acts:
            raise DecisionInvalid("the decision does not allow reading")
        return
    if not acts or (decision.purpose == "COMPENSATE" and not asked.undo):
        raise DecisionInvalid("the decision does not allow this effect")
    wanted = {f"plan:{decision.plan_digest}"} | ({f"undo:{decision.plan_digest}"} if asked.undo else set())
    if not wanted & scope:
        raise DecisionInvalid("an effect needs the plan's continuation token")


def lend(
    decision: Statement, document: Plan | Draft, tool: ToolDescriptor, asked: Asked, environment: Environment, most: int
) -> Lending:
    """Return what the bytes lend for the step. most: the service's own limit of a grant's life in seconds.

    Raises InputInvalid, DecisionInvalid, PlanInvalid, ToolChanged.
    """
    if not is_id(asked.attempt_id) or not asked.idempotency_key or len(asked.idempotency_key) > 256:
        raise InputInvalid("attempt_id must be a UUID and idempotency_key at most 256 characters")
    step = next((item for item in document.steps if item.id == asked.step_id), None)
    if step is None:
        raise PlanInvalid("the plan has no such step", step_id=asked.step_id[:64])
    _check_tool(step, tool, asked, draft=isinstance(document, Draft))
    if asked.purpose == "WRITE" and isinstance(document, Draft):
        raise DecisionInvalid("a draft has no effects")
    ttl = _ttl(decision, step, asked, most)
    try:
        tenant = environment.tenant(decision.tenant)
        mode = "ro" if asked.purpose == "READ" else "rw"
        role = tenant.role(tool.credential_role, "ro" if mode == "ro" else "rw", smallest_tier(ttl))
    except BadName:
        raise InputInvalid("the tool's credential role is not one that can be lent") from None
    scopes = scopes_of(decision, document, environment.name)
    return Lending(role, ttl, asked.target, tool, scopes, tuple(decision.epochs.get(scope, 0) for scope in scopes))


def scopes_of(decision: Statement, document: Plan | Draft, environment: str) -> tuple[str, ...]:
    """Return every containment scope that covers the document: from its bytes, not from the decision."""
    agents = [str(link.get("sub", "")) for link in _links(decision.act)]
    tenant = decision.tenant
    tools = sorted(
        {step.tool.partition("@")[0] for step in document.steps}
        | {step.undoable.tool.partition("@")[0] for step in document.steps if step.undoable is not None}
    )
    plan = () if isinstance(document, Draft) else (f"plan:{document.digest}",)
    return (
        *token_scopes(environment, tenant, agents, decision.request_id),
        *(f"tool:{tenant}/{tool}" for tool in tools),
        *plan,
    )


def check_intent(entry: Mapping[str, Any], decision: Statement, asked: Asked, tool: ToolDescriptor) -> bool:
    """Tell whether a ledger entry is the acknowledged intent of exactly this attempt of this step."""
    data = entry.get("data", {})
    return (
        entry.get("type") == "step.intent"
        and entry.get("tenant") == decision.tenant
        and entry.get("environment") == decision.environment
        and entry.get("plan_digest") == decision.plan_digest
        and entry.get("step") == asked.step_id
        and data.get("attempt_id") == asked.attempt_id
        and data.get("tool_digest") == tool.digest
        and data.get("target") == asked.target
        and ("undoes" in data) == asked.undo
    )


def request_digest(decision: Statement, asked: Asked, tool: ToolDescriptor) -> str:
    """Return what tells two Issues under one idempotency key apart (kind `grant-request`).

    The decision's bytes are no part of it: a retry may come under a renewed decision.
    """
    return digest_of(
        "grant-request",
        {
            "purpose": asked.purpose,
            "attempt_id": asked.attempt_id,
            "plan_digest": decision.plan_digest,
            "step": asked.step_id,
            "undo": asked.undo,
            "target": asked.target,
            "tool_digest": tool.digest,
            "intent_event_id": asked.intent_event_id,
        },
    )


def _check_tool(step: Step, tool: ToolDescriptor, asked: Asked, *, draft: bool) -> None:
    undo = step.undoable
    if asked.undo and undo is None:
        raise PlanInvalid("the step declares no undo", step_id=step.id)
    reference = undo.tool if asked.undo and undo is not None else step.tool
    wanted = undo.tool_digest if asked.undo and undo is not None else step.tool_digest
    if tool.reference != reference or (tool.digest != wanted and not draft):
        raise ToolChanged("the descriptor is not the one that the plan names", step_id=step.id)
    if asked.target != step.target or asked.target not in tool.targets:
        raise InputInvalid("the target is not the step's, or not one of the tool's", field="target")


def _ttl(decision: Statement, step: Step, asked: Asked, most: int) -> int:
    limit = MAX_READ_SECONDS if asked.purpose == "READ" else min(step.timeout_seconds + MARGIN_SECONDS, most)
    for obligation in decision.step(step.id).obligations:
        seconds = obligation.properties.get("seconds")
        if obligation.type == "max_grant_ttl" and type(seconds) is int:
            limit = min(limit, seconds)
    if not 0 < asked.ttl_seconds <= limit:
        raise InputInvalid(f"ttl must be between 1 and {limit} seconds", field="ttl")
    return asked.ttl_seconds


def _links(act: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    chain: list[Mapping[str, Any]] = []
    while isinstance(act, Mapping):
        chain.append(act)
        act = act.get("act")
    return chain
