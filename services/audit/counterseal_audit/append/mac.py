"""The head MAC: what stands in a head row was written by a replica, not by whoever owns the database.

The key lives in memory only (stored wrapped by transit). The MAC covers the log's name, so that the rows of two logs
cannot be swapped, and whether the log is open. It does not notice an older head with its own valid MAC: the anchor and
every replica's high-water mark do.
"""

import hashlib
import hmac
from dataclasses import dataclass, field

from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tree import Frontier

_CONTEXT = b"counterseal ledger-head v1\x00"


@dataclass(frozen=True, slots=True)
class Head:
    """A log's head row. `open` is false once the log is frozen; `mac` is None in a row of before heads had one."""

    open: bool
    frontier: Frontier
    root: bytes
    mac: bytes | None


@dataclass(frozen=True, slots=True)
class HeadMac:
    """Makes and checks the MACs of one log's heads. key: 32 bytes."""

    key: bytes = field(repr=False)
    origin: str

    def of(self, frontier: Frontier, *, is_open: bool = True) -> bytes:
        """Return HMAC-SHA256(key; context, length of origin, origin, open, size, root, frontier), 32 bytes."""
        origin = self.origin.encode()
        text = b"".join(
            (
                _CONTEXT,
                len(origin).to_bytes(4),
                origin,
                b"\x01" if is_open else b"\x00",
                frontier.size.to_bytes(8),
                frontier.root(),
                frontier.serialize(),
            )
        )
        return hmac.digest(self.key, text, hashlib.sha256)

    def check(self, head: Head) -> None:
        """Raise VerificationError unless a replica wrote this head for this log."""
        if head.frontier.root() != head.root:
            raise VerificationError("the head's root is not that of its frontier", kind="forked")
        if head.mac is None or not hmac.compare_digest(head.mac, self.of(head.frontier, is_open=head.open)):
            raise VerificationError("the head's MAC is not ours: the row was written by somebody else", kind="forked")
