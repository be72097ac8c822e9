"""Sealed fields: salted disclosures whose digests stand in the entry (RFC 9901, "Disclosures").

A disclosure is base64url(JSON `[salt, name, value]`); the entry holds only SHA-256 over that string. Whoever has the
string can show the value; once the string is destroyed nothing in the log can be guessed back, as the salt is random.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from counterseal.canonical import canonical, parse_strict
from counterseal.errors import NotCanonical
from counterseal.ledger.encoding import b64url, parse_b64url
from counterseal.ledger.errors import VerificationError

SD_ALG = "sha-256"
SALT_BYTES = 16

_HEAD = re.compile(rb'\["([A-Za-z0-9_-]{1,128})","([a-z][a-z0-9_]{0,63})",')


@dataclass(frozen=True, slots=True)
class Disclosure:
    """One sealed field in the open: its salt (base64url text), its name and its JSON value."""

    salt: str
    name: str
    value: Any


def make(name: str, value: Any, randomness: Callable[[int], bytes]) -> str:
    """Return the disclosure string of one field under a fresh salt of 128 bits.

    Raises NotCanonical when the value is not strict JSON or larger than 1 MiB.
    """
    head = f'["{b64url(randomness(SALT_BYTES))}","{name}",'.encode()
    return b64url(head + canonical({"v": value})[len(b'{"v":') : -1] + b"]")


def parse(disclosure: str) -> Disclosure:
    """Read a disclosure string as `make` writes it. Raises VerificationError for any other bytes.

    The salt must decode to at least 16 bytes; the value is strict JSON of at most 1 MiB.
    """
    raw = parse_b64url(disclosure, "a disclosure")
    head = _HEAD.match(raw)
    if head is None or not raw.endswith(b"]"):
        raise VerificationError("a disclosure is not a JSON array of salt, name and value")
    salt = head[1].decode()
    if len(parse_b64url(salt, "a salt")) < SALT_BYTES:
        raise VerificationError(f"a salt has fewer than {SALT_BYTES} bytes")
    try:
        wrapped = parse_strict(b'{"v":' + raw[head.end() : -1] + b"}")
    except NotCanonical as error:
        raise VerificationError(f"the value of {head[2].decode()!r} is not strict JSON: {error.message}") from None
    if wrapped.keys() != {"v"}:
        raise VerificationError("a disclosure is not a JSON array of salt, name and value")
    return Disclosure(salt, head[2].decode(), wrapped["v"])


def digest(disclosure: str) -> str:
    """Return what the entry holds of a disclosure: base64url(SHA-256(its ASCII text))."""
    return b64url(hashlib.sha256(disclosure.encode("ascii", "replace")).digest())


def digests(disclosures: Iterable[str]) -> list[str]:
    """Return the entry's `_sd`: the digests, sorted, so that their order tells nothing."""
    return sorted(digest(disclosure) for disclosure in disclosures)


def check(disclosures: Sequence[str], sealed_names: Iterable[str]) -> list[Disclosure]:
    """Parse the disclosures of one entry: known names, each once, no salt twice. Raises VerificationError."""
    allowed = frozenset(sealed_names)
    parsed = [parse(disclosure) for disclosure in disclosures]
    names: set[str] = set()
    salts: set[str] = set()
    for item in parsed:
        if item.name not in allowed:
            raise VerificationError(f"{item.name!r} is not a sealed field of this type")
        if item.name in names:
            raise VerificationError(f"the sealed field {item.name!r} occurs twice")
        if item.salt in salts:
            raise VerificationError("two disclosures share a salt")
        names.add(item.name)
        salts.add(item.salt)
    return parsed
