"""Drops payload by age: what was due before today and is not held, then `retention.dropped` says how much."""

import asyncio
import logging
from dataclasses import dataclass
from datetime import date

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.clock import Clock
from counterseal.errors import ServiceError
from counterseal.ids import IdSource
from counterseal.rpc.ledger_wire import new_entry
from counterseal.rpc.outbox import Outbox
from counterseal_audit.logs.store import Log, LogStore
from counterseal_audit.retention import engine, payload_store
from counterseal_audit.retention.database import retaining, see, transaction
from counterseal_audit.retention.holds import Holds

BATCH_ROWS = 5_000
EVERY_SECONDS = 600.0

log = logging.getLogger("counterseal.audit.retention")


@dataclass(frozen=True, slots=True)
class Sweeper:
    """Retention of every log of this environment."""

    database: AsyncEngine
    logs: LogStore
    outbox: Outbox
    holds: Holds
    environment: str
    clock: Clock
    new_id: IdSource
    batch_rows: int = BATCH_ROWS

    async def run(self, stopping: asyncio.Event) -> None:
        """Sweep every ten minutes until `stopping` is set; one background task per process."""
        while not stopping.is_set():
            try:
                await self.sweep()
            except ServiceError as error:
                log.warning("retention waits: %s", error.reason)
            try:
                await asyncio.wait_for(stopping.wait(), EVERY_SECONDS)
            except TimeoutError:
                continue

    async def sweep(self) -> int:
        """Drop what is due in every log; returns how many rows went. Raises LedgerUnavailable; ask again then."""
        dropped = 0
        for one in await self.logs.all(self.environment):
            await self.holds.apply(one.tenant)
            while (went := await self._batch(one)) is not None:
                dropped += went
        self.outbox.wake()
        return dropped

    async def _batch(self, one: Log) -> int | None:
        """Drop one batch; None behind the last one, whose entry is then in the outbox."""
        async with transaction(self.database) as conn:
            day, before = await payload_store.start_sweep(conn, one.log_id, engine.today(self.clock()))
            await see(conn, one.log_id)
            async with retaining(conn):
                went = await payload_store.delete_due(conn, one.log_id, day, self.batch_rows)
            if went:
                await payload_store.count_swept(conn, one.log_id, went)
                return went
            if before:
                await self.outbox.put(conn, self._dropped(one.tenant, day, before))
            await payload_store.end_sweep(conn, one.log_id)
            return None

    def _dropped(self, tenant: str, day: date, count: int) -> ledger_pb2.NewEntry:
        return new_entry(
            "retention.dropped",
            {"count": count, "due_on": day.isoformat(), "policy": engine.RETENTION_POLICY},
            event_id=self.new_id(),
            event_time_ms=self.clock(),
            tenant=tenant,
            environment=self.environment,
        )
