"""What writers send: fresh entries, earlier ones again, and now and then an earlier event id with other content."""

from dataclasses import dataclass, field
from random import Random  # noqa: TID251 (seeded, so that a run can be repeated)
from typing import Literal

from bench.stacks import ENVIRONMENT, TENANT
from counterseal.api.audit.v1 import ledger_pb2
from counterseal.ids import new_id
from support.entries import changed, received

KEPT = 4096
SEALED_SHARE = 0.05
PEOPLE = 50


@dataclass(frozen=True, slots=True)
class Planned:
    """A request and what it is: `fresh`, `again` (same content as before), `other` (same id, other content)."""

    request: ledger_pb2.NewEntry
    kind: Literal["fresh", "again", "other"]


@dataclass(slots=True)
class Recent:
    """A bounded sample of requests, old and new."""

    _items: list[ledger_pb2.NewEntry] = field(default_factory=list)

    def keep(self, request: ledger_pb2.NewEntry, chance: Random) -> None:
        """Add one; when full, it takes the place of any other."""
        if len(self._items) < KEPT:
            self._items.append(request)
        else:
            self._items[chance.randrange(KEPT)] = request

    def any(self, chance: Random) -> ledger_pb2.NewEntry | None:
        """Return one of them, None while there is none."""
        return self._items[chance.randrange(len(self._items))] if self._items else None


@dataclass(slots=True)
class Mix:
    """Chooses what is sent next. duplicates, reuses: shares of all requests, 0 to 1.

    What is sent again may still be under way elsewhere; an id is reused only once its entry was acknowledged, since
    otherwise the other content could come first.
    """

    chance: Random
    duplicates: float = 0.1
    reuses: float = 0.002
    _sent: Recent = field(default_factory=Recent)
    _taken: Recent = field(default_factory=Recent)
    _template: ledger_pb2.NewEntry = field(default_factory=lambda: changed(stream="", environment=ENVIRONMENT))

    def next(self, stream: str = "", seq: int = 0) -> Planned:
        """Return the next request; a fresh one is the `seq`-th of `stream` where that is given."""
        draw = self.chance.random()
        if draw < self.reuses:
            if (known := self._taken.any(self.chance)) is not None:
                other = ledger_pb2.NewEntry()
                other.CopyFrom(known)
                other.agent_version = f"other-{self.chance.randrange(1 << 30)}"
                return Planned(other, "other")
        elif draw < self.reuses + self.duplicates and (known := self._sent.any(self.chance)) is not None:
            return Planned(known, "again")
        fresh = self._fresh(stream, seq)
        self._sent.keep(fresh, self.chance)
        return Planned(fresh, "fresh")

    def taken(self, request: ledger_pb2.NewEntry) -> None:
        """Remember that a request was acknowledged: its id may now be sent with other content."""
        self._taken.keep(request, self.chance)

    def _fresh(self, stream: str, seq: int) -> ledger_pb2.NewEntry:
        if not stream and self.chance.random() < SEALED_SHARE:
            person = f"user:u{self.chance.randrange(PEOPLE)}"
            return received(environment=ENVIRONMENT, tenant=TENANT, subject=person)
        entry = ledger_pb2.NewEntry()
        entry.CopyFrom(self._template)
        entry.event_id = new_id()
        entry.request_id = f"r-{self.chance.randrange(1 << 30)}"
        if stream:
            entry.stream, entry.seq = stream, seq
        return entry
