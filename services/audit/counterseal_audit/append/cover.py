"""Acknowledging beyond durability: wait until a checkpoint covers the entries, and prove that it does."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.errors import InputInvalid
from counterseal.ledger import entry as entries
from counterseal.ledger.proof import TlogProof
from counterseal_audit.checkpoints.demand import Demand
from counterseal_audit.checkpoints.store import CheckpointStore, StoredCheckpoint
from counterseal_audit.reader.trees import Trees

DURABLE = ledger_pb2.APPEND_MODE_DURABLE
WITNESSED = ledger_pb2.APPEND_MODE_WITNESSED
_MODES = frozenset(ledger_pb2.AppendMode.values())

MAX_WAIT_SECONDS = 30.0
STREAM_WAIT_SECONDS = 5.0
_MARGIN_SECONDS = 0.3
_PROOFS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """An entry to be proven: its index, and the disclosures that travel with the proof."""

    index: int
    disclosures: Sequence[str]


class Cover:
    """Checkpoints for those who wait for them."""

    def __init__(self, demand: Demand, checkpoints: CheckpointStore, trees: Trees, *, has_witnesses: bool) -> None:
        self._demand = demand
        self._checkpoints = checkpoints
        self._trees = trees
        self._has_witnesses = has_witnesses

    def check_mode(self, mode: int) -> int:
        """Return the mode that is meant. Raises InputInvalid for one that cannot be served."""
        if mode == ledger_pb2.APPEND_MODE_UNSPECIFIED:
            return DURABLE
        if mode not in _MODES:
            raise InputInvalid(f"mode {mode}: not one that this ledger knows")
        if mode == WITNESSED and not self._has_witnesses:
            raise InputInvalid("this ledger has no witnesses; ask for CHECKPOINTED")
        return mode

    async def wait(self, sizes: Mapping[int, int], mode: int, seconds: float) -> dict[int, StoredCheckpoint]:
        """Wait until each log (id -> entries) is covered as `mode` demands; leave out those that are not in time."""
        found = await asyncio.gather(
            *(self._one(log_id, size, witnessed=mode == WITNESSED, seconds=seconds) for log_id, size in sizes.items())
        )
        return {log_id: one for log_id, one in zip(sizes, found, strict=True) if one is not None}

    async def proofs(self, log_id: int, wanted: Sequence[Wanted], checkpoint: StoredCheckpoint) -> list[bytes]:
        """Return the `.tlog-proof` of each entry under a checkpoint that covers them all."""
        made, signed = [], {checkpoint.size: checkpoint.published.root}
        for start in range(0, len(wanted), _PROOFS_AT_ONCE):
            some = wanted[start : start + _PROOFS_AT_ONCE]
            paths = await self._trees.paths(log_id, [(one.index, checkpoint.size) for one in some], signed)
            for one in some:
                extra = entries.encode({"disclosures": list(one.disclosures)}) if one.disclosures else None
                path = tuple(paths[one.index, checkpoint.size])
                made.append(TlogProof(one.index, path, checkpoint.published.public, extra).serialize())
        return made

    async def _one(self, log_id: int, size: int, *, witnessed: bool, seconds: float) -> StoredCheckpoint | None:
        seen = self._demand.known(log_id, size, witnessed=witnessed)
        if seen is not None:
            return seen
        waiting = asyncio.create_task(self._demand.wait(log_id, size, witnessed=witnessed))
        try:
            await asyncio.sleep(0)  # it waits before we look, so that nothing is missed in between
            known = await self._checkpoints.covering(log_id, size, witnessed=witnessed)
            if known is not None:
                return known
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(asyncio.shield(waiting), seconds)
            return None
        finally:
            waiting.cancel()


def seconds_of(remaining: float | None) -> float:
    """Return how long to wait for a caller with so many seconds left: an answer has to reach it, whatever it says."""
    if remaining is None:
        return MAX_WAIT_SECONDS
    return max(min(MAX_WAIT_SECONDS, remaining - min(_MARGIN_SECONDS, remaining / 4)), 0.0)
