"""What must hold before a head is signed: it is the last signed one, grown by exactly the stored entry bytes."""

from collections.abc import Iterable
from dataclasses import dataclass

from counterseal.ledger import ed25519
from counterseal.ledger.checkpoint import Checkpoint, open_checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey, assemble, signature_line
from counterseal.ledger.tree import Frontier, leaf_hash


@dataclass(frozen=True, slots=True)
class Published:
    """A stored checkpoint: the frontier behind the note's size, and the note."""

    frontier: Frontier
    root: bytes
    note: bytes


def start_of(published: Published | None, key: VerifierKey) -> Frontier:
    """Return the frontier to go on from, after checking our own last note and what is stored beside it.

    Raises VerificationError when the note is not ours or the stored frontier is not the signed one.
    """
    if published is None:
        return Frontier()
    signed = open_checkpoint(published.note, [key])
    frontier = published.frontier
    if (signed.origin, signed.size, signed.root) != (key.name, frontier.size, frontier.root()):
        raise VerificationError("the stored frontier is not that of the last signed checkpoint", kind="forked")
    return frontier


def grow(frontier: Frontier, stored: Iterable[bytes]) -> Frontier:
    """Return the frontier after hashing entry bytes as they are stored; stored leaf hashes are not believed."""
    return frontier.extend(leaf_hash(data) for data in stored)


def check_head(recomputed: Frontier, size: int, root: bytes) -> None:
    """Raise VerificationError unless the head row is what the entries add up to."""
    if recomputed.size != size:
        raise VerificationError(f"the head says {size} entries, {recomputed.size} are stored", kind="forked")
    if recomputed.root() != root:
        raise VerificationError(f"the entries of size {size} do not add up to the head's root", kind="forked")


def text_of(key: VerifierKey, frontier: Frontier) -> str:
    """Return the text that is signed."""
    return Checkpoint(key.name, frontier.size, frontier.root()).text()


def note_of(key: VerifierKey, text: str, signature: bytes) -> bytes:
    """Return the signed note. Raises VerificationError when the signature is not by the log's own key."""
    if not ed25519.verify(key.public, text.encode(), signature):
        raise VerificationError("the signature that came back is not by the log's key")
    return assemble(text, [signature_line(key, signature)])
