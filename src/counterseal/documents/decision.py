"""The signed decision: what policy says about exact plan bytes, for at most sixty seconds.

    statement  v decision_id purpose outcome reason_codes tenant environment request_id txn subject agent agent_version
               act context plan_digest card_digest snapshot_id task_id votes taint steps containment audience
               issue_time_ms expire_time_ms
    step       id class obligations
    context    person_id session_id roles subject_roles constraints

Policy signs PAE(kind `decision`, statement) with the environment's key `decision-<env>`; executor and credentials
verify locally. `act` is the token's claim as it was. `context` carries what else the token said about the request, so
that a worker's continuation token can be issued from the decision alone: no bearer token is ever stored.
Optional and then absent: agent, agent_version, act (a person without an agent), card_digest, task_id (no approval
asked), and each member of `context` but the lists. Source: the policy design, section 8.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from counterseal.canonical import JsonObject, canonical, digest, media_type, pae, parse_canonical
from counterseal.documents.fields import DIGEST, Fields, token
from counterseal.errors import DecisionInvalid, ServiceError

KIND = "decision"
PURPOSES = ("PREVIEW", "COMMIT", "COMPENSATE")
"""What the decision is for: reading before the commit, executing, or undoing and probing."""
OUTCOMES = ("ALLOW", "DENY", "REQUIRE_APPROVAL")
MAX_LIFE_MS = 60_000
"""A decision lives at most this long and is renewed, never prolonged."""
CLOCK_SKEW_MS = 5_000
"""How far the issuer's clock may be ahead of the verifier's."""
SCOPE_KINDS = ("environment", "tenant", "agent", "tool", "plan", "request")

_REASON = re.compile(r"[A-Z][A-Z0-9_]{2,63}")
_SCOPE = re.compile(rf"({'|'.join(SCOPE_KINDS)}):\S{{1,255}}")


@dataclass(frozen=True, slots=True)
class Obligation:
    """Something the executor must do; a type it does not know refuses the plan."""

    type: str
    properties: Mapping[str, Any]

    def document(self) -> JsonObject:
        """Return the obligation as it stands in the statement."""
        return {"type": self.type, "properties": dict(self.properties)}


@dataclass(frozen=True, slots=True)
class StepDecision:
    """One step: its action class (0 to 4) and what is owed when it runs."""

    id: str
    action_class: int
    obligations: tuple[Obligation, ...]


@dataclass(frozen=True, slots=True)
class ScopeEpoch:
    """The epoch of one containment scope that the decision has seen (0: never tripped)."""

    scope: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Context:
    """What the token said about the request, beside the names: for rules, and for continuation tokens."""

    person_id: str | None
    session_id: str | None
    roles: tuple[str, ...]
    subject_roles: tuple[str, ...]
    constraints: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Statement:
    """A decision as its bytes say it. `body` are those bytes, `digest` is the decision's digest. Times: Unix ms."""

    decision_id: str
    purpose: str
    outcome: str
    reason_codes: tuple[str, ...]
    tenant: str
    environment: str
    request_id: str
    txn: str
    subject: str
    agent: str | None
    agent_version: str | None
    act: Mapping[str, Any] | None
    context: Context
    plan_digest: str
    card_digest: str | None
    snapshot_id: str
    task_id: str | None
    votes: tuple[str, ...]
    taint: bool
    steps: tuple[StepDecision, ...]
    containment: tuple[ScopeEpoch, ...]
    audience: tuple[str, ...]
    issue_time_ms: int
    expire_time_ms: int
    body: bytes = b""
    digest: str = ""

    @property
    def epochs(self) -> dict[str, int]:
        """The containment epochs by scope."""
        return {item.scope: item.epoch for item in self.containment}

    def step(self, step_id: str) -> StepDecision:
        """Return a step by its id. Raises DecisionInvalid when the decision does not cover it."""
        for step in self.steps:
            if step.id == step_id:
                return step
        raise DecisionInvalid(f"the decision does not cover the step {step_id!r}")

    def require(self, *, audience: str, environment: str, now_ms: int) -> None:
        """Refuse a decision that is not for this service and environment, or does not live now.

        Raises DecisionInvalid. Outcome, purpose, plan digest and caller are the verifier's to compare.
        """
        if audience not in self.audience:
            raise DecisionInvalid(f"the decision is not meant for {audience}")
        if environment != self.environment:
            raise DecisionInvalid("the decision is of another environment")
        if now_ms + CLOCK_SKEW_MS < self.issue_time_ms:
            raise DecisionInvalid("the decision is from the future")
        if now_ms >= self.expire_time_ms:
            raise DecisionInvalid("the decision has expired; ask again")


def signing_input(statement: bytes) -> bytes:
    """Return the bytes that the decision key signs: PAE(kind `decision`, statement)."""
    return pae(media_type(KIND), statement)


def open_statement(
    body: bytes, signature: bytes, public_key: bytes, verify: Callable[[bytes, bytes, bytes], bool]
) -> Statement:
    """Check the signature first, then read the statement.

    verify: (public key 32 bytes, message, signature 64 bytes) -> whether it is a good Ed25519 signature.
    Raises DecisionInvalid for a bad signature and for bytes that are no decision.
    """
    if len(signature) != 64 or not verify(public_key, signing_input(body), signature):
        raise DecisionInvalid("the signature does not verify")
    return parse_statement(body)


def build_statement(statement: Statement) -> Statement:
    """Return the same decision with its canonical bytes and digest filled in. Raises DecisionInvalid."""
    return parse_statement(canonical(_document(statement)))


def parse_statement(body: bytes) -> Statement:
    """Read canonical decision bytes. Raises DecisionInvalid with a JSON pointer."""
    try:
        document = parse_canonical(body)
    except ServiceError as error:
        raise DecisionInvalid(error.message) from None
    fields: Fields[Any] = Fields(document, "", DecisionInvalid)
    fields.integer("v", least=1, most=1)
    statement = Statement(
        decision_id=fields.text("decision_id", most=64),
        purpose=fields.one_of("purpose", PURPOSES),
        outcome=fields.one_of("outcome", OUTCOMES),
        reason_codes=fields.texts("reason_codes", most=256, pattern=_REASON),
        tenant=fields.text("tenant", most=64),
        environment=fields.text("environment", most=64),
        request_id=fields.text("request_id", most=128),
        txn=fields.text("txn", most=128),
        subject=fields.text("subject", most=256),
        agent=fields.text("agent", None, most=128),
        agent_version=fields.text("agent_version", None, most=128),
        act=_optional_object(fields, "act"),
        context=_context(fields.raw("context")),
        plan_digest=fields.text("plan_digest", pattern=DIGEST),
        card_digest=fields.text("card_digest", None, pattern=DIGEST),
        snapshot_id=fields.text("snapshot_id", pattern=DIGEST),
        task_id=fields.text("task_id", None, most=64),
        votes=fields.texts("votes", most=64, pattern=DIGEST),
        taint=fields.boolean("taint"),
        steps=_items(fields, "steps", _step, most=64),
        containment=_items(fields, "containment", _scope, most=256),
        audience=fields.texts("audience", most=8),
        issue_time_ms=fields.integer("issue_time_ms"),
        expire_time_ms=fields.integer("expire_time_ms"),
        body=body,
        digest=digest(KIND, body),
    )
    for name in ("reason_codes", "votes", "audience"):
        fields.raw(name)
    fields.done()
    if not 0 < statement.expire_time_ms - statement.issue_time_ms <= MAX_LIFE_MS:
        raise DecisionInvalid(f"/expire_time_ms: a decision lives at most {MAX_LIFE_MS} ms", pointer="/expire_time_ms")
    return statement


def nested_act(chain: tuple[Mapping[str, Any], ...]) -> JsonObject | None:
    """Return the token's `act` claim (RFC 8693 section 4.1) from its flattened chain, outermost actor first."""
    act: JsonObject | None = None
    for actor in reversed(chain):
        act = {**actor} if act is None else {**actor, "act": act}
    return act


def _document(statement: Statement) -> JsonObject:
    context: JsonObject = {
        "roles": list(statement.context.roles),
        "subject_roles": list(statement.context.subject_roles),
        "constraints": dict(statement.context.constraints),
        "person_id": statement.context.person_id,
        "session_id": statement.context.session_id,
    }
    document: JsonObject = {
        "v": 1,
        "decision_id": statement.decision_id,
        "purpose": statement.purpose,
        "outcome": statement.outcome,
        "reason_codes": list(statement.reason_codes),
        "tenant": statement.tenant,
        "environment": statement.environment,
        "request_id": statement.request_id,
        "txn": statement.txn,
        "subject": statement.subject,
        "agent": statement.agent,
        "agent_version": statement.agent_version,
        "act": None if statement.act is None else dict(statement.act),
        "context": _present(context),
        "plan_digest": statement.plan_digest,
        "card_digest": statement.card_digest,
        "snapshot_id": statement.snapshot_id,
        "task_id": statement.task_id,
        "votes": list(statement.votes),
        "taint": statement.taint,
        "steps": [
            {"id": step.id, "class": step.action_class, "obligations": [item.document() for item in step.obligations]}
            for step in statement.steps
        ],
        "containment": [{"scope": item.scope, "epoch": item.epoch} for item in statement.containment],
        "audience": list(statement.audience),
        "issue_time_ms": statement.issue_time_ms,
        "expire_time_ms": statement.expire_time_ms,
    }
    return _present(document)


def _present(document: JsonObject) -> JsonObject:
    return {key: value for key, value in document.items() if value is not None}


def _optional_object(fields: "Fields[Any]", key: str) -> Mapping[str, Any] | None:
    value = fields.raw(key, None)
    if value is not None and not isinstance(value, dict):
        raise fields.error("must be an object", key)
    return value


def _context(value: Any) -> Context:
    fields: Fields[Any] = Fields(value, "/context", DecisionInvalid)
    constraints = fields.raw("constraints")
    if not isinstance(constraints, dict):
        raise fields.error("must be an object", "constraints")
    context = Context(
        person_id=fields.text("person_id", None, most=256),
        session_id=fields.text("session_id", None, most=128),
        roles=fields.texts("roles", most=64),
        subject_roles=fields.texts("subject_roles", most=64),
        constraints=constraints,
    )
    fields.raw("roles")
    fields.raw("subject_roles")
    fields.done()
    return context


def _items(fields: "Fields[Any]", key: str, read: Callable[[Any, str], Any], *, most: int) -> tuple[Any, ...]:
    return fields.items(key, read, most=most)


def _step(value: Any, where: str) -> StepDecision:
    fields: Fields[Any] = Fields(value, where, DecisionInvalid)
    step = StepDecision(
        id=fields.text("id", most=64),
        action_class=fields.integer("class", most=4),
        obligations=_items(fields, "obligations", _obligation, most=64),
    )
    fields.done()
    return step


def _obligation(value: Any, where: str) -> Obligation:
    fields: Fields[Any] = Fields(value, where, DecisionInvalid)
    properties = fields.raw("properties")
    if not isinstance(properties, dict):
        raise DecisionInvalid(f"{where}/{token('properties')}: must be an object", pointer=where)
    obligation = Obligation(fields.text("type", most=64), properties)
    fields.done()
    return obligation


def _scope(value: Any, where: str) -> ScopeEpoch:
    fields: Fields[Any] = Fields(value, where, DecisionInvalid)
    scope = ScopeEpoch(fields.text("scope", most=300, pattern=_SCOPE), fields.integer("epoch"))
    fields.done()
    return scope
