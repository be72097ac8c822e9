"""What belongs to one action: from any of its entries to plan, request and the stops it met. Pure."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

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
    """What `gather` needs next: all entries from index `start` on whose `field` is one of `values`."""

    field: Literal["request_id", "plan_digest", "type"]
    values: Sequence[str]
    start: int = 0


Row = tuple[int, bytes]
"""Index, entry bytes."""


def gather(what: About) -> Generator[Ask, Sequence[Row], dict[int, bytes]]:
    """Ask for entries and return those of the action, by index. Whoever runs it finds them, in a database or in files.

    By request: all of its plans. By plan: the plan, and of the request around it what is nobody's or a draft's; a vote
    or a resolution has a request of its own. Then the stops that reached the action before it was over.
    """
    found = dict((yield Ask("request_id", what.requests))) if what.requests else {}
    plans = what.plans or _values(map(_document, found.values()), "plan_digest")
    if plans:
        found.update((yield Ask("plan_digest", plans)))
    if what.plans and (requests := _requests_of(found.values())):
        around = yield Ask("request_id", requests)
        proposed = _proposed_in(entry for _, entry in around)
        found.update((index, entry) for index, entry in around if _is_around(entry, what.plans, proposed))
    if found:
        scopes = Scopes.of(found.values())
        last = _end_of(found)
        stops = yield Ask("type", CONTAINMENT, min(found))
        found.update(
            (index, entry) for index, entry in stops if (last is None or index <= last) and scopes.cover(entry)
        )
    return dict(sorted(found.items()))


def _requests_of(entries: Iterable[bytes]) -> list[str]:
    documents = [_document(entry) for entry in entries]
    return _values([document for document in documents if "agent" in document] or documents, "request_id")


def _proposed_in(entries: Iterable[bytes]) -> frozenset[str]:
    """Return the plans that were proposed: every other digest is that of a draft, decided on for its preview."""
    documents = map(_document, entries)
    return frozenset(_values((one for one in documents if one.get("type") == "plan.proposed"), "plan_digest"))


def _is_around(entry: bytes, plans: Sequence[str], proposed: frozenset[str]) -> bool:
    digest = _document(entry).get("plan_digest")
    return digest is None or digest in plans or digest not in proposed


def _end_of(found: Mapping[int, bytes]) -> int | None:
    """Return the last index that concerns the action: where its plans ended; None while one of them is under way."""
    documents = {index: _document(entry) for index, entry in found.items()}
    ends = {index: one for index, one in documents.items() if one.get("type") == "plan.ended"}
    committed = _values((one for one in documents.values() if one.get("type") == "plan.committed"), "plan_digest")
    if not set(committed) <= set(_values(ends.values(), "plan_digest")):
        return None
    return max(ends or found)


@dataclass(frozen=True, slots=True)
class Scopes:
    """The containment scopes that reach an action."""

    exact: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, entries: Iterable[bytes]) -> "Scopes":
        """Return the scopes of the action that the entries tell about."""
        scopes: set[str] = set()
        for document in map(_document, entries):
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

    def cover(self, entry: bytes) -> bool:
        """Tell whether a containment entry is about one of the scopes."""
        data = _document(entry).get("data")
        return isinstance(data, dict) and data.get("scope") in self.exact


def _values(documents: Iterable[JsonObject], name: str) -> list[str]:
    return sorted({one[name] for one in documents if isinstance(one.get(name), str)})


def _document(entry: bytes) -> JsonObject:
    try:
        return parse_strict(entry)
    except NotCanonical:  # not an entry: the verifier says so, here it belongs to nothing
        return {}
