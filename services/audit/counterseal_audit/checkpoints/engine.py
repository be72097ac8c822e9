"""What must hold before a head is signed: it is the last signed one, grown by exactly the stored entry bytes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from counterseal.errors import AnchorMissing
from counterseal.ledger import ed25519
from counterseal.ledger import entry as entries
from counterseal.ledger.checkpoint import Checkpoint, open_checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey, assemble, signature_line
from counterseal.ledger.tree import Frontier, leaf_hash
from counterseal_audit.logs.anchors import Anchor

ROTATED = "key.rotated"
_ROTATED_MARK = b'"type":"key.rotated"'


@dataclass(frozen=True, slots=True)
class Published:
    """A stored checkpoint: the frontier behind the note's size, and the note.

    cosigned: the note with witnesses' signature lines, None without. witnessed: whether they meet the witness policy.
    """

    frontier: Frontier
    root: bytes
    note: bytes
    cosigned: bytes | None = None
    witnessed: bool = False

    @property
    def public(self) -> bytes:
        """The bytes that are shown to the world."""
        return self.cosigned if self.cosigned is not None else self.note


@dataclass(frozen=True, slots=True)
class Rotation:
    """The `n`-th `key.rotated` entry of a log (from 1): its index and the new public key (32 bytes)."""

    n: int
    index: int
    public: bytes


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys that a log may be signed with, oldest first, and when each was accepted (milliseconds; first: 0)."""

    keys: tuple[VerifierKey, ...]
    accept_times_ms: tuple[int, ...]

    def signing(self, now_ms: int, overlap_ms: int) -> tuple[VerifierKey, ...]:
        """Return the keys to sign with now: the newest, behind the one before it while their overlap lasts."""
        if len(self.keys) > 1 and now_ms < self.accept_times_ms[-1] + overlap_ms:
            return self.keys[-2:]
        return self.keys[-1:]

    def retired(self, now_ms: int, overlap_ms: int) -> tuple[VerifierKey, int] | None:
        """Return the key that stopped signing when the last overlap ended, and when that was; None before the end."""
        if len(self.keys) < 2 or now_ms < self.accept_times_ms[-1] + overlap_ms:
            return None
        return self.keys[-2], self.accept_times_ms[-1] + overlap_ms


def start_of(published: Published | None, keys: Sequence[VerifierKey]) -> Frontier:
    """Return the frontier to go on from, after checking our own last note and what is stored beside it.

    Raises VerificationError when the note is not ours or the stored frontier is not the signed one.
    """
    if published is None:
        return Frontier()
    signed = open_checkpoint(published.note, keys)
    frontier = published.frontier
    if (signed.origin, signed.size, signed.root) != (keys[0].name, frontier.size, frontier.root()):
        raise VerificationError("the stored frontier is not that of the last signed checkpoint", kind="forked")
    return frontier


def check_reach(signed: int, anchor: Anchor, size: int) -> None:
    """Raise unless the anchor lies between the last signed size and the head's.

    AnchorMissing: the anchor is from before the last checkpoint, so people must judge which of the two is right.
    VerificationError: the head is shorter than what was reserved, so the database lost entries.
    """
    if anchor.size < signed:
        raise AnchorMissing("the log's anchor is older than its last signed checkpoint")
    if size < anchor.size:
        raise VerificationError(f"the anchor says {anchor.size} entries, the head {size}", kind="forked")


def grow(frontier: Frontier, stored: Iterable[bytes]) -> Frontier:
    """Return the frontier after hashing entry bytes as they are stored; stored leaf hashes are not believed."""
    return frontier.extend(leaf_hash(data) for data in stored)


def check_anchor(recomputed: Frontier, anchor: Anchor) -> None:
    """Raise VerificationError unless the entries up to the anchor's size add up to what was reserved there."""
    if recomputed.size != anchor.size:
        raise VerificationError(
            f"the anchor says {anchor.size} entries, {recomputed.size} of them are stored", kind="forked"
        )
    if recomputed.root() != anchor.root:
        raise VerificationError(f"the entries of size {anchor.size} do not add up to the anchor's root", kind="forked")


def check_head(recomputed: Frontier, size: int, root: bytes) -> None:
    """Raise VerificationError unless the head row is what the entries add up to."""
    if recomputed.size != size:
        raise VerificationError(f"the head says {size} entries, {recomputed.size} are stored", kind="forked")
    if recomputed.root() != root:
        raise VerificationError(f"the entries of size {size} do not add up to the head's root", kind="forked")


def rotations_in(stored: Sequence[bytes], start: int, origin: str, known: int) -> list[Rotation]:
    """Return the rotations of this log's own key among entries that stand at index `start` and behind it.

    known: how many rotations stand before them.
    """
    found: list[Rotation] = []
    for offset, data in enumerate(stored):
        if _ROTATED_MARK not in data:
            continue
        entry = entries.parse(data)
        about = (entry.type, entry.data.get("kind"), entry.data.get("name"), entry.data.get("state", "active"))
        if about == (ROTATED, "log", origin, "active") and "public_key" in entry.data:
            found.append(Rotation(known + len(found) + 1, start + offset, bytes.fromhex(entry.data["public_key"])))
    return found


def text_of(origin: str, frontier: Frontier) -> str:
    """Return the text that is signed."""
    return Checkpoint(origin, frontier.size, frontier.root()).text()


def note_of(text: str, signatures: Sequence[tuple[VerifierKey, bytes]]) -> bytes:
    """Return the signed note. Raises VerificationError when a signature is not by the key that should have made it."""
    for key, signature in signatures:
        if not ed25519.verify(key.public, text.encode(), signature):
            raise VerificationError("the signature that came back is not by the log's key")
    return assemble(text, [signature_line(key, signature) for key, signature in signatures])
