"""`call.refused`: a call with a valid certificate that was refused before its handler becomes a ledger entry.

At most one entry per second, peer and reason; what comes in between is counted in the next one, so a flood of refused
calls is a number and not a flood of entries.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.clock import Clock
from counterseal.ids import IdSource
from counterseal.ledger.fields import word
from counterseal.ledger.registry import SYSTEM_TENANT
from counterseal.rpc.interceptor import Refusal
from counterseal.rpc.ledger_wire import new_entry
from counterseal.rpc.outbox import Outbox

WINDOW_SECONDS = 1.0
MAX_KEYS = 1024

Put = Callable[[ledger_pb2.NewEntry], Awaitable[object]]
"""Stores one entry for the ledger."""


@dataclass(slots=True)
class _Window:
    """Refusals of one peer and reason since the last entry; `last` is the one that the next entry describes."""

    last: Refusal
    count: int = 0


class RefusalRecorder:
    """The interceptor's `on_refused` hook. Calls without a known tenant go to the environment's own log."""

    def __init__(
        self, put: Put, *, environment: str, clock: Clock, new_id: IdSource, window_seconds: float = WINDOW_SECONDS
    ) -> None:
        self._put = put
        self._environment = environment
        self._clock = clock
        self._new_id = new_id
        self._seconds = window_seconds
        self._windows: dict[tuple[str, str, str], _Window] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def __call__(self, refusal: Refusal) -> None:
        """Record a refusal now, or count it when its peer was refused for the same reason within the second."""
        key = (refusal.peer, refusal.reason, refusal.tenant)
        window = self._windows.get(key)
        if window is not None:
            window.last = refusal
            window.count += 1
            return
        if len(self._windows) >= MAX_KEYS:  # a thousand peers refused at once: each is in the access log
            return
        self._windows[key] = _Window(refusal)
        # A context of its own: what it counts are many calls, and none of their traces.
        task = asyncio.create_task(self._close(key), name="call.refused", context=contextvars.Context())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        await self._put(self._entry(refusal, 1))

    async def _close(self, key: tuple[str, str, str]) -> None:
        """End the window; what was counted in it becomes an entry and opens the next."""
        while True:
            await asyncio.sleep(self._seconds)
            window = self._windows[key]
            if not window.count:
                del self._windows[key]
                return
            count, window.count = window.count, 0
            await self._put(self._entry(window.last, count))

    def _entry(self, refusal: Refusal, count: int) -> ledger_pb2.NewEntry:
        return new_entry(
            "call.refused",
            {
                "method": word(refusal.method),
                "peer": word(refusal.peer),
                "reason_code": refusal.reason,
                "count": count,
            },
            event_id=self._new_id(),
            event_time_ms=self._clock(),
            tenant=refusal.tenant or SYSTEM_TENANT,
            environment=self._environment,
            request_id=word(refusal.request_id),
            agent=word(refusal.agent or ""),
        )


def into_outbox(engine: AsyncEngine, outbox: Outbox) -> Put:
    """Return a `Put` that stores entries in a service's outbox."""

    async def put(entry: ledger_pb2.NewEntry) -> None:
        async with engine.begin() as connection:
            await outbox.put(connection, entry)
        outbox.wake()

    return put
