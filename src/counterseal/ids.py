"""Identifiers: UUIDv7 (RFC 9562 section 5.7) from one function, and the one derived id of the suite."""

import hashlib
import re
import secrets
from collections.abc import Callable

from counterseal.clock import Clock, system_clock

IdSource = Callable[[], str]
"""Returns a fresh UUIDv7 as lower-case text with hyphens."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_id(clock: Clock = system_clock, randomness: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """Return a UUIDv7: 48 bits of Unix milliseconds, then 74 random bits (RFC 9562 section 5.7)."""
    head = (clock() & 0xFFFF_FFFF_FFFF).to_bytes(6, "big")
    return _format(head + randomness(10), version=7)


def derived_id(preimage: bytes) -> str:
    """Return the UUIDv8 (RFC 9562 section 5.8) made of the first 16 bytes of SHA-256 over `preimage`.

    For events that happen once in a ledger's life: the commit of a plan, the rotation of a log to a key.
    """
    return _format(hashlib.sha256(preimage).digest()[:16], version=8)


def is_id(text: str) -> bool:
    """Tell whether `text` has the form of an id: a UUID in lower-case text with hyphens."""
    return _UUID.fullmatch(text) is not None


def _format(raw: bytes, version: int) -> str:
    octets = bytearray(raw)
    octets[6] = (octets[6] & 0x0F) | (version << 4)
    octets[8] = (octets[8] & 0x3F) | 0x80
    text = octets.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
