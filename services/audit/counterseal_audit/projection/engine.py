"""What of an entry is searchable, and which entries a query means. Pure: documents in, terms out.

Only the clear part is read. An external id is kept as a blind token: HMAC under the tenant's key, so that whoever reads
the index without the key learns nothing from it and cannot try guesses.
"""

import enum
import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterseal.canonical import MAX_SAFE_INTEGER, JsonObject, parse_checked, parse_strict
from counterseal.errors import NotCanonical

UNREADABLE = "unreadable"
"""The type under which bytes are kept that are no entry: the follower goes on, the verifier says what is wrong."""

Blind = Callable[[str], str]
"""External id -> blind token."""


class Field(enum.IntEnum):
    """What can be searched for; ENTRY, with an empty value, stands for the entry. The numbers are stored."""

    ENTRY = 0
    TYPE = 1
    AGENT = 2
    SUBJECT = 3
    REQUEST_ID = 4
    PLAN_DIGEST = 5
    STEP = 6
    TOOL = 7
    REASON_CODE = 8
    EXTERNAL_ID = 9


MOST_SELECTIVE_FIRST = (
    Field.EXTERNAL_ID,
    Field.PLAN_DIGEST,
    Field.REQUEST_ID,
    Field.SUBJECT,
    Field.REASON_CODE,
    Field.TOOL,
    Field.STEP,
    Field.TYPE,
    Field.AGENT,
)
"""Which filter leads: its rows are walked in order of the index, the others are looked up."""

_HEADER = (
    (Field.AGENT, "agent"),
    (Field.SUBJECT, "subject"),
    (Field.REQUEST_ID, "request_id"),
    (Field.PLAN_DIGEST, "plan_digest"),
    (Field.STEP, "step"),
)


@dataclass(frozen=True, slots=True)
class Terms:
    """One entry as the projection keeps it: when it happened (milliseconds), and its values by field."""

    index: int
    event_time_ms: int
    values: frozenset[tuple[Field, str]]


@dataclass(frozen=True, slots=True)
class Query:
    """All of `any_of` must hold, each by one of its values; times are milliseconds, `until` is not included."""

    any_of: Mapping[Field, Sequence[str]]
    since_ms: int | None = None
    until_ms: int | None = None

    def leader(self) -> Field | None:
        """Return the filter whose rows are walked, None when there is no filter but time."""
        return next((field for field in MOST_SELECTIVE_FIRST if field in self.any_of), None)

    def matches(self, terms: Terms) -> bool:
        """Tell whether an entry is meant."""
        if self.since_ms is not None and terms.event_time_ms < self.since_ms:
            return False
        if self.until_ms is not None and terms.event_time_ms >= self.until_ms:
            return False
        return all(any((field, value) in terms.values for value in values) for field, values in self.any_of.items())


def blinder(key: bytes) -> Blind:
    """Return external id -> hex HMAC-SHA256(key, field name, 0x00, value) under a tenant's key."""

    def blind(value: str) -> str:
        return hmac.new(key, b"external_id\x00" + value.encode(), hashlib.sha256).hexdigest()

    return blind


def terms_of(index: int, entry: bytes, blind: Blind) -> Terms:
    """Return what is searchable of an entry. Never raises: unreadable bytes have a type of their own."""
    document = _document(entry)
    kind, time_ms = document.get("type"), document.get("event_time_ms")
    if not isinstance(kind, str) or not isinstance(time_ms, int) or abs(time_ms) > MAX_SAFE_INTEGER:
        return Terms(index, 0, frozenset({(Field.ENTRY, ""), (Field.TYPE, UNREADABLE)}))
    values = {(Field.ENTRY, ""), (Field.TYPE, kind)}
    values.update((field, document[name]) for field, name in _HEADER if isinstance(document.get(name), str))
    data = document.get("data")
    if isinstance(data, dict):
        values.update((Field.TOOL, tool) for tool in _tools(data))
        values.update((Field.REASON_CODE, code) for code in _texts([data.get("reason_code")]))
        values.update((Field.REASON_CODE, code) for code in _texts(data.get("reason_codes")))
        values.update((Field.EXTERNAL_ID, blind(value)) for value in _texts([data.get("external_id")]))
    return Terms(index, time_ms, frozenset(values))


def _document(entry: bytes) -> JsonObject:
    """Return what bytes hold that should be an entry, nothing for what is no JSON object.

    They were checked when they were appended, and whoever reads them verifies them, so the quick way will do: it takes
    a third of the time. What no column takes, a NUL or half a character, can be spelt with an escape only.
    """
    try:
        document = parse_strict(entry) if b"\\u" in entry else parse_checked(entry.decode())
    except (NotCanonical, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _tools(data: Mapping[str, Any]) -> Iterable[str]:
    """Yield each tool by name, and by `name@version` where the version is known."""
    named = [data.get("tool"), *(data["tools"] if isinstance(data.get("tools"), list) else [])]
    for tool in named:
        name, version = (
            (tool.get("name"), tool.get("version")) if isinstance(tool, dict) else (tool, data.get("version"))
        )
        if isinstance(name, str) and name:
            yield name
            if isinstance(version, str) and version:
                yield f"{name}@{version}"


def _texts(values: Any) -> Iterable[str]:
    return (value for value in values if isinstance(value, str) and value) if isinstance(values, list) else ()
