"""What belongs to one action: from any of its entries to plan, request and the stops it met. Pure."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from counterseal.canonical import JsonObject, parse_strict
from counterseal.errors import NotCanonical

CONTAINMENT = (
    "containment.tripped",
    "containment.stopped",
    "containment.revoked",
    "containment.quiesced",
    "containment.lifted",
)


@dataclass(frozen=True, slots=True)
class About:
    """What a trace was asked by: plans, or requests."""

    requests: Sequence[str] = ()
    plans: Sequence[str] = ()


def about(entries: Sequence[bytes]) -> About:
    """Return what some entries are about: their plans if they have any, else their requests."""
    documents = [_document(entry) for entry in entries]
    plans = _values(documents, "plan_digest")
    return About(plans=plans) if plans else About(requests=_values(documents, "request_id"))


@dataclass(frozen=True, slots=True)
class Ask:
    """What `gather` needs next: the entries from index `start` up to `end` whose `field` is one of `values`."""

    field: Literal["request_id", "plan_digest", "type"]
    values: Sequence[str]
    start: int = 0
    end: int | None = None


Row = tuple[int, bytes]
"""Index, entry bytes."""


def gather(what: About) -> Generator[Ask, Sequence[Row], dict[int, bytes]]:
    """Ask for entries and return those of the action, by index. Whoever runs it finds them, in a database or in files.

    By request: all of its plans. By plan: the plan, and of the request around it what is nobody's or a draft's; a vote
    or a resolution has a request of its own. Then the stops that reached the action before it was over.
    """
    found = _read((yield Ask("request_id", what.requests))) if what.requests else {}
    plans = what.plans or _values((one.document for one in found.values()), "plan_digest")
    if plans:
        found |= _read((yield Ask("plan_digest", plans)))
    if what.plans and (requests := _requests_of([one.document for one in found.values()])):
        around = _read((yield Ask("request_id", requests)))
        proposed = _values((one.document for one in around.values() if one.type == "plan.proposed"), "plan_digest")
        found |= {index: one for index, one in around.items() if _is_around(one.document, what.plans, proposed)}
    if found:
        scopes = Scopes.of(one.document for one in found.values())
        stops = _read((yield Ask("type", CONTAINMENT, min(found), _end_of(found))))
        found |= {index: one for index, one in stops.items() if scopes.cover(one.document)}
    return {index: found[index].entry for index in sorted(found)}


@dataclass(frozen=True, slots=True)
class _Read:
    """An entry and what it says, parsed once."""

    entry: bytes
    document: JsonObject

    @property
    def type(self) -> Any:
        return self.document.get("type")


@dataclass(frozen=True, slots=True)
class Scopes:
    """The containment scopes that reach an action."""

    exact: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, documents: Iterable[JsonObject]) -> "Scopes":
        """Return the scopes of the action that the entries tell about."""
        scopes: set[str] = set()
        for document in documents:
            tenant = document.get("tenant", "")
            scopes |= {f"environment:{document.get('environment', '')}", f"tenant:{tenant}"}
            if "agent" in document:
                scopes.add(f"agent:{tenant}/{document['agent']}")
            if "request_id" in document:
                scopes.add(f"request:{tenant}/{document['request_id']}")
            if "plan_digest" in document:
                scopes.add(f"plan:{document['plan_digest']}")
            data = document.get("data")
            if isinstance(data, dict) and isinstance(data.get("tool"), str):
                scopes.add(f"tool:{tenant}/{data['tool']}")
        return cls(frozenset(scopes))

    def cover(self, document: JsonObject) -> bool:
        """Tell whether a containment entry is about one of the scopes."""
        data = document.get("data")
        return isinstance(data, dict) and data.get("scope") in self.exact


def _read(rows: Sequence[Row]) -> dict[int, _Read]:
    return {index: _Read(entry, _document(entry)) for index, entry in rows}


def _requests_of(documents: Sequence[JsonObject]) -> list[str]:
    return _values([document for document in documents if "agent" in document] or documents, "request_id")


def _is_around(document: JsonObject, plans: Sequence[str], proposed: Sequence[str]) -> bool:
    """Tell whether an entry of the request belongs to the plans: every digest that was not proposed is a draft's."""
    digest = document.get("plan_digest")
    return digest is None or digest in plans or digest not in proposed


def _end_of(found: Mapping[int, _Read]) -> int | None:
    """Return the index from which on nothing concerns the action: its plans ended; None while one is under way."""
    ends = {index: one for index, one in found.items() if one.type == "plan.ended"}
    committed = _values((one.document for one in found.values() if one.type == "plan.committed"), "plan_digest")
    if not set(committed) <= set(_values((one.document for one in ends.values()), "plan_digest")):
        return None
    return max(ends or found) + 1


def _values(documents: Iterable[JsonObject], name: str) -> list[str]:
    return sorted({one[name] for one in documents if isinstance(one.get(name), str)})


def _document(entry: bytes) -> JsonObject:
    try:
        return parse_strict(entry)
    except NotCanonical:  # not an entry: the verifier says so, here it belongs to nothing
        return {}
