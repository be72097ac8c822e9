"""Settling: two clean sweeps of a tenant's target in a row, 100 ms apart; one run serves everybody who waits.

Why two, and why a pause: a login past its check but not yet in `pg_stat_activity` escapes a single pass. Why at all:
Vault runs a revocation in one transaction, so a client that reconnects in a loop slips in after the terminate and
before the commit, and its session outlives the login.
"""

import asyncio
from collections.abc import Awaitable, Callable

PAUSE_SECONDS = 0.1
MAX_SWEEPS = 50

Sweep = Callable[[], Awaitable[bool]]
"""Ends sessions whose login would be refused now; returns True when there was none."""


class NotSettled(RuntimeError):
    """Sessions kept appearing; the reconciler goes on."""


class Settler:
    """The sweeps of one target database."""

    def __init__(self, sweep: Sweep, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._sweep = sweep
        self._pause = pause_seconds
        self._next: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None

    async def settle(self) -> None:
        """Return once a run has settled that *started* after this call. Raises NotSettled and what the sweep raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._running), name="settle")
        await asyncio.shield(self._next)

    async def _run(self, before: "asyncio.Task[None] | None") -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        # From here on a new caller needs a new run: this one's first sweep may miss what dies from now on.
        self._running, self._next = self._next, None
        clean = 0
        for _ in range(MAX_SWEEPS):
            clean = clean + 1 if await self._sweep() else 0
            if clean == 2:
                return
            await asyncio.sleep(self._pause)
        raise NotSettled("sessions of dead logins kept appearing")
