"""What the publisher asks of others: witnesses before a checkpoint is stored, followers of it after that."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from counterseal_audit.checkpoints.engine import Published
from counterseal_audit.logs.store import Log

OnPublished = Callable[[Log, Published], Awaitable[None]]
"""Called after a checkpoint is stored. What it raises is logged and changes nothing: the checkpoint stands."""


@dataclass(frozen=True, slots=True)
class CosignedNote:
    """A checkpoint with witnesses' signature lines behind our own. is_quorum: they meet the witness policy."""

    note: bytes
    is_quorum: bool


class Witnesses(Protocol):
    """Asks the witnesses of the policy; bounded in time, raises nothing for a witness that does not answer."""

    def is_required(self, log: Log) -> bool:
        """Tell whether checkpoints of this log are held back until the policy is met."""

    async def cosign(self, log: Log, note: bytes, size: int) -> CosignedNote | None:
        """Return `note` (of `size` entries) with the cosignatures that came, None when none came."""
