"""How a disclosure is encrypted, whose it is, and when it is due to go. Pure.

XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha): 24-byte random nonces need no counter. The associated data names log,
event and position, so a ciphertext opens nowhere else; never the index, which changes with each lost race.
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as _decrypt
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as _encrypt
from nacl.exceptions import CryptoError

from counterseal.canonical import JsonObject
from counterseal.errors import InputInvalid

KEY_BYTES = 32
NONCE_BYTES = 24
OVERHEAD_BYTES = NONCE_BYTES + 16
LOG_OWNER = ""
"""Owner of the data key for what belongs to nobody in particular."""

_CONTEXT = b"counterseal ledger-payload v1\x00"
_RETENTION = re.compile(r"r([1-9][0-9]{0,4})d")
_AUTHORS = ("approver", "resolver")
_PLATFORM = ("policy.", "tool.", "containment.", "autonomy.", "key.", "log.", "hold.", "erasure.", "access.")


class PayloadDamaged(Exception):
    """A ciphertext does not open: it, its place or its key is not what it was sealed with."""


def associated_data(origin: str, event_id: str, ord_: int) -> bytes:
    """Return what binds a ciphertext to its log, event and position."""
    name, event = origin.encode(), event_id.encode()
    return b"".join((_CONTEXT, len(name).to_bytes(4), name, len(event).to_bytes(4), event, ord_.to_bytes(4)))


def seal(key: bytes, aad: bytes, disclosure: str, randomness: Callable[[int], bytes]) -> bytes:
    """Return nonce (24 bytes) and ciphertext with tag, `OVERHEAD_BYTES` longer than the ASCII text."""
    nonce = randomness(NONCE_BYTES)
    return nonce + _encrypt(disclosure.encode("ascii"), aad, nonce, key)


def open_sealed(key: bytes, aad: bytes, ciphertext: bytes) -> str:
    """Return the disclosure string. Raises PayloadDamaged."""
    try:
        return _decrypt(ciphertext[NONCE_BYTES:], aad, ciphertext[:NONCE_BYTES], key).decode("ascii")
    except (CryptoError, ValueError, TypeError) as error:
        raise PayloadDamaged from error


def owner(content: JsonObject) -> str:
    """Return the pseudonym of the person under whose key an entry's payload is sealed, `LOG_OWNER` where none is.

    What somebody said (a vote, a resolution) is theirs; otherwise the payload is the subject's. Policies, tools and
    operators' notes are the tenant's own: erasing the person who wrote them must not take them from replay.
    """
    if _is_platform(content):
        return LOG_OWNER
    data = content["data"]
    return str(next((data[name] for name in _AUTHORS if name in data), content.get("subject", LOG_OWNER)))


def concerns(content: JsonObject, person: str) -> bool:
    """Tell whether an entry's payload has to go when `person` (a pseudonym) is erased: theirs, or said by them."""
    if _is_platform(content):
        return False
    return person in (content.get("subject"), *(content["data"].get(name) for name in _AUTHORS))


def before(document: JsonObject, time_ms: int) -> bool:
    """Tell whether an entry is of before a time by its producer's clock or by ours (one of them may be ahead)."""
    return min(int(document["event_time_ms"]), int(document["srv"]["receive_time_ms"])) <= time_ms


def due_on(retention: str, receive_time_ms: int) -> date | None:
    """Return the day (UTC) after which payload of a retention class is dropped; None without a class: never by age.

    A class is `r<days>d`, such as `r400d`. Raises InputInvalid for any other text.
    """
    if not retention:
        return None
    known = _RETENTION.fullmatch(retention)
    if known is None:
        raise InputInvalid("retention: expected r<days>d, such as r400d", retention=retention[:64])
    return (datetime.fromtimestamp(receive_time_ms / 1000, UTC) + timedelta(days=int(known[1]))).date()


def _is_platform(content: JsonObject) -> bool:
    return str(content["type"]).startswith(_PLATFORM)
