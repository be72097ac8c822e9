"""Checkpoints (C2SP tlog-checkpoint.md): the signed head of a log."""

from collections.abc import Sequence
from dataclasses import dataclass

from counterseal.ledger.encoding import b64, parse_b64, parse_decimal
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import ED25519, Note, VerifierKey, open_note, split
from counterseal.ledger.tree import HASH_SIZE


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of the log `origin`: `size` leaves under `root` (32 bytes). We write no extension lines."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the text that is signed."""
        lines = (self.origin, str(self.size), b64(self.root), *self.extensions)
        return "".join(line + "\n" for line in lines)


def parse_text(text: str) -> Checkpoint:
    """Read a checkpoint's text, without signatures. Raises VerificationError when it is malformed."""
    if not text.endswith("\n"):
        raise VerificationError("the checkpoint does not end in a newline")
    lines = text[:-1].split("\n")
    if len(lines) < 3:
        raise VerificationError("a checkpoint has at least three lines: origin, size, root")
    if not all(lines):
        raise VerificationError("a line of the checkpoint is empty")
    root = parse_b64(lines[2], "the checkpoint's root")
    if len(root) != HASH_SIZE:
        raise VerificationError(f"the checkpoint's root has {len(root)} bytes; SHA-256 has {HASH_SIZE}")
    return Checkpoint(lines[0], parse_decimal(lines[1], "the checkpoint's size"), root, tuple(lines[3:]))


def open_checkpoint(data: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Verify a signed checkpoint: a known key signed it, and a key of the log itself is among the signers.

    Raises VerificationError when the note or its text is malformed, or no signer bears the origin as its name.
    """
    return open_signed(data, keys)[0]


def open_signed(data: bytes, keys: Sequence[VerifierKey]) -> tuple[Checkpoint, Note]:
    """Do as `open_checkpoint` and return the note too: who signed it, and when whom of them cosigned it."""
    note = open_note(data, keys)
    checkpoint = parse_text(note.text)
    if not any(signer.algorithm == ED25519 and signer.name == checkpoint.origin for signer in note.signers):
        raise VerificationError(f"the checkpoint of {checkpoint.origin!r} is not signed by that log's key")
    return checkpoint, note


def own_lines(data: bytes, origin: str) -> bytes:
    """Return the note with the signature lines of the log's own name only: what it was before witnesses cosigned it.

    Raises VerificationError when it is malformed or has no such line.
    """
    text, _ = split(data)
    lines = [line + b"\n" for line in data[len(text.encode()) + 1 :].split(b"\n")[:-1]]
    own = [line for line in lines if line.startswith(f"\u2014 {origin} ".encode())]
    if not own:
        raise VerificationError(f"the note has no signature of {origin!r}")
    return text.encode() + b"\n" + b"".join(own)
