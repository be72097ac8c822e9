"""Removing destroyed keys from the files of the database.

PostgreSQL keeps a row's old version while any transaction may see it, and writes it again where it writes the table
anew. So the table of keys is written anew when every transaction that was open after the keys were destroyed is over.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.clock import Clock, monotonic_ms
from counterseal.errors import LedgerUnavailable
from counterseal_audit.retention import payload_store
from counterseal_audit.retention.database import retaining, transaction

PAUSES = (0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
"""Seconds between looks. Most transactions are over by then; a backup is not."""
AGAIN_MS = 10_000
"""How long nothing is tried after all of that was in vain."""

log = logging.getLogger("counterseal.audit.retention")


@dataclass(slots=True)
class Scrubber:
    """Scrubs for one process. clock: milliseconds, never back. as_owner: connected as the tables' owner."""

    database: AsyncEngine
    clock: Clock = monotonic_ms
    as_owner: bool = False
    again_ms: dict[str, int] = field(default_factory=dict)
    _before: dict[str, set[str]] = field(default_factory=dict)

    async def scrub(self, job_id: str = "") -> bool:
        """Remove the keys that a job destroyed from the files, once that is committed.

        False while a transaction may still see them or holds the table: ask again later, any process may.
        """
        if self.clock() < self.again_ms.get(job_id, 0):
            return False
        for pause in (0.0, *PAUSES):
            await asyncio.sleep(pause)
            async with transaction(self.database) as conn:
                now_open = await payload_store.open_transactions(conn)
            self._before[job_id] = self._before.get(job_id, now_open) & now_open
            if not self._before[job_id] and await self._scrubbed():
                del self._before[job_id]
                self.again_ms.pop(job_id, None)
                return True
        log.warning("an erasure waits: transactions that are open may see destroyed keys", extra={"job": job_id})
        self.again_ms[job_id] = self.clock() + AGAIN_MS
        return False

    async def _scrubbed(self) -> bool:
        try:
            async with transaction(self.database) as conn, contextlib.AsyncExitStack() as role:
                if not self.as_owner:
                    await role.enter_async_context(retaining(conn))
                await payload_store.scrub_keys(conn)
        except LedgerUnavailable:
            return False
        return True
