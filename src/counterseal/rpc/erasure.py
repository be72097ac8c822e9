"""How a service that keeps copies follows erasures: it reads the orders from the ledger, erases, and says so there.

* The ledger names people by pseudonym. Which pseudonym a person has is learned from receipts (`remember`), in the
  transaction that acknowledges an entry: whoever has entries in the ledger can be found again.
* What a service keeps about a person it erases itself, by `erase_person(tenant, person, pseudonym, until)` in its own
  database: a function of the owner's, as the runtime role cannot change what it removes. What still lives (a running
  plan, a live credential) is left for later; the erasure is not reported until nothing is.
* Where it is in each log is stored with what it read. A restored database is behind, reads the same orders again and
  erases again.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2, retention_pb2, retention_pb2_grpc
from counterseal.clock import Clock
from counterseal.errors import LedgerUnavailable
from counterseal.ids import IdSource
from counterseal.ledger import entry as entries
from counterseal.ledger.entry import Entry
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tree import leaf_hash
from counterseal.rpc import ledger_wire
from counterseal.rpc.ledger_client import Appended, Channel
from counterseal.rpc.outbox import Outbox

POLICY = "subject-erasure"
SKEW = timedelta(minutes=5)
"""How far clocks may be apart: what a service noted up to then after an order is taken for older than the order."""
LOOK_SECONDS = 1.0
RETRY_SECONDS = 0.5

_log = logging.getLogger(__name__)


def erasure_ddl(runtime_role: str) -> list[str]:
    """Return the statements, for a migration, that a service needs beside its own `erase_person` function.

    `erase_person(of_tenant text, who text, alias text, until timestamptz)` returns one row: how many rows it erased,
    how many of before `until` it had to leave because they are live, and how many newer ones name the person.
    """
    return [
        """CREATE TABLE person_pseudonym (
            tenant text NOT NULL, person text NOT NULL, pseudonym text NOT NULL, PRIMARY KEY (tenant, person)
        )""",
        "CREATE INDEX person_by_pseudonym ON person_pseudonym (tenant, pseudonym)",
        "CREATE TABLE erasure_position (origin text PRIMARY KEY, next_index bigint NOT NULL)",
        """CREATE TABLE erasure_job (
            job_id uuid PRIMARY KEY, tenant text NOT NULL, pseudonym text NOT NULL, order_event_id uuid NOT NULL,
            order_time_ms bigint NOT NULL, count bigint NOT NULL DEFAULT 0, reported text[] NOT NULL DEFAULT '{}',
            erase_time timestamptz
        )""",
        "CREATE INDEX erasure_job_open ON erasure_job (job_id) WHERE erase_time IS NULL",
        f"GRANT SELECT, INSERT, DELETE ON person_pseudonym TO {runtime_role}",
        f"GRANT SELECT, INSERT, UPDATE (next_index) ON erasure_position TO {runtime_role}",
        f"GRANT SELECT, INSERT, UPDATE (count, reported, erase_time) ON erasure_job TO {runtime_role}",
        # Both are in today's outbox; a database from before has neither.
        "ALTER TABLE outbox ADD COLUMN IF NOT EXISTS tenant text NOT NULL DEFAULT ''",
        f"GRANT UPDATE (request) ON outbox TO {runtime_role}",
        "ALTER TABLE outbox ALTER COLUMN request SET STATISTICS 0",  # statistics are copies of values
        "REVOKE ALL ON FUNCTION erase_person(text, text, text, timestamptz) FROM PUBLIC",
        f"GRANT EXECUTE ON FUNCTION erase_person(text, text, text, timestamptz) TO {runtime_role}",
    ]


async def remember(connection: AsyncConnection, acknowledged: Sequence[tuple[ledger_pb2.NewEntry, Appended]]) -> None:
    """Keep which pseudonym each person has; an `AckHook` of the outbox."""
    known = {
        (request.tenant, person): pseudonym
        for request, receipt in acknowledged
        for person, pseudonym in receipt.pseudonyms.items()
    }
    if known:
        await connection.execute(
            sa.text(
                "INSERT INTO person_pseudonym (tenant, person, pseudonym) VALUES (:tenant, :person, :pseudonym)"
                " ON CONFLICT DO NOTHING"
            ),
            [{"tenant": t, "person": p, "pseudonym": known[t, p]} for t, p in sorted(known)],
        )


@dataclass(frozen=True, slots=True)
class ErasureFollower:
    """Follows the erasures of every log of the environment for one service.

    after: services whose `payload.erased` is waited for first (policy: what it keeps is needed while plans run).
    backup_days: how long backups of this service's database are kept.
    """

    engine: AsyncEngine
    channel: Channel
    outbox: Outbox
    environment: str
    backup_days: int
    clock: Clock
    new_id: IdSource
    after: frozenset[str] = field(default_factory=frozenset)

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow and erase until `stopping` is set; one background task per process."""
        tail = asyncio.create_task(self._tail(stopping), name="erasures-tail")
        try:
            while not stopping.is_set():
                try:
                    await self.work()
                except (sa.exc.SQLAlchemyError, OSError, TimeoutError) as error:
                    _log.warning("erasures wait: %s", type(error).__name__)
                await _pause(stopping, LOOK_SECONDS)
        finally:
            tail.cancel()

    async def follow(self, stopping: asyncio.Event) -> None:
        """Note orders and reports from one stream until it ends. Raises grpc.aio.AioRpcError, LedgerUnavailable."""
        async with self.engine.connect() as conn:
            rows = (await conn.execute(sa.text("SELECT origin, next_index FROM erasure_position"))).all()
        request = retention_pb2.TailErasuresRequest(
            positions=[retention_pb2.LogPosition(origin=row.origin, next_index=row.next_index) for row in rows]
        )
        channel = self.channel() if callable(self.channel) else self.channel
        call: Any = retention_pb2_grpc.RetentionServiceStub(channel).TailErasures(request)
        try:
            async for message in call:
                if message.position.origin:
                    await self.note(message)
                if stopping.is_set():
                    return
        finally:
            call.cancel()

    async def note(self, message: retention_pb2.TailErasuresResponse) -> None:
        """Store the orders and reports of one message together with the place in the log behind them."""
        found = [_read(one.entry, one.leaf_hash, message.tenant) for one in message.entries]
        async with self.engine.begin() as conn:
            for entry in found:
                if entry.type == "erasure.ordered":
                    await conn.execute(sa.text(_NOTE_ORDER), _order(entry))
                elif entry.type == "payload.erased":
                    values = {"job_id": str(entry.data["job_id"]), "producer": entry.producer}
                    await conn.execute(sa.text(_NOTE_REPORT), values)
            await conn.execute(
                sa.text(_MOVE), {"origin": message.position.origin, "next_index": message.position.next_index}
            )

    async def work(self) -> None:
        """Take every open erasure as far as it goes now."""
        async with self.engine.connect() as conn:
            rows = (await conn.execute(sa.text(_OPEN))).all()
        for row in rows:
            if self.after <= set(row.reported):
                await self._erase(str(row.job_id))

    async def _erase(self, job_id: str) -> None:
        async with self.engine.begin() as conn:
            job = (await conn.execute(sa.text(_LOCK), {"job_id": job_id})).one_or_none()
            if job is None:  # done, or another replica is at it
                return
            until = datetime.fromtimestamp(job.order_time_ms / 1000, UTC) + SKEW
            await conn.execute(
                sa.text("SELECT set_config('counterseal.tenant', :tenant, true)"), {"tenant": job.tenant}
            )
            # What waits in the outbox names people whose pseudonym is not known yet: first it has to be delivered.
            waiting = bool(await conn.scalar(sa.text(_WAITING), {"until": until}))
            erased, live, newer = 0, 0, 0
            names = {"tenant": job.tenant, "pseudonym": job.pseudonym}
            people = [str(row.person) for row in (await conn.execute(sa.text(_PEOPLE), names)).all()]
            for person in people:
                values = {"tenant": job.tenant, "person": person, "pseudonym": job.pseudonym, "until": until}
                row = (await conn.execute(sa.text(_ERASE), values)).one()
                erased, live, newer = erased + row.erased, live + row.live, newer + row.newer
            erased += await self._strip_refused(conn, set(people), job.tenant)
            await conn.execute(sa.text(_COUNT), {"job_id": job_id, "count": erased})
            if live or waiting:
                return
            if not newer:  # else the person is still needed by name, for the next order
                await conn.execute(sa.text(_FORGET), names)
            await self.outbox.put(conn, self._report(job, job.so_far + erased))
            await conn.execute(sa.text(_DONE), {"job_id": job_id})
        self.outbox.wake()

    async def _strip_refused(self, conn: AsyncConnection, people: set[str], tenant: str) -> int:
        """Empty the entries about people that the ledger refused for good: nobody will ever send them."""
        rows = (await conn.execute(sa.text(_REFUSED))).all()
        stripped = 0
        for row in rows:
            request = ledger_pb2.NewEntry.FromString(bytes(row.request))
            if request.tenant == tenant and people & _people(request):
                await conn.execute(sa.text(_STRIP), {"event_id": str(row.event_id)})
                stripped += 1
        return stripped

    def _report(self, job: Any, count: int) -> ledger_pb2.NewEntry:
        now = self.clock()
        horizon = datetime.fromtimestamp(now / 1000, UTC).date() + timedelta(days=self.backup_days)
        return ledger_wire.new_entry(
            "payload.erased",
            {"job_id": str(job.job_id), "count": count, "policy": POLICY, "backup_horizon": horizon.isoformat()},
            event_id=self.new_id(),
            event_time_ms=now,
            tenant=job.tenant,
            environment=self.environment,
            refs=[(str(job.order_event_id), "order")],
        )

    async def _tail(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                await self.follow(stopping)
            except grpc.aio.AioRpcError as error:
                _log.info("the tail of erasures ended", extra={"code": error.code().name})
            except (LedgerUnavailable, sa.exc.SQLAlchemyError, OSError, TimeoutError) as error:
                _log.warning("erasures are not followed: %s", type(error).__name__)
            await _pause(stopping, RETRY_SECONDS)


_NOTE_ORDER = (
    "INSERT INTO erasure_job (job_id, tenant, pseudonym, order_event_id, order_time_ms) VALUES"
    " (CAST(:job_id AS uuid), :tenant, :pseudonym, CAST(:event_id AS uuid), :time_ms) ON CONFLICT DO NOTHING"
)
_NOTE_REPORT = (
    "UPDATE erasure_job SET reported = array_append(reported, :producer)"
    " WHERE job_id = CAST(:job_id AS uuid) AND NOT :producer = ANY(reported)"
)
_MOVE = (
    "INSERT INTO erasure_position (origin, next_index) VALUES (:origin, :next_index) ON CONFLICT (origin)"
    " DO UPDATE SET next_index = greatest(erasure_position.next_index, excluded.next_index)"
)
_OPEN = "SELECT job_id, reported FROM erasure_job WHERE erase_time IS NULL ORDER BY job_id"
_LOCK = (
    "SELECT job_id, tenant, pseudonym, order_event_id, order_time_ms, count AS so_far FROM erasure_job"
    " WHERE job_id = CAST(:job_id AS uuid) AND erase_time IS NULL FOR UPDATE SKIP LOCKED"
)
_WAITING = "SELECT EXISTS (SELECT 1 FROM outbox WHERE ack_time IS NULL AND refusal IS NULL AND create_time <= :until)"
_PEOPLE = "SELECT person FROM person_pseudonym WHERE tenant = :tenant AND pseudonym = :pseudonym"
_ERASE = "SELECT erased, live, newer FROM erase_person(:tenant, :person, :pseudonym, :until)"
_COUNT = "UPDATE erasure_job SET count = count + :count WHERE job_id = CAST(:job_id AS uuid)"
_FORGET = "DELETE FROM person_pseudonym WHERE tenant = :tenant AND pseudonym = :pseudonym"
_DONE = "UPDATE erasure_job SET erase_time = clock_timestamp() WHERE job_id = CAST(:job_id AS uuid)"
_REFUSED = "SELECT event_id, request FROM outbox WHERE refusal IS NOT NULL AND request <> ''"
_STRIP = "UPDATE outbox SET request = '' WHERE event_id = CAST(:event_id AS uuid)"


def _read(data: bytes, leaf: bytes, tenant: str) -> Entry:
    """Return an entry as the ledger holds it. Raises LedgerUnavailable when it is none, or another tenant's."""
    try:
        entry = entries.parse(data)
    except VerificationError as error:
        raise LedgerUnavailable(f"the ledger sent a malformed entry: {error.message}") from error
    if leaf_hash(data) != leaf or entry.tenant != tenant:
        raise LedgerUnavailable("the ledger sent an entry that is not what it says", event_id=entry.event_id)
    return entry


def _order(entry: Entry) -> dict[str, Any]:
    return {
        "job_id": str(entry.data["job_id"]),
        "tenant": entry.tenant,
        "pseudonym": str(entry.data["person"]),
        "event_id": entry.event_id,
        "time_ms": int(entry.document["event_time_ms"]),
    }


def _people(request: ledger_pb2.NewEntry) -> set[str]:
    found: set[str] = set()

    def keep(person: str) -> str:
        found.add(person)
        return person

    entries.pseudonymise(ledger_wire.content_of(request), keep)
    return found


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        return
