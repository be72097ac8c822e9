"""Ledger entries between their wire form (`audit.v1.NewEntry`) and their content (the object that is hashed).

Text, lists and messages that are empty on the wire are absent from the content; numbers and flags of an event are
always there. Producers make entries with `new_entry`, which refuses here what the ledger would refuse later.
"""

import functools
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from counterseal.api.audit.v1 import event_pb2, ledger_pb2
from counterseal.canonical import JsonObject
from counterseal.errors import InputInvalid, NotCanonical
from counterseal.identity import Caller
from counterseal.ledger import disclosure
from counterseal.ledger import entry as entries
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.registry import REGISTRY
from counterseal.trace_context import current_trace_id

_TEXTS = (
    "tenant",
    "environment",
    "request_id",
    "txn",
    "trace_id",
    "subject",
    "agent",
    "agent_version",
    "stream",
    "plan_digest",
    "step",
)
MAX_WIRE_BYTES = 3 << 20
"""What one entry may weigh on the wire, disclosures included: gRPC refuses messages above 4 MiB and names no reason."""

_ANYONE = "p_" + "a" * 26


def new_entry(
    kind: str,
    data: Mapping[str, Any],
    *,
    event_id: str,
    event_time_ms: int,
    tenant: str,
    environment: str,
    sealed: Mapping[str, Any] | None = None,
    refs: Sequence[tuple[str, str]] = (),
    seq: int = 0,
    attempt: int = 0,
    retention: str = "",
    randomness: Callable[[int], bytes] = secrets.token_bytes,
    **texts: str,
) -> ledger_pb2.NewEntry:
    """Return an entry of type `kind`, such as `step.intent`, that the ledger will take.

    data: the clear fields of the type (`counterseal.ledger.registry`); absent ones may be left out or empty.
    sealed: name -> JSON value; each is salted and only its digest becomes part of the entry.
    refs: (event id, relation) pairs. texts: further header fields, such as `request_id`, `subject`, `plan_digest`.
    The trace id is the current call's, unless given.
    People are named in clear here (`user:ana`); the ledger stores pseudonyms.
    Raises InputInvalid, naming the field.
    """
    texts.setdefault("trace_id", current_trace_id())
    unknown = texts.keys() - set(_TEXTS)
    if unknown:
        raise InputInvalid(f"an entry has no header field {min(unknown)!r}")
    try:
        disclosures = [disclosure.make(name, value, randomness) for name, value in sorted((sealed or {}).items())]
    except NotCanonical as error:
        raise InputInvalid(f"a sealed field of {kind} cannot be sealed: {error.message}") from error
    entry = ledger_pb2.NewEntry(
        event_id=event_id,
        event_time_ms=event_time_ms,
        tenant=tenant,
        environment=environment,
        seq=seq,
        attempt=attempt,
        refs=[ledger_pb2.EntryRef(event_id=target, rel=rel) for target, rel in refs],
        event=event(kind, data),
        disclosures=disclosures,
        retention=retention,
        **texts,
    )
    check(entry)
    return entry


def caller_texts(caller: Caller) -> dict[str, str]:
    """Return the header texts that follow from who calls, for `new_entry`: request, txn, subject, agent."""
    texts = {
        "request_id": caller.request_id,
        "txn": caller.txn,
        "subject": caller.subject,
        "agent": caller.agent,
        "agent_version": caller.agent_version,
    }
    return {name: value for name, value in texts.items() if value}


def event(kind: str, data: Mapping[str, Any]) -> event_pb2.Event:
    """Return the typed event. Raises InputInvalid for an unknown type or field, or a value of the wrong type."""
    message = event_pb2.Event()
    if kind not in REGISTRY:
        raise InputInvalid(f"{kind!r} is not an event type")
    inner = getattr(message, kind.replace(".", "_"))
    inner.SetInParent()
    _fill(inner, data, kind)
    return message


def check(entry: ledger_pb2.NewEntry) -> None:
    """Raise InputInvalid unless the ledger will take the entry (apart from who sends it)."""
    if entry.ByteSize() > MAX_WIRE_BYTES:
        raise InputInvalid(f"an entry with disclosures of {entry.ByteSize()} bytes; at most {MAX_WIRE_BYTES} are sent")
    try:
        content = entries.pseudonymise(content_of(entry), lambda _person: _ANYONE)
        known = entries.check_content(content)
        disclosure.check(entry.disclosures, known.sealed)
        entries.build(content, entries.Srv(event_time(entry), min(known.producers), (), entry.retention))
    except VerificationError as error:
        raise InputInvalid(error.message) from error


def event_time(entry: ledger_pb2.NewEntry) -> int:
    """Return when the event happened, in milliseconds since the Unix epoch."""
    return int(entry.event_time_ms)


def kind_of(entry: ledger_pb2.NewEntry) -> str:
    """Return the entry's type, such as `step.intent`; empty when the event is not set."""
    return _kind(entry.event.WhichOneof("event"))


def content_of(entry: ledger_pb2.NewEntry) -> JsonObject:
    """Return the entry's content: everything but `srv`, people still in clear, unchecked."""
    field = entry.event.WhichOneof("event")
    content: JsonObject = {"v": entries.VERSION, "type": _kind(field), "event_id": entry.event_id}
    content["event_time_ms"] = event_time(entry)
    for name in _TEXTS:
        if text := getattr(entry, name):
            content[name] = text
    if entry.stream or entry.seq:
        content["seq"] = entry.seq
    if entry.attempt:
        content["attempt"] = entry.attempt
    if entry.refs:
        content["refs"] = [{"event_id": ref.event_id, "rel": ref.rel} for ref in entry.refs]
    content["data"] = _object(getattr(entry.event, field)) if field else {}
    return content | entries.sealed_digests(entry.disclosures)


def _object(message: Message) -> JsonObject:
    out: JsonObject = {}
    for name, is_repeated, is_message in _fields_of(message.DESCRIPTOR):
        value = getattr(message, name)
        if is_repeated:
            if value:
                out[name] = [_object(item) for item in value] if is_message else list(value)
        elif is_message:
            if message.HasField(name):
                out[name] = _object(value)
        elif value != "":
            out[name] = value
    return out


@functools.cache
def _kind(field: str | None) -> str:
    return (field or "").replace("_", ".", 1)


@functools.cache
def _fields_of(descriptor: Any) -> tuple[tuple[str, bool, bool], ...]:
    """Return (name, repeated, message) of every field: asking the descriptor is dearer than reading the value."""
    return tuple((field.name, field.is_repeated, field.message_type is not None) for field in descriptor.fields)


def _fill(message: Message, data: Mapping[str, Any], where: str) -> None:
    fields = message.DESCRIPTOR.fields_by_name
    for name, value in data.items():
        field = fields.get(name)
        if field is None:
            raise InputInvalid(f"{where} has no field {name!r}")
        if value is None:
            continue
        place = f"{where}.{name}"
        try:
            if field.message_type is not None:
                _fill_messages(message, field, value, place)
            elif field.is_repeated:
                getattr(message, name).extend(value)
            else:
                setattr(message, name, value)
        except (TypeError, ValueError) as error:
            raise InputInvalid(f"{place} has a value of the wrong type or range") from error


def _fill_messages(message: Message, field: Any, value: Any, where: str) -> None:
    if field.is_repeated:
        for item in value:
            _fill(getattr(message, field.name).add(), item, where)
    else:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _fill(inner, value, where)
