"""What a witness and its client say to each other (C2SP tlog-witness.md), as values: no socket, no disk, no key.

A witness cosigns a head only if it is the head that it cosigned last, grown: the caller proves it by a consistency
proof from exactly that size. Refusals are the specification's status codes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from counterseal.ledger.checkpoint import Checkpoint, open_signed, parse_text
from counterseal.ledger.encoding import b64, parse_b64, parse_decimal
from counterseal.ledger.encoding import parse_text as parse_utf8
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import Signature, VerifierKey, assemble, open_note, signature_line, split
from counterseal.ledger.tree import EMPTY_ROOT, HASH_SIZE, verify_consistency

ADD_CHECKPOINT = "add-checkpoint"
MAX_PROOF_LINES = 63
MAX_REQUEST_BYTES = 1 << 20
SIZE_TYPE = "text/x.tlog.size"

BAD_REQUEST, FORBIDDEN, NOT_FOUND, CONFLICT, UNPROCESSABLE = 400, 403, 404, 409, 422


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request to cosign `note`: `proof` leads from the tree of `old` entries to the note's."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes

    def serialize(self) -> bytes:
        """Return the request's body."""
        lines = [f"old {self.old}", *(b64(one) for one in self.proof)]
        return ("\n".join(lines) + "\n\n").encode() + self.note

    @classmethod
    def parse(cls, data: bytes) -> "AddCheckpoint":
        """Read a request's body. Raises VerificationError when it is malformed."""
        if len(data) > MAX_REQUEST_BYTES:
            raise VerificationError(f"a request of {len(data)} bytes; at most {MAX_REQUEST_BYTES} are read")
        text = parse_utf8(data, "the request")
        head, separator, note = text.partition("\n\n")
        first, *lines = head.split("\n")
        if not separator or not first.startswith("old "):
            raise VerificationError("a request is an old size, proof lines, an empty line and a checkpoint")
        if len(lines) > MAX_PROOF_LINES:
            raise VerificationError(f"{len(lines)} proof lines; at most {MAX_PROOF_LINES} are read")
        proof = tuple(parse_b64(line, "a hash of the proof") for line in lines)
        if any(len(one) != HASH_SIZE for one in proof):
            raise VerificationError(f"a hash of the proof has not {HASH_SIZE} bytes")
        return cls(parse_decimal(first.removeprefix("old "), "the old size"), proof, note.encode())


@dataclass(frozen=True, slots=True)
class Grown:
    """A head that may be cosigned. lines: the signature lines of the log's keys that were verified."""

    checkpoint: Checkpoint
    text: str
    lines: tuple[str, ...]


class Refused(Exception):
    """The request is refused with an HTTP status. size: of the last cosigned checkpoint, with CONFLICT.

    evidence: the note that was refused though its log signed it; it may be proof of a fork.
    """

    def __init__(self, status: int, message: str, *, size: int | None = None, evidence: bytes | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.size, self.evidence = status, message, size, evidence


def origin_of(data: bytes) -> str:
    """Return the log that a request is about. Raises Refused (400) when it is malformed."""
    try:
        return parse_text(split(AddCheckpoint.parse(data).note)[0]).origin
    except VerificationError as error:
        raise Refused(BAD_REQUEST, error.message) from None


def origin_hash(origin: str) -> str:
    """Return the name under which a witness shows a log: SHA-256 of the origin, in lower-case hex."""
    return hashlib.sha256(origin.encode()).hexdigest()


def check(data: bytes, last: Checkpoint | None, logs: Mapping[str, Sequence[VerifierKey]]) -> Grown:
    """Return the head that may be cosigned after `last`, which must stay the last one until the new one is stored.

    logs: the keys that are trusted for each origin. Raises Refused.
    """
    try:
        request = AddCheckpoint.parse(data)
        text, signatures = split(request.note)
        claim = parse_text(text)
    except VerificationError as error:
        raise Refused(BAD_REQUEST, error.message) from None
    keys = logs.get(claim.origin)
    if not keys:
        raise Refused(NOT_FOUND, "this witness does not know the log")
    try:
        head, _ = open_signed(request.note, keys)
    except VerificationError as error:
        raise Refused(FORBIDDEN, error.message) from None
    if request.old > head.size:
        raise Refused(BAD_REQUEST, "the old size is larger than the checkpoint's")
    size = last.size if last is not None else 0
    if request.old != size:
        raise Refused(CONFLICT, f"the last cosigned size is {size}", size=size)
    try:
        _check_growth(request, head, last)
    except VerificationError as error:
        raise Refused(UNPROCESSABLE, error.message, evidence=request.note) from None
    return Grown(head, text, tuple(_lines(signatures, keys)))


def _check_growth(request: AddCheckpoint, head: Checkpoint, last: Checkpoint | None) -> None:
    if head.size == 0 and head.root != EMPTY_ROOT:
        raise VerificationError("an empty tree has another root")
    if last is None or last.size == 0:
        if request.proof:
            raise VerificationError("the empty tree needs no proof")
        return
    verify_consistency(last.size, head.size, last.root, head.root, request.proof)


def _lines(signatures: Sequence[Signature], keys: Sequence[VerifierKey]) -> list[str]:
    known = {(key.name, key.key_id): key for key in keys}
    found = [
        signature_line(known[one.name, one.key_id], one.value) for one in signatures if (one.name, one.key_id) in known
    ]
    return list(dict.fromkeys(found))


def cosignatures(note: bytes, answer: bytes, key: VerifierKey) -> list[str]:
    """Return the signature lines by `key` in a witness's answer to `note`; each is verified and has a time.

    Raises VerificationError when the answer is malformed, or has none by that key that verifies.
    """
    text, _ = split(note)
    _, signatures = split(assemble(text, [parse_utf8(answer, "the answer")]))
    lines = [signature_line(key, one.value) for one in signatures if (one.name, one.key_id) == (key.name, key.key_id)]
    opened = open_note(assemble(text, lines), [key]) if lines else None
    if opened is None or not opened.times.get(key):
        raise VerificationError(f"the answer has no cosignature by {key.name}+{key.key_id.hex()} with a time")
    return lines
