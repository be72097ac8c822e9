"""The client's document out of a ProposePlan request: exactly what was said, in the plan's own form."""

from typing import Any

from counterseal.api.executor.v1 import plan_pb2
from counterseal.canonical import JsonObject, parse_strict
from counterseal.documents.plan import Draft, parse_draft
from counterseal.errors import InputInvalid, NotCanonical, PlanInvalid

MAX_TEXT = 65_536


def draft_of(request: plan_pb2.ProposePlanRequest) -> Draft:
    """Return the draft. What the client left out stays out. Raises PlanInvalid or NotCanonical with a pointer."""
    if not 1 <= len(request.idempotency_key) <= 128:
        raise InputInvalid("idempotency_key must have 1 to 128 characters", pointer="/idempotency_key")
    for name in ("rationale", "user_request", "intent"):
        if len(getattr(request, name)) > MAX_TEXT:
            raise InputInvalid(f"{name} is longer than {MAX_TEXT} characters", pointer=f"/{name}")
    document: JsonObject = {
        "v": 1,
        "objective": request.objective,
        "steps": [_step(step, f"/steps/{index}") for index, step in enumerate(request.steps)],
    }
    for name in ("constraints", "rejected_alternatives", "data_sources", "unverified"):
        if values := list(getattr(request, name)):
            document[name] = values
    if request.HasField("model"):
        model = request.model
        document["model"] = {"provider": model.provider, "id": model.id, "version": model.version}
    if request.HasField("confidence_ppm"):
        document["confidence_ppm"] = request.confidence_ppm
    if request.confidence_method:
        document["confidence_method"] = request.confidence_method
    if request.HasField("not_before_time"):
        document["not_before_time"] = _time(request.not_before_time, "not_before_time")
    if request.HasField("expire_time"):
        document["expire_time"] = _time(request.expire_time, "expire_time")
    if request.deadline_seconds:
        document["deadline_seconds"] = request.deadline_seconds
    if request.supersedes:
        document["supersedes"] = request.supersedes
    return parse_draft(document)


def _step(step: plan_pb2.ProposedStep, where: str) -> JsonObject:
    document: JsonObject = {
        "id": step.id,
        "tool": step.tool,
        "target": step.target,
        "args": _args(step.args_json, f"{where}/args"),
    }
    if step.needs:
        document["needs"] = list(step.needs)
    if step.timeout_seconds:
        document["timeout_seconds"] = step.timeout_seconds
    if step.retry_max or step.retry_backoff_seconds:
        document["retry"] = {"max": step.retry_max, "backoff_seconds": step.retry_backoff_seconds}
    if step.HasField("undo"):
        undo = step.undo
        document["undo"] = {"tool": undo.tool, "args": _args(undo.args_json, f"{where}/undo/args")}
        if undo.if_exists:
            document["undo"]["if_exists"] = True
    if step.on_fail:
        document["on_fail"] = step.on_fail
    if step.post:
        document["post"] = [_condition(item, f"{where}/post/{index}") for index, item in enumerate(step.post)]
    return document


def _condition(condition: plan_pb2.ProposedCondition, where: str) -> JsonObject:
    # Strict parsing is of objects, so the value travels through one. Text that closes it early leaves another key.
    try:
        document = parse_strict(b'{"value":' + condition.value_json + b"}")
    except NotCanonical as error:
        pointer = where + (error.metadata.get("pointer", "") or "/value")
        raise NotCanonical(error.message, where=pointer) from None
    if set(document) != {"value"}:
        raise NotCanonical("not one JSON value", where=f"{where}/value")
    return {"kind": condition.kind, "ref": condition.ref, "value": document["value"]}


def _args(data: bytes, where: str) -> JsonObject:
    try:
        return parse_strict(data)
    except NotCanonical as error:
        raise NotCanonical(error.message, where=where + error.metadata.get("pointer", "")) from None


def _time(moment: Any, name: str) -> str:
    milliseconds = moment.ToMilliseconds()
    if not 0 <= milliseconds < 253_402_300_800_000:
        raise PlanInvalid(f"/{name}: lies outside of what RFC 3339 can say", pointer=f"/{name}")
    moment.FromMilliseconds(milliseconds)
    text: str = moment.ToJsonString()
    return text
