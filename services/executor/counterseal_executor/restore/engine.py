"""Which entries of a log this executor wrote, and which of them its database does not know. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from counterseal.canonical import parse_strict
from counterseal.errors import LogForked

PRODUCER = "executor"


@dataclass(frozen=True, slots=True)
class OwnEntry:
    """An entry that an executor of this environment wrote. receive_time_ms: when the ledger took it."""

    index: int
    event_id: str
    type: str
    receive_time_ms: int


def own_entries(start: int, page: Iterable[tuple[int, bytes]]) -> list[OwnEntry]:
    """Return the executor's own entries of a page (index, entry bytes) that begins at `start`.

    Reads only what it needs: a ledger that is newer than this service may hold types that it does not know.
    Raises LogForked when the page has a gap.
    """
    found: list[OwnEntry] = []
    for offset, (index, data) in enumerate(page):
        if index != start + offset:
            raise LogForked(f"the ledger answered entry {index} where {start + offset} was due")
        document = parse_strict(data)
        if document["srv"]["producer"] == PRODUCER:
            receive = int(document["srv"]["receive_time_ms"])
            found.append(OwnEntry(index, str(document["event_id"]), str(document["type"]), receive))
    return found


def first_missing(own: Iterable[OwnEntry], known: Collection[str]) -> OwnEntry | None:
    """Return the first entry whose event id is not known here, or None."""
    return next((entry for entry in own if entry.event_id not in known), None)
