"""Signed notes (C2SP signed-note.md) with Ed25519 keys: reading, and the parts that a signer assembles.

A signature by a key that the reader knows must verify, or the whole note is refused; signatures by unknown keys, and
so all of algorithms that this library does not have, are ignored. A key signs the note's text (a log) or cosigns it
under a time (a witness, C2SP tlog-cosignature.md): its algorithm byte says which, and the two never stand in for one
another. Verification itself lives here, signing in the log's key store.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from counterseal.ledger import ed25519
from counterseal.ledger.encoding import b64, parse_b64, parse_text
from counterseal.ledger.errors import VerificationError

MAX_BYTES = 1_000_000
MAX_SIGNATURES = 100
ED25519 = 0x01
COSIGNATURE = 0x04
"""Ed25519 over the text under a header and a time ("cosignature/v1")."""

MAX_TIME = (1 << 63) - 1

_HEX_ID = re.compile(r"[0-9a-f]{8}")
_DASH = "\u2014 "


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A named Ed25519 public key; its text form, the *vkey*, is `<name>+<key id in hex>+<base64>`.

    algorithm: ED25519 signs a note's text, COSIGNATURE cosigns it under a time.
    """

    name: str
    public: bytes
    algorithm: int = ED25519

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that stand before each of its signatures: SHA-256(name, 0x0A, algorithm, public)[:4]."""
        return _key_id(self.name, bytes([self.algorithm]) + self.public)

    @property
    def vkey(self) -> str:
        """The key as text."""
        return f"{self.name}+{self.key_id.hex()}+{b64(bytes([self.algorithm]) + self.public)}"

    @classmethod
    def make(cls, name: str, public: bytes, algorithm: int = ED25519) -> "VerifierKey":
        """Return a checked key. Raises VerificationError for a bad name, length, or a point of small order."""
        if not _is_name(name):
            raise VerificationError("a key name is empty, or holds a space, a control character or '+'")
        if not ed25519.is_valid_key(public):
            raise VerificationError("the public key is not a usable Ed25519 point")
        return cls(name, public, algorithm)

    @classmethod
    def parse(cls, vkey: str) -> "VerifierKey":
        """Read a log's vkey. Raises VerificationError for anything but the one spelling of a valid Ed25519 key."""
        name, material = split_vkey(vkey)
        if len(material) != 33 or material[0] != ED25519:
            raise VerificationError("the verifier key is not an Ed25519 key (type byte 1 and 32 bytes)")
        return cls.make(name, material[1:])

    @classmethod
    def parse_cosigner(cls, vkey: str) -> "VerifierKey":
        """Read a witness's vkey. Raises VerificationError unless it is the one spelling of a valid Ed25519 key.

        Published witness keys carry type byte 4, older ones type byte 1; both mean the key that cosigns.
        """
        name, material = split_vkey(vkey)
        if len(material) != 33 or material[0] not in (ED25519, COSIGNATURE):
            raise VerificationError("the verifier key is not an Ed25519 key (type byte 4 or 1 and 32 bytes)")
        return cls.make(name, material[1:], COSIGNATURE)

    def message(self, text: str, time: int) -> bytes:
        """Return what this key signs of a note's text; a cosigner signs it under the POSIX time in seconds."""
        if self.algorithm == COSIGNATURE:
            return f"cosignature/v1\ntime {time}\n{text}".encode()
        return text.encode()


def split_vkey(vkey: str) -> tuple[str, bytes]:
    """Return name and key material (algorithm byte, public key) of a vkey of any algorithm.

    Raises VerificationError when it is malformed or its key id is not that of name and material.
    """
    parts = vkey.split("+", 2)
    if len(parts) != 3:
        raise VerificationError("a verifier key has three parts, separated by '+'")
    name, key_id, encoded = parts
    if not _is_name(name):
        raise VerificationError("a key name is empty, or holds a space, a control character or '+'")
    if not _HEX_ID.fullmatch(key_id):
        raise VerificationError("the key id of a verifier key is 8 lower-case hex digits")
    material = parse_b64(encoded, "the key material")
    if len(material) < 2:
        raise VerificationError("the verifier key has no key material")
    if _key_id(name, material).hex() != key_id:
        raise VerificationError("the key id does not belong to the name and the key")
    return name, material


@dataclass(frozen=True, slots=True)
class Note:
    """A note whose signatures were checked: its text (with the final newline) and who signed it.

    times: for each cosigner among the signers, the latest POSIX time in seconds at which it cosigned.
    """

    text: str
    signers: tuple[VerifierKey, ...]
    times: Mapping[VerifierKey, int] = field(default_factory=dict)


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
    times: dict[VerifierKey, int] = {}
    for signature in signatures:
        signer = known.get((signature.name, signature.key_id))
        if signer is None:
            continue
        time, value = _parts(signer, signature.value)
        if time > MAX_TIME or not ed25519.verify(signer.public, signer.message(text, time), value):
            raise VerificationError(f"the signature by {signer.name}+{signer.key_id.hex()} does not verify")
        if signer not in signers:
            signers.append(signer)
        if signer.algorithm == COSIGNATURE:
            times[signer] = max(time, times.get(signer, 0))
    if not signers:
        raise VerificationError("the note has no signature by a known key")
    return Note(text, tuple(signers), times)


def cosignature(time: int, signature: bytes) -> bytes:
    """Return the value of a cosignature line: the time as a big-endian uint64, then the Ed25519 signature."""
    return time.to_bytes(8, "big") + signature


def _parts(signer: VerifierKey, value: bytes) -> tuple[int, bytes]:
    """Return time and Ed25519 signature of a signature line's value; time 0 for a key that signs without one."""
    if signer.algorithm == COSIGNATURE:
        return int.from_bytes(value[:8], "big"), value[8:]
    return 0, value


def _key_id(name: str, material: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + material).digest()[:4]


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
