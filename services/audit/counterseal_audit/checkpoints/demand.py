"""Who waits for a checkpoint: callers that asked for CHECKPOINTED or WITNESSED."""

import asyncio
from dataclasses import dataclass

from counterseal_audit.checkpoints.store import StoredCheckpoint


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    size: int
    witnessed: bool
    answer: "asyncio.Future[StoredCheckpoint]"

    def is_met_by(self, checkpoint: StoredCheckpoint) -> bool:
        return checkpoint.size >= self.size and (checkpoint.published.witnessed or not self.witnessed)


class Demand:
    """Wakes the publisher when somebody waits, and those who wait when a checkpoint covers them."""

    def __init__(self) -> None:
        self._waiters: dict[int, set[_Waiter]] = {}
        self._latest: dict[tuple[int, bool], StoredCheckpoint] = {}
        self.asked = asyncio.Event()

    def logs(self) -> set[int]:
        """Return the logs for whose next checkpoint somebody waits."""
        return set(self._waiters)

    def wants_witnesses(self, log_id: int) -> bool:
        """Tell whether somebody waits for a witnessed checkpoint of a log."""
        return any(waiter.witnessed for waiter in self._waiters.get(log_id, ()))

    def known(self, log_id: int, size: int, *, witnessed: bool) -> StoredCheckpoint | None:
        """Return the latest checkpoint that this process saw, if it covers `size` entries."""
        latest = self._latest.get((log_id, witnessed))
        return latest if latest is not None and latest.size >= size else None

    async def wait(self, log_id: int, size: int, *, witnessed: bool) -> StoredCheckpoint:
        """Return the first checkpoint seen from now on that covers `size` entries; cancel it to give up."""
        waiter = _Waiter(size, witnessed, asyncio.get_running_loop().create_future())
        self._waiters.setdefault(log_id, set()).add(waiter)
        self.asked.set()
        try:
            return await waiter.answer
        finally:
            self._drop(log_id, waiter)

    def see(self, log_id: int, checkpoint: StoredCheckpoint) -> None:
        """Answer those whom a stored checkpoint covers."""
        for witnessed in (False, True)[: 1 + checkpoint.published.witnessed]:
            if self.known(log_id, checkpoint.size, witnessed=witnessed) is None:
                self._latest[log_id, witnessed] = checkpoint
        for waiter in list(self._waiters.get(log_id, ())):
            if waiter.is_met_by(checkpoint):
                if not waiter.answer.done():
                    waiter.answer.set_result(checkpoint)
                self._drop(log_id, waiter)

    def _drop(self, log_id: int, waiter: _Waiter) -> None:
        waiting = self._waiters.get(log_id)
        if waiting is None:
            return
        waiting.discard(waiter)
        if not waiting:
            del self._waiters[log_id]
        if not self._waiters:
            self.asked.clear()
