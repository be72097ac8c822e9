"""The life of an erasure, and which entries an erasure or a hold is about. Pure.

    ORDERED    the order is in the log           -> the person's keys are destroyed under each log's head lock
    ERASING    rows go, batch by batch           -> our own `payload.erased`
    WAITING    until every service has reported  -> what came late is looked for
    SWEEPING   rows of events from before the order that were appended after it (an outbox delivers late)
    FINISHED

Every step can be taken again after a crash: what it reads and what it writes are one transaction.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from counterseal.canonical import JsonObject
from counterseal.ledger.registry import EVERYONE
from counterseal_audit.payloads.engine import before, concerns

REPORTERS = tuple(sorted(EVERYONE))
"""Services that hold copies; an erasure is finished when each has appended its `payload.erased`."""

OURSELVES = "audit"
ERASURE_POLICY = "subject-erasure"
RETENTION_POLICY = "retention-class"


class State(StrEnum):
    """How far an erasure is."""

    ORDERED = "ORDERED"
    ERASING = "ERASING"
    WAITING = "WAITING"
    SWEEPING = "SWEEPING"
    FINISHED = "FINISHED"


class Covers(StrEnum):
    """What a hold selects entries by."""

    PERSON = "person"
    REQUEST_ID = "request_id"
    PLAN_DIGEST = "plan_digest"


@dataclass(frozen=True, slots=True)
class Range:
    """Entries of one log that are still to be looked at: `next_idx` <= index < `end_idx`."""

    log_id: int
    next_idx: int
    end_idx: int

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self.next_idx >= self.end_idx

    def batch(self, most: int) -> "Range":
        """Return the first part, of at most `most` entries."""
        return Range(self.log_id, self.next_idx, min(self.end_idx, self.next_idx + most))


def missing(reported: Iterable[str]) -> tuple[str, ...]:
    """Return the services that have not reported, in order of name."""
    return tuple(name for name in REPORTERS if name not in set(reported))


def erased_by(document: JsonObject, job_id: str) -> str:
    """Return the service that reports a job's erasure by this entry, empty when it is another entry."""
    if document["type"] != "payload.erased" or document["data"].get("job_id") != job_id:
        return ""
    return str(document["srv"]["producer"])


def to_erase(document: JsonObject, person: str, order_time_ms: int, deks: Collection[str]) -> bool:
    """Tell whether an entry's payload goes: it is the person's, and from before the order or under a destroyed key."""
    return concerns(document, person) and (
        before(document, order_time_ms) or not set(deks).isdisjoint(document["srv"].get("dek", ()))
    )


def needle(covers: Covers, value: str) -> bytes:
    """Return what the bytes of every entry hold that a selector means (entries are canonical; values hold no quote)."""
    return quoted(value) if covers is Covers.PERSON else f'"{covers}":"{value}"'.encode()


def quoted(value: str) -> bytes:
    """Return what the bytes of every entry hold that has this value anywhere."""
    return f'"{value}"'.encode()


def today(now_ms: int) -> date:
    """Return the day in UTC."""
    return datetime.fromtimestamp(now_ms / 1000, UTC).date()


def backup_horizon(now_ms: int, backup_days: int) -> date:
    """Return the day on which the last backup dies that may hold what is erased now."""
    return today(now_ms) + timedelta(days=backup_days)
