"""What people order: an erasure, a hold, its end. Each is a row and an entry in one transaction."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.clock import Clock
from counterseal.errors import NotFound, WrongState
from counterseal.identity import Caller
from counterseal.ids import IdSource
from counterseal.rpc.ledger_wire import new_entry
from counterseal.rpc.outbox import Outbox
from counterseal_audit.retention import hold_store, job_store, payload_store
from counterseal_audit.retention.database import retaining, see, transaction
from counterseal_audit.retention.engine import Covers
from counterseal_audit.retention.hold_store import HoldRow
from counterseal_audit.retention.holds import Holds
from counterseal_audit.retention.job_store import Job


@dataclass(frozen=True, slots=True)
class Orders:
    """Places orders; the eraser and the sweeper carry them out."""

    database: AsyncEngine
    outbox: Outbox
    holds: Holds
    environment: str
    clock: Clock
    new_id: IdSource

    async def erase(self, caller: Caller, person: str, people: tuple[str, str], note: str) -> Job:
        """Order the erasure of a person (a pseudonym) once the order is durable; the unfinished one if there is one.

        people: who ordered it. Raises WrongState while a hold covers the person, LedgerUnavailable, SealUnavailable.
        """
        await self.holds.apply(caller.tenant)
        async with transaction(self.database) as conn:
            await hold_store.lock_retention(conn, caller.tenant)
            job = await job_store.open_job(conn, caller.tenant, person)
            if job is None:
                await self._check_holds(conn, caller.tenant, person)
                job = await self._order(conn, caller, person, people, note)
        await self.outbox.deliver(job.event_id)
        return job

    async def place(self, caller: Caller, covers: Covers, value: str, note: str) -> HoldRow:
        """Place a hold, or return the one that stands, once it covers everything that is there."""
        async with transaction(self.database) as conn:
            await hold_store.lock_retention(conn, caller.tenant)
            new = HoldRow(self.new_id(), caller.tenant, covers, value, self.clock(), None, 0)
            if not await hold_store.insert_hold(conn, new):
                standing = await hold_store.standing(conn, caller.tenant)
                new = next(one for one in standing if (one.covers, one.value) == (covers, value))
        # Marked before the entry is made: it says how many rows the hold covers. A crash in between leaves a hold that
        # stands without an entry; the same call again completes it.
        await self.holds.apply(caller.tenant)
        async with transaction(self.database) as conn:
            await hold_store.lock_retention(conn, caller.tenant)
            placed = await self._hold(conn, caller.tenant, new.hold_id)
            event_id = new.hold_id  # an entry of its own per hold, however often it is placed
            if not await hold_store.declared(conn, event_id):
                await self.outbox.put(conn, self._changed("hold.placed", event_id, caller, placed, note))
        await self.outbox.deliver(event_id)
        return placed

    async def lift(self, caller: Caller, hold_id: str, note: str) -> HoldRow:
        """Lift a hold; what no other hold covers may be dropped again. Raises NotFound."""
        event_id = self.new_id()
        async with transaction(self.database) as conn:
            await hold_store.lock_retention(conn, caller.tenant)
            row = await self._hold(conn, caller.tenant, hold_id)
            if row.lift_time_ms is not None:
                return row
            await hold_store.lift(conn, hold_id, self.clock())
            for log_id, indexes in (await hold_store.release(conn, hold_id)).items():
                await see(conn, log_id)
                async with retaining(conn):
                    await payload_store.mark_held(conn, log_id, indexes, held=False)
            row = await self._hold(conn, caller.tenant, hold_id)
            await self.outbox.put(conn, self._changed("hold.lifted", event_id, caller, row, note))
        await self.outbox.deliver(event_id)
        return row

    async def _check_holds(self, conn: AsyncConnection, tenant: str, person: str) -> None:
        if await self.holds.covers(conn, tenant, person):
            raise WrongState("a legal hold covers the person's payload; lift it first")

    async def _order(
        self, conn: AsyncConnection, caller: Caller, person: str, people: tuple[str, str], note: str
    ) -> Job:
        job_id, event_id, now = self.new_id(), self.new_id(), self.clock()
        await job_store.insert_job(
            conn,
            job_id=job_id,
            tenant=caller.tenant,
            person=person,
            event_id=event_id,
            report_event_id=self.new_id(),
            now_ms=now,
        )
        entry = new_entry(
            "erasure.ordered",
            {"job_id": job_id, "person": person, "ordered_by": list(people)},
            event_id=event_id,
            event_time_ms=now,
            tenant=caller.tenant,
            environment=self.environment,
            request_id=caller.request_id,
            sealed=_statement(note),
        )
        await self.outbox.put(conn, entry)
        job = await job_store.open_job(conn, caller.tenant, person)
        if job is None:
            raise AssertionError("the order was just stored")
        return job

    async def _hold(self, conn: AsyncConnection, tenant: str, hold_id: str) -> HoldRow:
        row = await hold_store.hold(conn, tenant, hold_id, lock=True)
        if row is None:
            raise NotFound("no such hold")
        return row

    def _changed(self, kind: str, event_id: str, caller: Caller, row: HoldRow, note: str) -> ledger_pb2.NewEntry:
        return new_entry(
            kind,
            {"hold_id": row.hold_id, "count": row.count, "changed_by": caller.subject},
            event_id=event_id,
            event_time_ms=self.clock(),
            tenant=row.tenant,
            environment=self.environment,
            request_id=caller.request_id,
            sealed=_statement(note, covers=str(row.covers), value=row.value),
        )


def _statement(note: str, **more: str) -> dict[str, Any]:
    return {"statement": {**more, "note": note}} if note or more else {}
