"""Legal holds: which entries one covers, marked on their payload rows.

A hold covers entries that come after it, too. They are marked before each sweep and not as they are appended: nothing
is dropped on the day it comes, so a hold that is applied up to the head has covered whatever the sweep may touch.
"""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.canonical import parse_strict
from counterseal_audit.payloads.engine import concerns
from counterseal_audit.retention import engine, hold_store, payload_store
from counterseal_audit.retention.database import retaining, see, transaction
from counterseal_audit.retention.engine import Covers, Range
from counterseal_audit.retention.hold_store import HoldRow

BATCH_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Holds:
    """Applies the standing holds of a tenant."""

    database: AsyncEngine
    environment: str
    batch_entries: int = BATCH_ENTRIES

    async def apply(self, tenant: str) -> None:
        """Mark what the tenant's holds cover, up to each log's head. Raises LedgerUnavailable; ask again then."""
        async with transaction(self.database) as conn:
            standing = await hold_store.standing(conn, tenant)
            logs = await payload_store.logs_of(conn, tenant, self.environment)
        for hold in standing:
            for log_id in logs:
                while await self._apply_batch(hold, log_id):
                    pass

    async def covers(self, conn: AsyncConnection, tenant: str, person: str) -> bool:
        """Tell whether a standing hold covers payload that erasing a person would take. Call it after `apply`."""
        holds = await hold_store.standing(conn, tenant)
        if any(hold.covers is Covers.PERSON and hold.value == person for hold in holds):
            return True
        for log_id in await payload_store.logs_of(conn, tenant, self.environment):
            await see(conn, log_id)
            held = await hold_store.held_entries(conn, log_id, engine.quoted(person))
            if any(concerns(parse_strict(one.entry), person) for one in held):
                return True
        return False

    async def _apply_batch(self, hold: HoldRow, log_id: int) -> bool:
        """Mark one batch; returns whether there is another."""
        async with transaction(self.database) as conn:
            start = await hold_store.hold_next(conn, hold.hold_id, log_id)
            current = await hold_store.hold(conn, hold.tenant, hold.hold_id)
            batch = Range(log_id, start, await payload_store.size_of(conn, log_id)).batch(self.batch_entries)
            if batch.done or current is None or current.lift_time_ms is not None:
                return False
            await see(conn, log_id)
            found = await payload_store.entries_with(conn, batch, engine.needle(hold.covers, hold.value))
            indexes = [one.index for one in found]
            async with retaining(conn):
                rows = await payload_store.mark_held(conn, log_id, indexes, held=True)
            await hold_store.note_held(conn, log_id, indexes, hold.hold_id)
            await hold_store.set_hold_next(conn, hold.hold_id, log_id, batch.end_idx, rows)
        return True
