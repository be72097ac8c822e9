"""Which keys a log may sign with: the pinned one of its genesis, and those that it was rotated to.

A rotation is an entry `key.rotated`, covered by a checkpoint that an earlier key signed: `rotation/<n>` in the export.
So whoever pins the first key can follow, and a key that nobody vouched for signs nothing. Who has the whole log takes
the entries as they come (`see`, `accept`); who has a few entries of it takes each rotation with its proof (`follow`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from counterseal.ledger.checkpoint import Checkpoint, open_signed, parse_text
from counterseal.ledger.entry import Entry, parse
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey, split
from counterseal.ledger.tree import leaf_hash, verify_inclusion

MAX_ROTATIONS = 1000
KIND = "log"


def rotation_path(number: int) -> str:
    """Return the path of the note that covers the `number`-th rotation, from 1."""
    return f"rotation/{number}"


def claimed(note: bytes) -> Checkpoint:
    """Return what a note says before anybody checked its signatures. Raises VerificationError when malformed."""
    return parse_text(split(note)[0])


@dataclass(frozen=True, slots=True)
class Rotation:
    """A `key.rotated` entry at an index, and its audit path in the tree of the note that covers it."""

    index: int
    entry: bytes
    path: Sequence[bytes]
    note: bytes


@dataclass(slots=True)
class Keyring:
    """The keys of one log as its entries and rotation notes establish them; `pinned` is where trust begins."""

    pinned: VerifierKey
    accepted: list[VerifierKey] = field(default_factory=list)
    rotated: list[tuple[int, str]] = field(default_factory=list)
    """Index and public key (hex) of every `key.rotated` of this log, in order."""
    archived: set[str] = field(default_factory=set)
    """Public keys (hex) that the log said it stopped using."""

    def __post_init__(self) -> None:
        """Begin with the pinned key."""
        self.accepted = self.accepted or [self.pinned]

    def see(self, index: int, entry: Entry) -> None:
        """Take note of an entry of the log; entries come in order."""
        if entry.type not in ("key.rotated", "key.archived"):
            return
        data = entry.data
        if (data["kind"], data["name"]) != (KIND, self.pinned.name) or "public_key" not in data:
            return
        if entry.type == "key.archived" or data.get("state") == "archived":
            self.archived.add(data["public_key"])
        elif len(self.rotated) < MAX_ROTATIONS:
            self.rotated.append((index, data["public_key"]))

    def accept(self, number: int, note: bytes, roots: Mapping[int, bytes]) -> None:
        """Accept the key of the `number`-th rotation by the note that covers it.

        roots: the root at the note's size, as the entries give it. Raises VerificationError.
        """
        if number > len(self.rotated):
            raise VerificationError(f"the log holds {len(self.rotated)} rotations of its key, not {number}")
        index, public = self.rotated[number - 1]
        covering = self._covering(index, note)
        if covering.size not in roots:
            raise VerificationError(f"a tree of {covering.size} entries is larger than this copy of the log")
        if roots[covering.size] != covering.root:
            raise VerificationError(
                f"the first {covering.size} entries are not those that the rotation was signed under", kind="forked"
            )
        self._take(index, public)

    def follow(self, rotation: Rotation) -> None:
        """Accept the key of the next rotation by its entry alone, whose audit path leads to the note's root.

        What is between the rotations was not seen, so `archived` knows only what these entries say. Raises
        VerificationError.
        """
        index, entry = rotation.index, parse(rotation.entry)
        covering = self._covering(index, rotation.note)
        if covering.origin != self.pinned.name:
            raise VerificationError(f"the note that covers entry {index} is of {covering.origin}")
        verify_inclusion(index, covering.size, leaf_hash(rotation.entry), rotation.path, covering.root)
        known = len(self.rotated)
        self.see(index, entry)
        if len(self.rotated) == known:
            raise VerificationError(f"entry {index} is no rotation of the key of {self.pinned.name}")
        self._take(index, self.rotated[known][1])

    def open_head(self, data: bytes) -> Checkpoint:
        """Verify the log's latest checkpoint: by the newest key, or by an older one that is not archived yet.

        Raises VerificationError; `incomplete` when only the note of a rotation that the log holds is missing.
        """
        try:
            head, note = open_signed(data, self.accepted)
        except VerificationError:
            waiting = self._waiting()
            if not waiting:
                raise
            open_signed(data, [*self.accepted, *waiting])
            missing = rotation_path(len(self.accepted))
            raise VerificationError("the file is missing", kind="incomplete", where=missing) from None
        if all(signer.public.hex() in self.archived for signer in note.signers):
            raise VerificationError("the checkpoint is signed by a key that the log had archived only")
        return head

    def open_old(self, data: bytes) -> Checkpoint:
        """Verify an earlier checkpoint of the log, by any key that it ever had. Raises VerificationError."""
        return open_signed(data, self.accepted)[0]

    def _covering(self, index: int, note: bytes) -> Checkpoint:
        """Return the tree that a note by an accepted key vouches for; it holds entry `index`."""
        covering, _ = open_signed(note, self.accepted)
        if covering.size <= index:
            raise VerificationError(f"a tree of {covering.size} entries does not cover the rotation at entry {index}")
        return covering

    def _take(self, index: int, public: str) -> None:
        key = VerifierKey.make(self.pinned.name, bytes.fromhex(public))
        if key in self.accepted:
            raise VerificationError(f"the rotation at entry {index} names a key that the log had before")
        self.accepted.append(key)

    def _waiting(self) -> list[VerifierKey]:
        """Return the keys of rotations that no note vouched for yet."""
        keys = []
        for _, public in self.rotated[len(self.accepted) - 1 :]:
            try:
                keys.append(VerifierKey.make(self.pinned.name, bytes.fromhex(public)))
            except VerificationError:
                continue
        return list(dict.fromkeys(key for key in keys if key not in self.accepted))


def followed(trusted: Sequence[VerifierKey], genesis: VerifierKey, rotations: Sequence[Rotation]) -> Keyring:
    """Return the keys of a log to which its rotations lead from those that are trusted. Raises VerificationError.

    genesis: the first key, as it is told; nothing is believed of it. Whoever trusts a later one begins behind that
    one's rotation: nothing that they trust vouches for what was before.
    """
    ring = Keyring(trusted[0], list(trusted))
    later = {key.public.hex() for key in trusted} - {genesis.public.hex()}
    start = max(
        (n for n, one in enumerate(rotations, 1) if parse(one.entry).data.get("public_key") in later), default=0
    )
    for one in rotations[start:]:
        ring.follow(one)
    return ring
