"""What the log itself declares as gone: erasures, and what was dropped by age. Pure.

Only entries count here. The tables that say the same can be written by whoever owns the database; the entries cannot.
"""

from dataclasses import dataclass, field
from datetime import date

from counterseal.canonical import JsonObject
from counterseal.ledger.registry import EVERYONE
from counterseal_audit.payloads.engine import before, concerns, due_on

DECLARING = ("erasure.ordered", "payload.erased", "retention.dropped")
LEDGER = "audit"


@dataclass(slots=True)
class Erased:
    """One erasure as the log tells it. reported: the services that have appended their `payload.erased`."""

    person: str
    order_time_ms: int
    ordered_at: int
    reported: set[str] = field(default_factory=set)

    @property
    def missing(self) -> list[str]:
        """The services that have not reported."""
        return sorted(EVERYONE - self.reported)


@dataclass(slots=True)
class Declared:
    """Everything that a tenant's logs declare, from their declaring entries; add these before asking."""

    jobs: dict[str, Erased] = field(default_factory=dict)
    deks: set[str] = field(default_factory=set)
    dropped_before: date = date.min

    def add(self, index: int, document: JsonObject) -> None:
        """Take in one entry; those of other types say nothing."""
        kind, data = document["type"], document["data"]
        if kind == "erasure.ordered":
            job = Erased(str(data["person"]), int(document["event_time_ms"]), index)
            self.jobs.setdefault(str(data["job_id"]), job)
        elif kind == "payload.erased":
            producer, known = str(document["srv"]["producer"]), self.jobs.get(str(data["job_id"]))
            if producer == LEDGER:
                self.deks.update(map(str, data.get("deks", [])))
            if known is not None:
                known.reported.add(producer)
        elif kind == "retention.dropped":
            self.dropped_before = max(self.dropped_before, date.fromisoformat(data["due_on"]))

    def unfinished(self) -> list[Erased]:
        """Return the erasures that some service has not reported, in the order in which they were ordered."""
        return [job for job in self.jobs.values() if job.missing]

    def explains(self, document: JsonObject) -> bool:
        """Tell whether an entry's payload may be missing: its key or its person was erased, or its day is past."""
        srv = document["srv"]
        if self.deks.intersection(srv.get("dek", ())):
            return True
        due = due_on(str(srv.get("retention", "")), int(srv["receive_time_ms"]))
        if due is not None and due < self.dropped_before:
            return True
        return any(concerns(document, job.person) and before(document, job.order_time_ms) for job in self.jobs.values())

    def underway(self, document: JsonObject) -> bool:
        """Tell whether an erasure of whose payload it is has been ordered, and the ledger has not reported it."""
        return any(LEDGER not in job.reported and concerns(document, job.person) for job in self.jobs.values())
