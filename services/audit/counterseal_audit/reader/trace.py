"""What belongs to one action: from any of its entries to plan, request and the stops it met. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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


def plans_of(entries: Iterable[bytes]) -> list[str]:
    """Return the digests that the entries name."""
    return _values(map(_document, entries), "plan_digest")


def requests_of(entries: Iterable[bytes]) -> list[str]:
    """Return the agent's requests behind a plan's entries; a vote or a resolution has a request of its own."""
    documents = [_document(entry) for entry in entries]
    by_agent = [document for document in documents if "agent" in document]
    return _values(by_agent or documents, "request_id")


def proposed_in(entries: Iterable[bytes]) -> frozenset[str]:
    """Return the plans that were proposed: every other digest is that of a draft, decided on for its preview."""
    documents = map(_document, entries)
    return frozenset(_values((one for one in documents if one.get("type") == "plan.proposed"), "plan_digest"))


def is_around(entry: bytes, plans: Sequence[str], proposed: frozenset[str]) -> bool:
    """Tell whether an entry of the request belongs to the plans: theirs, nobody's, or a draft's."""
    digest = _document(entry).get("plan_digest")
    return digest is None or digest in plans or digest not in proposed


def is_over(entries: Iterable[bytes]) -> bool:
    """Tell whether every committed plan among the entries has ended: what happens later does not concern it."""
    documents = [_document(entry) for entry in entries]
    ended = _values((one for one in documents if one.get("type") == "plan.ended"), "plan_digest")
    return set(_values((one for one in documents if one.get("type") == "plan.committed"), "plan_digest")) <= set(ended)


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
