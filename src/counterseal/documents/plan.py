"""The plan: what an agent proposes, what people approve, and exactly what runs.

A *draft* is the client's own document. The executor fills the server fields (marked S below), and the canonical bytes
of the result are the plan; its digest is what decision, approval, grant and ledger entries name.

    plan   v plan_id(S) nonce(S) supersedes tenant(S) environment(S) request_id(S) actor(S) not_before_time expire_time
           deadline_seconds budgets parallelism objective constraints rationale_digest(S) rejected_alternatives
           data_sources model confidence_ppm confidence_method unverified policy_snapshot(S) taint(S) steps
    step   id tool tool_digest(S) target args needs timeout_seconds retry pre(S) post preview_digest(S) undo on_fail
    undo   "none" | tool tool_digest(S) args post if_exists

A field the client left out stays out: the returned document is the request plus exactly the S fields (`verify_echo`
of the client SDK). Source: the executor's design, sections 2.1 to 2.3.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from counterseal.canonical import JsonObject, canonical, digest, parse_canonical
from counterseal.documents.fields import DIGEST, NAME_PART, Fields, token
from counterseal.documents.tool import PRE_KINDS, REFERENCE
from counterseal.errors import PlanInvalid

KIND = "plan"
DRAFT_KIND = "plan-draft"
MAX_STEPS = 64
MAX_TIMEOUT_SECONDS = 890
"""The longest credential lives 900 s and is never renewed; a longer job is a step that starts it and one that looks."""
DEFAULT_TIMEOUT_SECONDS = 30
DEFAULT_DEADLINE_SECONDS = 3600
DEFAULT_VALIDITY_MS = 24 * 3600 * 1000
MAX_DEADLINE_SECONDS = 7 * 24 * 3600

_STEP_ID = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_NONCE = re.compile(r"[0-9a-f]{32}")
_AGENT = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Condition:
    """One named value at the target: `kind` says how it is read, `ref` names it (a tool's fact for `tool_state`)."""

    kind: str
    ref: str
    value: Any


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a refusal that the tool calls retryable is tried again, and the first pause."""

    max: int
    backoff_seconds: int


@dataclass(frozen=True, slots=True)
class Undo:
    """How a step's effect is taken back; `args` may hold `{"$before": "/pointer"}`, a value of the before-image."""

    tool: str
    tool_digest: str | None
    args: Mapping[str, Any]
    post: tuple[Condition, ...]
    if_exists: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One tool call. `tool_digest`, `pre` and `preview_digest` are None or empty in a draft."""

    id: str
    tool: str
    tool_digest: str | None
    target: str
    args: Mapping[str, Any]
    needs: tuple[str, ...]
    timeout_seconds: int
    retry: Retry
    pre: tuple[Condition, ...]
    post: tuple[Condition, ...]
    preview_digest: str | None
    undo: Undo | Literal["none"] | None
    on_fail: str

    @property
    def undoable(self) -> Undo | None:
        """The declared undo, or None when there is none."""
        return self.undo if isinstance(self.undo, Undo) else None


@dataclass(frozen=True, slots=True)
class Budgets:
    """Most objects touched, bytes sent out and cost in minor units; None where not limited."""

    objects: int | None
    bytes_out: int | None
    cost_minor: int | None


@dataclass(frozen=True, slots=True)
class Model:
    """The model that wrote the plan, as the agent states it."""

    provider: str
    id: str
    version: str


@dataclass(frozen=True, slots=True)
class Actor:
    """Who proposed: taken from the verified token, never from the client's document.

    `agent` is None when a person proposes by the CLI. `chain` is the token's `act` chain, outermost first.
    """

    subject: str
    agent: str | None
    agent_version: str | None
    chain: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Content:
    """What a client may say about a plan; the same fields in a draft and in the plan made of it."""

    supersedes: str | None
    not_before_time_ms: int | None
    expire_time_ms: int | None
    deadline_seconds: int
    budgets: Budgets | None
    parallelism: int
    objective: str
    constraints: tuple[str, ...]
    rejected_alternatives: tuple[str, ...]
    data_sources: tuple[str, ...]
    model: Model | None
    confidence_ppm: int | None
    confidence_method: str | None
    unverified: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """A client's document: its content, its parsed form, its canonical bytes and their digest (kind `plan-draft`)."""

    content: Content
    document: JsonObject
    body: bytes
    digest: str

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps in the order of the document."""
        return self.content.steps


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan as its bytes say it. `body` are those bytes, `digest` is the plan digest."""

    plan_id: str
    nonce: str
    tenant: str
    environment: str
    request_id: str
    actor: Actor
    rationale_digest: str | None
    policy_snapshot: str | None
    taint: bool
    content: Content
    body: bytes
    digest: str

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps in the order of the document."""
        return self.content.steps

    @property
    def created_time_ms(self) -> int:
        """When the plan was made: the time inside its UUIDv7 `plan_id`, so it is under the digest too."""
        return int(self.plan_id.replace("-", "")[:12], 16)

    @property
    def expire_time_ms(self) -> int:
        """Until when it may be committed: as declared, else 24 h after it was made."""
        declared = self.content.expire_time_ms
        return self.created_time_ms + DEFAULT_VALIDITY_MS if declared is None else declared

    def step(self, step_id: str) -> Step:
        """Return a step by its id. Raises KeyError."""
        for step in self.steps:
            if step.id == step_id:
                return step
        raise KeyError(step_id)


@dataclass(frozen=True, slots=True)
class StepFill:
    """The server fields of one step; `undo_tool_digest` is None when the step declares no undo."""

    tool_digest: str
    pre: tuple[Condition, ...]
    preview_digest: str | None
    undo_tool_digest: str | None


@dataclass(frozen=True, slots=True)
class ServerFields:
    """Everything the executor adds to a draft. `nonce` is 128 random bits in lower-case hex."""

    plan_id: str
    nonce: str
    tenant: str
    environment: str
    request_id: str
    actor: Actor
    taint: bool
    rationale_digest: str | None
    policy_snapshot: str | None
    steps: Mapping[str, StepFill]


def parse_plan(data: bytes) -> Plan:
    """Read canonical plan bytes. Raises NotCanonical, or PlanInvalid with a JSON pointer."""
    return _plan(parse_canonical(data), data)


def parse_draft(document: JsonObject) -> Draft:
    """Read a client's document (from `canonical.parse_strict`). Raises NotCanonical or PlanInvalid.

    A server field in a draft is refused, not ignored: the client would believe that it was honoured.
    """
    fields: Fields[Any] = Fields(document, "", PlanInvalid)
    content = _content(fields, final=False)
    fields.done()
    body = canonical(document)
    return Draft(content, document, body, digest(DRAFT_KIND, body))


def build_plan(draft: Draft, server: ServerFields) -> Plan:
    """Return the plan: the draft's document plus exactly the server fields, in canonical bytes."""
    document = dict(draft.document)
    document.update(
        plan_id=server.plan_id,
        nonce=server.nonce,
        tenant=server.tenant,
        environment=server.environment,
        request_id=server.request_id,
        actor=_actor_document(server.actor),
        taint=server.taint,
        steps=[_fill(step, server.steps[step["id"]]) for step in document["steps"]],
    )
    if server.rationale_digest is not None:
        document["rationale_digest"] = server.rationale_digest
    if server.policy_snapshot is not None:
        document["policy_snapshot"] = server.policy_snapshot
    return _plan(document, canonical(document))


def condition_document(condition: Condition) -> JsonObject:
    """Return a condition as it stands in the plan."""
    return {"kind": condition.kind, "ref": condition.ref, "value": condition.value}


def markers(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield (marker, pointer) for each reserved object such as `{"$ref": ..}` anywhere inside `value`.

    An object with a key that starts with `$` is reserved as a whole, whatever else it holds.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if key.startswith("$"):
                yield key, where
            else:
                yield from markers(item, f"{where}/{token(key)}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from markers(item, f"{where}/{index}")


def _plan(document: JsonObject, body: bytes) -> Plan:
    fields: Fields[Any] = Fields(document, "", PlanInvalid)
    plan = Plan(
        plan_id=fields.text("plan_id", most=36, pattern=_UUID),
        nonce=fields.text("nonce", most=32, pattern=_NONCE),
        tenant=fields.text("tenant", most=24, pattern=NAME_PART),
        environment=fields.text("environment", most=12, pattern=NAME_PART),
        request_id=fields.text("request_id", most=128, pattern=_REQUEST_ID),
        actor=_actor(fields.raw("actor")),
        rationale_digest=fields.text("rationale_digest", None, most=71, pattern=DIGEST),
        policy_snapshot=fields.text("policy_snapshot", None, most=71, pattern=DIGEST),
        taint=fields.boolean("taint"),
        content=_content(fields, final=True),
        body=body,
        digest=digest(KIND, body),
    )
    fields.done()
    return plan


def _content(fields: "Fields[Any]", *, final: bool) -> Content:
    fields.integer("v", least=1, most=1)
    steps = fields.items("steps", lambda value, where: _step(value, where, final=final), most=MAX_STEPS)
    if not steps:
        raise fields.error("must hold at least one step", "steps")
    _check_graph(steps)
    return Content(
        supersedes=fields.text("supersedes", None, most=36, pattern=_UUID),
        not_before_time_ms=fields.time("not_before_time"),
        expire_time_ms=fields.time("expire_time"),
        deadline_seconds=fields.integer(
            "deadline_seconds", DEFAULT_DEADLINE_SECONDS, least=1, most=MAX_DEADLINE_SECONDS
        ),
        budgets=_budgets(fields.raw("budgets")) if fields.has("budgets") else None,
        parallelism=fields.integer("parallelism", 1, least=1, most=MAX_STEPS),
        objective=fields.text("objective"),
        constraints=fields.texts("constraints"),
        rejected_alternatives=fields.texts("rejected_alternatives"),
        data_sources=fields.texts("data_sources"),
        model=_model(fields.raw("model")) if fields.has("model") else None,
        confidence_ppm=fields.integer("confidence_ppm", None, most=1_000_000),
        confidence_method=fields.text("confidence_method", None, most=200),
        unverified=fields.texts("unverified"),
        steps=steps,
    )


def _step(value: Any, where: str, *, final: bool) -> Step:
    fields: Fields[Any] = Fields(value, where, PlanInvalid)
    step = Step(
        id=fields.text("id", most=32, pattern=_STEP_ID),
        tool=fields.text("tool", most=128, pattern=REFERENCE),
        tool_digest=fields.text("tool_digest", most=71, pattern=DIGEST) if final else None,
        target=fields.text("target", most=24, pattern=NAME_PART),
        args=_object(fields, "args"),
        needs=fields.texts("needs", most=MAX_STEPS, pattern=_STEP_ID),
        timeout_seconds=fields.integer("timeout_seconds", DEFAULT_TIMEOUT_SECONDS, least=1, most=MAX_TIMEOUT_SECONDS),
        retry=_retry(fields.raw("retry"), f"{where}/retry") if fields.has("retry") else Retry(0, 0),
        pre=fields.items("pre", _condition, most=256) if final else (),
        post=fields.items("post", _condition, most=256, default=()),
        preview_digest=fields.text("preview_digest", None, most=71, pattern=DIGEST) if final else None,
        undo=_undo(fields.raw("undo"), f"{where}/undo", final=final) if fields.has("undo") else None,
        on_fail=fields.one_of("on_fail", ("compensate", "hold"), "compensate"),
    )
    fields.done()
    return step


def _undo(value: Any, where: str, *, final: bool) -> Undo | Literal["none"]:
    if value == "none":
        return "none"
    fields: Fields[Any] = Fields(value, where, PlanInvalid)
    undo = Undo(
        tool=fields.text("tool", most=128, pattern=REFERENCE),
        tool_digest=fields.text("tool_digest", most=71, pattern=DIGEST) if final else None,
        args=_object(fields, "args"),
        post=fields.items("post", _condition, most=256, default=()),
        if_exists=fields.boolean("if_exists", False),
    )
    fields.done()
    return undo


def _check_graph(steps: tuple[Step, ...]) -> None:
    """Refuse equal ids, edges to nowhere and cycles: a plan is a DAG, and nothing later has to ask again."""
    ids = [step.id for step in steps]
    for index, step_id in enumerate(ids):
        if step_id in ids[:index]:
            raise PlanInvalid(f"/steps/{index}/id: {step_id!r} is used twice", pointer=f"/steps/{index}/id")
    for index, step in enumerate(steps):
        for at, need in enumerate(step.needs):
            if need not in ids:
                where = f"/steps/{index}/needs/{at}"
                raise PlanInvalid(f"{where}: no step is called {need!r}", pointer=where)
    if len(topological_order(steps)) != len(steps):
        raise PlanInvalid("/steps: the steps need each other in a circle", pointer="/steps")


def topological_order(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps so that each stands after all it needs, ties in document order; a cycle is left out."""
    ordered: list[Step] = []
    done: set[str] = set()
    while True:
        ready = [step for step in steps if step.id not in done and done.issuperset(step.needs)]
        if not ready:
            return tuple(ordered)
        ordered.append(ready[0])
        done.add(ready[0].id)


def _condition(value: Any, where: str) -> Condition:
    fields: Fields[Any] = Fields(value, where, PlanInvalid)
    condition = Condition(fields.one_of("kind", PRE_KINDS), fields.text("ref", most=256), fields.raw("value"))
    fields.done()
    return condition


def _retry(value: Any, where: str) -> Retry:
    fields: Fields[Any] = Fields(value, where, PlanInvalid)
    retry = Retry(fields.integer("max", most=10), fields.integer("backoff_seconds", most=3600))
    fields.done()
    return retry


def _budgets(value: Any) -> Budgets:
    fields: Fields[Any] = Fields(value, "/budgets", PlanInvalid)
    budgets = Budgets(
        fields.integer("objects", None), fields.integer("bytes_out", None), fields.integer("cost_minor", None)
    )
    fields.done()
    return budgets


def _model(value: Any) -> Model:
    fields: Fields[Any] = Fields(value, "/model", PlanInvalid)
    model = Model(fields.text("provider", most=128), fields.text("id", most=128), fields.text("version", most=128))
    fields.done()
    return model


def _actor(value: Any) -> Actor:
    fields: Fields[Any] = Fields(value, "/actor", PlanInvalid)
    actor = Actor(
        subject=fields.text("subject", most=256),
        agent=fields.text("agent", None, most=64, pattern=_AGENT),
        agent_version=fields.text("agent_version", None, most=64),
        chain=fields.items("chain", _act, most=8),
    )
    fields.done()
    return actor


def _act(value: Any, where: str) -> Mapping[str, str]:
    fields: Fields[Any] = Fields(value, where, PlanInvalid)
    entry = {"sub": fields.text("sub", most=256)}
    for key in ("version", "owner"):
        if fields.has(key):
            entry[key] = fields.text(key, most=256)
    fields.done()
    return entry


def _actor_document(actor: Actor) -> JsonObject:
    document: JsonObject = {"subject": actor.subject, "chain": [dict(entry) for entry in actor.chain]}
    if actor.agent is not None:
        document["agent"] = actor.agent
    if actor.agent_version is not None:
        document["agent_version"] = actor.agent_version
    return document


def _fill(step: JsonObject, fill: StepFill) -> JsonObject:
    filled = {**step, "tool_digest": fill.tool_digest, "pre": [condition_document(c) for c in fill.pre]}
    if fill.preview_digest is not None:
        filled["preview_digest"] = fill.preview_digest
    if isinstance(step.get("undo"), dict) and fill.undo_tool_digest is not None:
        filled["undo"] = {**step["undo"], "tool_digest": fill.undo_tool_digest}
    return filled


def _object(fields: "Fields[Any]", key: str) -> Mapping[str, Any]:
    value = fields.raw(key)
    if not isinstance(value, dict):
        raise fields.error("must be an object", key)
    return value
