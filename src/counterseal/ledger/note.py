"""Signed notes (C2SP signed-note.md) with Ed25519 keys: reading, and the parts that a signer assembles.

A signature by a key that the reader knows must verify, or the whole note is refused; signatures by unknown keys are
ignored. Verification itself lives here, signing in the log's key store.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from counterseal.ledger import ed25519
from counterseal.ledger.encoding import b64, parse_b64, parse_text
from counterseal.ledger.errors import VerificationError

MAX_BYTES = 1_000_000
MAX_SIGNATURES = 100
ED25519 = 0x01

_HEX_ID = re.compile(r"[0-9a-f]{8}")
_DASH = "\u2014 "


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A named Ed25519 public key; its text form, the *vkey*, is `<name>+<key id in hex>+<base64>`."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that stand before each of its signatures: SHA-256(name, 0x0A, 0x01, public)[:4]."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([ED25519]) + self.public).digest()[:4]

    @property
    def vkey(self) -> str:
        """The key as text."""
        return f"{self.name}+{self.key_id.hex()}+{b64(bytes([ED25519]) + self.public)}"

    @classmethod
    def make(cls, name: str, public: bytes) -> "VerifierKey":
        """Return a checked key. Raises VerificationError for a bad name, length, or a point of small order."""
        if not _is_name(name):
            raise VerificationError("a key name is empty, or holds a space, a control character or '+'")
        if not ed25519.is_valid_key(public):
            raise VerificationError("the public key is not a usable Ed25519 point")
        return cls(name, public)

    @classmethod
    def parse(cls, vkey: str) -> "VerifierKey":
        """Read a vkey. Raises VerificationError for anything but the one spelling of a valid Ed25519 key."""
        parts = vkey.split("+", 2)
        if len(parts) != 3:
            raise VerificationError("a verifier key has three parts, separated by '+'")
        name, key_id, encoded = parts
        if not _HEX_ID.fullmatch(key_id):
            raise VerificationError("the key id of a verifier key is 8 lower-case hex digits")
        material = parse_b64(encoded, "the key material")
        if len(material) != 33 or material[0] != ED25519:
            raise VerificationError("the verifier key is not an Ed25519 key (type byte 1 and 32 bytes)")
        key = cls.make(name, material[1:])
        if key.key_id.hex() != key_id:
            raise VerificationError("the key id does not belong to the name and the key")
        return key


@dataclass(frozen=True, slots=True)
class Note:
    """A note whose signatures were checked: its text (with the final newline) and who signed it."""

    text: str
    signers: tuple[VerifierKey, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: the key's name, its 4-byte id, and the signature itself."""

    name: str
    key_id: bytes
    value: bytes


def signature_line(key: VerifierKey, signature: bytes) -> str:
    """Return the line that carries `signature`, made by `key` over the note's text."""
    return f"{_DASH}{key.name} {b64(key.key_id + signature)}\n"


def assemble(text: str, lines: Iterable[str]) -> bytes:
    """Return the note made of `text` (ends in a newline) and signature lines."""
    return f"{text}\n{''.join(lines)}".encode()


def split(data: bytes) -> tuple[str, tuple[Signature, ...]]:
    """Return text and signatures of a note, unverified. Raises VerificationError when it is malformed."""
    if len(data) > MAX_BYTES:
        raise VerificationError(f"a note of {len(data)} bytes; at most {MAX_BYTES} are read")
    note = parse_text(data, "the note")
    at = note.rfind("\n\n")
    if at < 0:
        raise VerificationError("the note has no blank line before its signatures")
    text, block = note[: at + 1], note[at + 2 :]
    if not block.endswith("\n"):
        raise VerificationError("the note does not end in a newline" if block else "the note has no signatures")
    lines = block[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise VerificationError(f"the note has {len(lines)} signatures; at most {MAX_SIGNATURES} are read")
    return text, tuple(_signature(line) for line in lines)


def open_note(data: bytes, keys: Sequence[VerifierKey]) -> Note:
    """Verify a note with the keys that the reader trusts; at least one of them must have signed it.

    Raises VerificationError when the note is malformed, when a known key's signature does not verify, when no known
    key signed, or when a key is listed twice.
    """
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if (key.name, key.key_id) in known:
            raise VerificationError(f"the key {key.name}+{key.key_id.hex()} is listed twice")
        known[key.name, key.key_id] = key
    text, signatures = split(data)
    signers: list[VerifierKey] = []
    for signature in signatures:
        signer = known.get((signature.name, signature.key_id))
        if signer is None:
            continue
        if not ed25519.verify(signer.public, text.encode(), signature.value):
            raise VerificationError(f"the signature by {signer.name}+{signer.key_id.hex()} does not verify")
        if signer not in signers:
            signers.append(signer)
    if not signers:
        raise VerificationError("the note has no signature by a known key")
    return Note(text, tuple(signers))


def _signature(line: str) -> Signature:
    if not line.startswith(_DASH):
        raise VerificationError("a signature line does not start with an em dash and a space")
    name, separator, encoded = line.removeprefix(_DASH).partition(" ")
    if not separator or not _is_name(name):
        raise VerificationError("a signature line is not of the form: dash, key name, signature")
    raw = parse_b64(encoded, "a signature")
    if len(raw) < 5:
        raise VerificationError("a signature is shorter than its key id")
    return Signature(name, raw[:4], raw[4:])


def _is_name(name: str) -> bool:
    if any(char.isspace() or char < " " or "\ud800" <= char <= "\udfff" for char in name):
        return False
    return bool(name) and "+" not in name
