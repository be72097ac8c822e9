"""What the ledger said so far, and whatever contradicts it. Pure: no clock, no socket."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from counterseal.canonical import parse_strict
from counterseal.ledger.tree import Frontier, leaf_hash

MAX_KEPT = 20
OURS = "executor"


@dataclass(slots=True)
class Contradictions:
    """Findings, of which the first few are kept in full and all are counted."""

    kept: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, text: str) -> None:
        """Note one."""
        self.count += 1
        if len(self.kept) < MAX_KEPT:
            self.kept.append(text)


@dataclass(slots=True)
class Book:
    """Every acknowledgement. An event id has one index for ever, an index one event, and one answer says "new".

    Event ids are kept as 16 bytes and leaf hashes as 32, since a run may have millions.
    """

    contradictions: Contradictions = field(default_factory=Contradictions)
    acknowledgements: int = 0
    duplicates: int = 0
    reuses_refused: int = 0
    _sent: set[bytes] = field(default_factory=set)
    _index_of: dict[bytes, int] = field(default_factory=dict)
    _at: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    _new: set[bytes] = field(default_factory=set)
    _end: int = 0

    @property
    def entries(self) -> int:
        """How many different entries were acknowledged."""
        return len(self._index_of)

    @property
    def end(self) -> int:
        """The size that a log must have to hold everything acknowledged."""
        return self._end

    def sending(self, event_id: str) -> None:
        """Note an entry that is about to be sent for the first time."""
        self._sent.add(key_of(event_id))

    def acknowledged(self, event_id: str, index: int, leaf: bytes, *, duplicate: bool) -> None:
        """Note an answer: the entry is at this index."""
        key = key_of(event_id)
        self.acknowledgements += 1
        self.duplicates += duplicate
        self._end = max(self._end, index + 1)
        known = self._index_of.setdefault(key, index)
        if known != index:
            self.contradictions.add(f"event {event_id} was acknowledged at index {known} and again at {index}")
        there = self._at.setdefault(index, (key, leaf))
        if there[0] != key:
            self.contradictions.add(f"index {index} was acknowledged for two events, {there[0].hex()} and {key.hex()}")
        elif there[1] != leaf:
            self.contradictions.add(f"index {index} was acknowledged with two leaf hashes")
        if not duplicate:
            if key in self._new:
                self.contradictions.add(f"event {event_id} was acknowledged as new twice")
            self._new.add(key)

    def reuse(self, event_id: str, reason: str) -> None:
        """Note what became of other content under a known event id; reason: empty when it was taken."""
        if reason == "IDEMPOTENCY_KEY_REUSED":
            self.reuses_refused += 1
        else:
            self.contradictions.add(f"other content under event {event_id}: {reason or 'taken'}")

    def refused(self, event_id: str, reason: str) -> None:
        """Note the refusal of an entry that is right."""
        self.contradictions.add(f"event {event_id} was refused: {reason}")

    def check_read(self, index: int, leaf: bytes) -> None:
        """Note what a reader saw at an index."""
        there = self._at.get(index)
        if there is not None and there[1] != leaf:
            self.contradictions.add(f"a reader saw another leaf at index {index} than was acknowledged")

    def check_log(self, entries: Iterable[bytes]) -> Frontier:
        """Hold a whole log, index 0 first, against every acknowledgement; return the tree that its bytes make.

        Call it when everything that was sent has been answered: by then an entry of ours that nobody was told of is a
        contradiction too.
        """
        seen: dict[bytes, int] = {}
        tree = Frontier()
        for index, data in enumerate(entries):
            document = parse_strict(data)
            key, leaf = key_of(document["event_id"]), leaf_hash(data)
            if seen.setdefault(key, index) != index:
                self.contradictions.add(f"event {document['event_id']} is in the log at {seen[key]} and {index}")
            if document["srv"]["producer"] == OURS and key not in self._index_of:
                what = "was acknowledged to nobody" if key in self._sent else "was sent by nobody"
                self.contradictions.add(f"the entry at index {index} {what}")
            there = self._at.get(index)
            if there is not None and there != (key, leaf):
                self.contradictions.add(f"the entry at index {index} is not the one that was acknowledged there")
            tree = tree.extend([leaf])
        for key, index in self._index_of.items():
            if key not in seen:
                self.contradictions.add(f"lost: event {key.hex()}, acknowledged at index {index}, is not in the log")
        return tree


def key_of(event_id: str) -> bytes:
    """Return the 16 bytes of an event id."""
    return bytes.fromhex(event_id.replace("-", ""))
