"""Offline proofs of one entry (C2SP tlog-proof.md), stored as `.tlog-proof` files."""

import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from counterseal.ledger.checkpoint import Checkpoint, open_checkpoint
from counterseal.ledger.encoding import b64, parse_b64, parse_decimal, parse_text
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import HASH_SIZE, leaf_hash, verify_inclusion

HEADER = "c2sp.org/tlog-proof@v1"
MAX_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class TlogProof:
    """That an entry stands at `index`: its audit path and the signed checkpoint, verbatim.

    `extra` is opaque and not authenticated by itself; None when the line is absent.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def serialize(self) -> bytes:
        """Return the file's bytes."""
        extra = "" if self.extra is None else f"extra {b64(self.extra)}\n"
        lines = [f"{HEADER}\n{extra}index {self.index}\n".encode(), *map(binascii.b2a_base64, self.path)]
        return b"".join(lines) + b"\n" + self.checkpoint

    def verify(self, entry: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
        """Return the checkpoint after checking its signature and that `entry` lies under it at `index`."""
        checkpoint = open_checkpoint(self.checkpoint, keys)
        verify_inclusion(self.index, checkpoint.size, leaf_hash(entry), self.path, checkpoint.root)
        return checkpoint


def parse(data: bytes) -> TlogProof:
    """Read a `.tlog-proof`; its checkpoint is opened by `TlogProof.verify`. Raises VerificationError when malformed."""
    if len(data) > MAX_BYTES:
        raise VerificationError(f"a proof of {len(data)} bytes; at most {MAX_BYTES} are read")
    text = parse_text(data, "the proof")
    head, separator, checkpoint = text.partition("\n\n")
    if not separator or not checkpoint:
        raise VerificationError("the proof has no checkpoint after a blank line")
    lines = head.split("\n")
    if lines.pop(0) != HEADER:
        raise VerificationError(f"the first line of a proof is {HEADER!r}")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = parse_b64(lines.pop(0).removeprefix("extra "), "the extra line")
    if not lines or not lines[0].startswith("index "):
        raise VerificationError("the proof has no index line")
    index = parse_decimal(lines.pop(0).removeprefix("index "), "the index")
    path = tuple(parse_b64(line, "a hash of the proof") for line in lines)
    if any(len(sibling) != HASH_SIZE for sibling in path):
        raise VerificationError(f"a hash of the proof has not {HASH_SIZE} bytes")
    return TlogProof(index, path, checkpoint.encode(), extra)
