"""What an agent proposes, and the check that what came back is exactly that plus the server's own fields."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterseal.api.executor.v1 import plan_pb2
from counterseal.canonical import JsonObject, canonical, digest, parse_canonical, parse_strict

SERVER_FIELDS = frozenset(
    {
        "plan_id",
        "nonce",
        "tenant",
        "environment",
        "request_id",
        "actor",
        "rationale_digest",
        "policy_snapshot",
        "taint",
    }
)
SERVER_STEP_FIELDS = frozenset({"tool_digest", "pre", "preview_digest"})


class EchoMismatch(Exception):
    """The plan that came back is not what was proposed. `pointer` says where; commit nothing."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(f"{message} (at {pointer or 'the document'})")
        self.pointer = pointer


@dataclass(frozen=True, slots=True)
class Undo:
    """How a step is undone. In args `{"$before": "/pointer"}` stands for a value of the step's before-image."""

    tool: str
    args: Mapping[str, Any]
    if_exists: bool = False


@dataclass(frozen=True, slots=True)
class Post:
    """A value that must hold after a step: `ref` is the name under which the step's tool observes it."""

    ref: str
    value: Any
    kind: str = "tool_state"


@dataclass(frozen=True, slots=True)
class Step:
    """One tool call: `tool` is `name@version`; `needs` are ids of steps that must have ended well before.

    post: what must hold at the target afterwards, beside the tool's own check.
    """

    id: str
    tool: str
    target: str
    args: Mapping[str, Any]
    needs: Sequence[str] = ()
    undo: Undo | None = None
    timeout_seconds: int = 0
    retry_max: int = 0
    retry_backoff_seconds: int = 0
    on_fail: str = ""
    post: Sequence[Post] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """A proposal. confidence_ppm: parts per million; what is left out does not enter the plan."""

    objective: str
    steps: Sequence[Step]
    constraints: Sequence[str] = ()
    rationale: str = ""
    rejected_alternatives: Sequence[str] = ()
    data_sources: Sequence[str] = ()
    model: tuple[str, str, str] | None = None
    confidence_ppm: int | None = None
    confidence_method: str = ""
    unverified: Sequence[str] = ()
    deadline_seconds: int = 0
    supersedes: str = ""
    user_request: str = ""
    intent: str = ""

    def request(self, idempotency_key: str) -> plan_pb2.ProposePlanRequest:
        """Return the request message; raises NotCanonical when arguments are no strict JSON."""
        return plan_pb2.ProposePlanRequest(
            idempotency_key=idempotency_key,
            objective=self.objective,
            steps=[_step(step) for step in self.steps],
            constraints=self.constraints,
            rationale=self.rationale,
            rejected_alternatives=self.rejected_alternatives,
            data_sources=self.data_sources,
            model=_model(self.model),
            confidence_ppm=self.confidence_ppm,
            confidence_method=self.confidence_method,
            unverified=self.unverified,
            deadline_seconds=self.deadline_seconds,
            supersedes=self.supersedes,
            user_request=self.user_request,
            intent=self.intent,
        )


def verify_echo(request: plan_pb2.ProposePlanRequest, body: bytes, plan_digest: str) -> JsonObject:
    """Return the plan's document if the bytes are canonical, have the digest, and say exactly what was asked.

    Every field is the request's (numbers by value) or one of the server's own. Raises EchoMismatch, NotCanonical.
    """
    if digest("plan", body) != plan_digest:
        raise EchoMismatch("", "the digest is not that of the bytes")
    document = parse_canonical(body)
    mine = _expected(request)
    theirs = {key: value for key, value in document.items() if key not in SERVER_FIELDS}
    steps = theirs.get("steps")
    if isinstance(steps, list):
        theirs["steps"] = [_without_server_fields(step) for step in steps]
    _compare(mine, theirs, "")
    return document


def _step(step: Step) -> plan_pb2.ProposedStep:
    undo = step.undo
    return plan_pb2.ProposedStep(
        id=step.id,
        tool=step.tool,
        target=step.target,
        args_json=canonical(dict(step.args)),
        needs=step.needs,
        timeout_seconds=step.timeout_seconds,
        retry_max=step.retry_max,
        retry_backoff_seconds=step.retry_backoff_seconds,
        undo=plan_pb2.ProposedUndo(tool=undo.tool, args_json=canonical(dict(undo.args)), if_exists=undo.if_exists)
        if undo
        else None,
        on_fail=step.on_fail,
        post=[plan_pb2.ProposedCondition(kind=one.kind, ref=one.ref, value_json=_json(one.value)) for one in step.post],
    )


def _json(value: Any) -> bytes:
    """Return the canonical bytes of any JSON value."""
    return canonical({"": value})[len(b'{"":') : -1]


def _model(model: tuple[str, str, str] | None) -> plan_pb2.ModelInfo | None:
    return plan_pb2.ModelInfo(provider=model[0], id=model[1], version=model[2]) if model else None


def _expected(request: plan_pb2.ProposePlanRequest) -> JsonObject:
    """Return the document that the request stands for; what is empty stays out."""
    document: JsonObject = {
        "v": 1,
        "objective": request.objective,
        "constraints": list(request.constraints),
        "rejected_alternatives": list(request.rejected_alternatives),
        "data_sources": list(request.data_sources),
        "confidence_ppm": request.confidence_ppm if request.HasField("confidence_ppm") else None,
        "confidence_method": request.confidence_method,
        "unverified": list(request.unverified),
        "deadline_seconds": request.deadline_seconds,
        "supersedes": request.supersedes,
        "not_before_time": _time(request, "not_before_time"),
        "expire_time": _time(request, "expire_time"),
        "steps": [_expected_step(step) for step in request.steps],
    }
    if request.HasField("model"):
        model = request.model
        document["model"] = {"provider": model.provider, "id": model.id, "version": model.version}
    return document


def _expected_step(step: plan_pb2.ProposedStep) -> JsonObject:
    document: JsonObject = {
        "id": step.id,
        "tool": step.tool,
        "target": step.target,
        "args": parse_strict(step.args_json),
        "needs": list(step.needs),
        "timeout_seconds": step.timeout_seconds,
        "on_fail": step.on_fail,
    }
    if step.post:
        document["post"] = [_expected_condition(condition) for condition in step.post]
    if step.retry_max or step.retry_backoff_seconds:
        document["retry"] = {"max": step.retry_max, "backoff_seconds": step.retry_backoff_seconds}
    if step.HasField("undo"):
        undo = step.undo
        document["undo"] = {"tool": undo.tool, "args": parse_strict(undo.args_json), "if_exists": undo.if_exists}
    return document


def _expected_condition(condition: plan_pb2.ProposedCondition) -> JsonObject:
    value = parse_strict(b'{"value":' + condition.value_json + b"}")["value"]
    return {"kind": condition.kind, "ref": condition.ref, "value": value}


def _time(request: plan_pb2.ProposePlanRequest, name: str) -> str:
    return getattr(request, name).ToJsonString() if request.HasField(name) else ""  # type: ignore[arg-type]


def _without_server_fields(step: Any) -> Any:
    if not isinstance(step, dict):
        return step
    kept = {key: value for key, value in step.items() if key not in SERVER_STEP_FIELDS}
    if isinstance(kept.get("undo"), dict):
        kept["undo"] = {key: value for key, value in kept["undo"].items() if key != "tool_digest"}
    return kept


_ABSENT: tuple[Any, ...] = (None, "", 0, False, [], "none")
"""Values that say the same as leaving the field out. Only fields of the plan's own schema are compared so."""


def _compare(mine: JsonObject, theirs: JsonObject, where: str) -> None:
    for key in sorted(mine.keys() | theirs.keys()):
        at = f"{where}/{key}"
        if key not in mine:
            raise EchoMismatch(at, "a field was added")
        want, got = mine[key], theirs.get(key)
        if key == "steps":
            _compare_steps(want, got, at)
        elif isinstance(want, dict) and key in ("undo", "retry", "model"):
            if not isinstance(got, dict):
                raise EchoMismatch(at, "a field was dropped")
            _compare(want, got, at)
        elif key == "args":
            if not _same(want, got):  # here an empty value is not an absent one
                raise EchoMismatch(at, "the arguments are not the ones proposed")
        elif not _same(want, got) and not (_absent(want) and _absent(got)):
            raise EchoMismatch(at, "the value is not the one proposed")


def _compare_steps(want: list[JsonObject], got: Any, where: str) -> None:
    if not isinstance(got, list) or len(got) != len(want):
        raise EchoMismatch(where, "the number of steps is not the one proposed")
    for index, (mine, theirs) in enumerate(zip(want, got, strict=True)):
        if not isinstance(theirs, dict):
            raise EchoMismatch(f"{where}/{index}", "not a step")
        silent = theirs.get("undo") == "none" and "undo" not in mine  # "none" is what leaving it out means
        _compare(mine, {k: v for k, v in theirs.items() if not (silent and k == "undo")}, f"{where}/{index}")


def _absent(value: Any) -> bool:
    return any(value is item or (type(value) is type(item) and value == item) for item in _ABSENT)


def _same(want: Any, got: Any) -> bool:
    """Compare JSON values; numbers by value, but true is not 1."""
    if isinstance(want, bool) or isinstance(got, bool):
        return want is got
    if isinstance(want, dict) and isinstance(got, dict):
        return want.keys() == got.keys() and all(_same(want[key], got[key]) for key in want)
    if isinstance(want, list) and isinstance(got, list):
        return len(want) == len(got) and all(map(_same, want, got))
    return bool(want == got)
