"""One look at a log by somebody who looks again and again: is what is shown now what was shown before, grown?

A monitor keeps its last good checkpoint and the tree up to the last full bundle under it, so that a look reads only
what is new. Whatever does not hold leaves what was kept as it is: the two notes are the evidence.
"""

from dataclasses import dataclass, field
from typing import Any

from counterseal.canonical import canonical, parse_canonical
from counterseal.errors import NotCanonical
from counterseal.ledger import entry as entries
from counterseal.ledger.checkpoint import Checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.fields import HEX
from counterseal.ledger.findings import Findings, worst
from counterseal.ledger.keyring import Keyring, claimed, rotation_path
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.policy import Policy
from counterseal.ledger.tiles import CHECKPOINT, WIDTH
from counterseal.ledger.tree import Frontier
from counterseal.ledger.verify import OnProgress
from counterseal.ledger.walk import Files, Walk


@dataclass(frozen=True, slots=True)
class Kept:
    """What a monitor remembers of a log.

    note: the last checkpoint that held. full: the tree up to the last full bundle under it. keys: public keys (hex)
    that the log was rotated to so far. rotated, archived: as the entries so far say. last_time_ms: when the last entry
    was received.
    """

    note: bytes
    full: Frontier
    keys: tuple[str, ...] = ()
    rotated: tuple[tuple[int, str], ...] = ()
    archived: tuple[str, ...] = ()
    last_time_ms: int = 0

    def serialize(self) -> bytes:
        """Return the state as one canonical JSON document."""
        return canonical(
            {
                "archived": list(self.archived),
                "full": {"hashes": self.full.serialize().hex(), "size": self.full.size},
                "keys": list(self.keys),
                "last_time_ms": self.last_time_ms,
                "note": self.note.decode(),
                "rotated": [[index, public] for index, public in self.rotated],
                "v": 1,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> "Kept":
        """Read what `serialize` wrote. Raises VerificationError for anything else."""
        try:
            document = parse_canonical(data)
        except NotCanonical as error:
            raise VerificationError(f"the monitor's state is damaged: {error.message}") from None
        kept = _restored(document)
        if kept is None or kept.serialize() != data:
            raise VerificationError("the monitor's state is damaged: it is not what a monitor writes")
        return kept


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found. kept: what to remember from now on; the old state where something does not hold.

    seen: the checkpoint note that was shown, None when none was. age_ms: how old the log's last entry is.
    """

    head: Checkpoint | None
    kept: Kept | None
    seen: bytes | None
    findings: tuple[VerificationError, ...]
    omitted_count: int = 0
    age_ms: int = 0
    times: dict[str, int] = field(default_factory=dict)

    @property
    def verdict(self) -> str | None:
        """The worst kind of finding, None when everything holds."""
        return worst(self.findings)


def look(
    files: Files,
    pinned: VerifierKey,
    kept: Kept | None,
    *,
    now_ms: int,
    max_age_ms: int,
    policy: Policy | None = None,
    on_progress: OnProgress | None = None,
) -> Look:
    """Look at the log once. Never raises for what the files hold.

    max_age_ms: how old the last entry may be; a living log has a heartbeat entry at least every half of that.
    """
    one = _Look(files, pinned, kept, Findings())
    head = one.run(on_progress)
    findings, times, age_ms = one.findings, {}, 0
    if head is not None:
        age_ms = max(0, now_ms - one.last_time_ms)
        if policy is not None and one.seen is not None:
            seen = one.seen
            witnessed = findings.attempt(CHECKPOINT, lambda: policy.open(seen, one.keys.accepted))
            times = dict(witnessed.times) if witnessed is not None else {}
    fresh = one.remembered(head) if head is not None and worst(findings.kept) is None else kept
    if head is not None and age_ms > max_age_ms:
        findings.add(f"the last entry is {age_ms // 60_000} minutes old", CHECKPOINT, "stale")
    return Look(head, fresh, one.seen, tuple(findings.kept), findings.omitted_count, age_ms, times)


class _Look:
    """The work of one look."""

    def __init__(self, files: Files, pinned: VerifierKey, kept: Kept | None, findings: Findings) -> None:
        self.files, self.pinned, self.kept, self.findings = files, pinned, kept, findings
        self.seen: bytes | None = None
        self.last_time_ms = kept.last_time_ms if kept is not None else 0
        self.keys = self._keyring(kept)
        self._full = kept.full if kept is not None else Frontier()
        self._known = 0

    def run(self, on_progress: OnProgress | None) -> Checkpoint | None:
        """Return the head after comparing it with what was kept; None when there is none to speak of."""
        self.seen = self.findings.attempt(CHECKPOINT, self._read_checkpoint)
        seen = self.seen
        if seen is None:
            return None
        claim = self.findings.attempt(CHECKPOINT, lambda: claimed(seen))
        if claim is None:
            return None
        before = self.keys.open_old(self.kept.note) if self.kept is not None else None
        if before is not None and claim.size <= before.size:
            head = self.findings.attempt(CHECKPOINT, lambda: self.keys.open_old(seen))
            if head is not None:
                self._compare(before, head)
            return head
        return self._grow(before, claim, seen, on_progress)

    def remembered(self, head: Checkpoint) -> Kept | None:
        """Return what to keep after a look at which everything held."""
        if self.kept is not None and self.seen == self.kept.note:
            return self.kept
        assert self.seen is not None, head  # noqa: S101 (a head was read from it)
        return Kept(
            self.seen,
            self._full,
            tuple(key.public.hex() for key in self.keys.accepted[1:]),
            tuple(self.keys.rotated),
            tuple(sorted(self.keys.archived)),
            self.last_time_ms,
        )

    def _read_checkpoint(self) -> bytes:
        data = self.files.read(CHECKPOINT)
        if data is None:
            raise VerificationError("the file is missing", kind="incomplete")
        return data

    def _compare(self, before: Checkpoint, head: Checkpoint) -> None:
        if head.size < before.size:
            self.findings.add(
                f"the log was cut: it showed {before.size} entries before, {head.size} are shown now", CHECKPOINT
            )
        elif head.root != before.root:
            self.findings.add(f"two different roots of size {head.size}", CHECKPOINT, "forked")

    def _grow(
        self, before: Checkpoint | None, claim: Checkpoint, seen: bytes, on_progress: OnProgress | None
    ) -> Checkpoint | None:
        rotations = self._rotations(claim.size)
        start = self._full
        if any(one.size <= start.size for _, one in rotations):
            # A rotation's note came later than the entries that it covers: read them again.
            start, self.keys = Frontier(), self._keyring(None)
            rotations = self._rotations(claim.size)
        self._known = before.size if before is not None and start.size else 0
        marks = {one.size for _, one in rotations} | ({before.size} if before is not None else set())
        walk = Walk(self.files, claim, self.findings, self._on_entries, start=start, marks=frozenset(marks))
        whole = walk.run(on_progress)
        if before is not None and before.size in walk.roots and walk.roots[before.size] != before.root:
            self.findings.add(
                f"the first {before.size} entries are not those that were shown before: two histories of one log",
                CHECKPOINT,
                "forked",
            )
        if not whole or not walk.is_gapless:
            return self.findings.attempt(CHECKPOINT, lambda: self.keys.open_old(seen))
        for note, _ in rotations:
            number = len(self.keys.accepted)
            if self.findings.attempt(rotation_path(number), lambda: self._accept(number, note, walk)) is None:  # noqa: B023
                break
        self._full = walk.full
        return self.findings.attempt(CHECKPOINT, lambda: self.keys.open_head(seen))

    def _accept(self, number: int, note: bytes, walk: Walk) -> bool:
        self.keys.accept(number, note, walk.roots)
        return True

    def _rotations(self, size: int) -> list[tuple[bytes, Checkpoint]]:
        """Return the notes of rotations that are not accepted yet, with what they claim.

        A note of a tree larger than `size` came between reading the checkpoint and reading it: the next look's matter.
        """
        found: list[tuple[bytes, Checkpoint]] = []
        while len(found) < WIDTH:
            path = rotation_path(len(self.keys.accepted) + len(found))
            note = self.findings.attempt(path, lambda: self.files.read(path))  # noqa: B023
            one = self.findings.attempt(path, lambda: claimed(note)) if note is not None else None  # noqa: B023
            if note is None or one is None or one.size > size:
                break
            found.append((note, one))
        return found

    def _on_entries(self, start: int, logged: list[bytes], path: str) -> None:
        last: entries.Entry | None = None
        for index, data in enumerate(logged, start):
            try:
                entry = entries.parse(data)
            except VerificationError as error:
                self.findings.note(error.at(f"{path}, entry {index}"))
                continue
            last = entry
            if index >= self._known:
                self.keys.see(index, entry)
        if last is not None:
            self.last_time_ms = int(last.document["srv"]["receive_time_ms"])

    def _keyring(self, kept: Kept | None) -> Keyring:
        if kept is None:
            return Keyring(self.pinned)
        later = [VerifierKey.make(self.pinned.name, bytes.fromhex(public)) for public in kept.keys]
        return Keyring(self.pinned, [self.pinned, *later], list(kept.rotated), set(kept.archived))


def _restored(document: dict[str, Any]) -> Kept | None:
    try:
        full = Frontier.parse(document["full"]["size"], bytes.fromhex(document["full"]["hashes"]))
        kept = Kept(
            document["note"].encode(),
            full,
            tuple(document["keys"]),
            tuple((index, public) for index, public in document["rotated"]),
            tuple(document["archived"]),
            document["last_time_ms"],
        )
        good = full.size % WIDTH == 0 and all(HEX.fullmatch(one) and len(one) == 64 for one in kept.keys)
        return kept if good else None
    except (KeyError, TypeError, ValueError, AttributeError, VerificationError):
        return None
