"""The outbox between a producer's database and the ledger: written in the producer's transaction, relayed after it.

* An entry is stored with the change that it records, so neither exists without the other.
* Relaying is idempotent (the event id), so it needs no bookkeeping between the ledger's answer and the acknowledgement:
  whoever crashes in between sends the same bytes again.
* It never reads "what is newer than the last one": an earlier row may commit later and would be lost. It reads what is
  not acknowledged.
* Within a stream (`plan:<id>`) entries go in order of `seq`: every sender sends a stream's whole unacknowledged prefix,
  so two senders at once are wasteful but never out of order.
* An entry that the ledger refuses for good stops its stream: what follows would be a gap in the log. `put` checks
  entries before they are stored, so this is a fault to look at, and it is logged as one.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.clock import monotonic_ms
from counterseal.errors import InternalError, LedgerUnavailable, ServiceError
from counterseal.rpc import ledger_wire
from counterseal.rpc.ledger_client import Appended, AppendOutcome, Refused

MAX_BATCH = 256
MAX_READ_BYTES = 8 << 20
"""What is read at once, however many rows that is (one at least): each part is acknowledged before the next is sent."""
GRACE_MS = 300
IDLE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 10.0
REFUSED_PAUSE_MS = 10_000

_FINAL = frozenset({"INPUT_INVALID", "IDEMPOTENCY_KEY_REUSED", "NOT_CANONICAL"})

_log = logging.getLogger(__name__)


def outbox_ddl(runtime_role: str, table: str = "outbox") -> list[str]:
    """Return the statements, for a migration, that make an outbox table; `runtime_role` may insert and acknowledge.

    Rows stay after they are acknowledged, as receipts (tenant, event id, index, leaf hash); what the entry said goes,
    sealed fields and people's names included: the ledger has it now, and alone decides how long.
    """
    return [
        f"""CREATE TABLE {table} (
            event_id uuid PRIMARY KEY,
            tenant text NOT NULL DEFAULT '',
            stream text NOT NULL DEFAULT '',
            seq bigint NOT NULL DEFAULT 0,
            request bytea NOT NULL,
            create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
            log_index bigint,
            leaf_hash bytea,
            ack_time timestamptz,
            refusal text,
            CHECK ((ack_time IS NULL) = (log_index IS NULL AND leaf_hash IS NULL))
        )""",
        f"CREATE UNIQUE INDEX {table}_stream ON {table} (stream, seq) WHERE stream <> ''",
        f"CREATE INDEX {table}_open ON {table} (create_time) WHERE ack_time IS NULL",
        f"GRANT SELECT, INSERT, UPDATE (request, log_index, leaf_hash, ack_time, refusal) ON {table} TO {runtime_role}",
    ]


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Where an entry of the outbox is in the ledger."""

    event_id: str
    index: int
    leaf_hash: bytes


AckHook = Callable[[AsyncConnection, Sequence[tuple[ledger_pb2.NewEntry, Appended]]], Awaitable[None]]
"""Called in the transaction that acknowledges entries, for what the producer ties to it (a `committed_ack`)."""


RefusedHook = Callable[[ledger_pb2.NewEntry, ServiceError], None]
"""Called for an entry that the ledger refused, by whichever sender."""


class Appender(Protocol):
    """What takes entries: `LedgerClient`, or the ledger itself."""

    async def append(self, requests: Sequence[ledger_pb2.NewEntry]) -> list[AppendOutcome]:
        """Append entries in order and return one outcome per entry. Raises LedgerUnavailable."""


class Outbox:
    """One service's outbox. `put` in the service's transaction, then `deliver` to wait or `relay` to leave it be."""

    def __init__(
        self,
        engine: AsyncEngine,
        ledger: Appender,
        *,
        table: str = "outbox",
        on_ack: AckHook | None = None,
        on_refused: RefusedHook | None = None,
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._table = table
        self._on_ack = on_ack
        self._on_refused = on_refused
        self._wake = asyncio.Event()
        self._settling: set[asyncio.Task[None]] = set()
        self._later: dict[str, int] = {}
        self._open = f"ack_time IS NULL AND refusal IS NULL AND {_unblocked(table)}"

    async def put(self, connection: AsyncConnection, *requests: ledger_pb2.NewEntry) -> None:
        """Store entries in the caller's transaction. Raises InputInvalid for one that the ledger would refuse."""
        for request in requests:
            ledger_wire.check(request)
        if not requests:
            return
        await connection.execute(
            sa.text(
                f"INSERT INTO {self._table} (event_id, tenant, stream, seq, request)"
                " VALUES (CAST(:event_id AS uuid), :tenant, :stream, :seq, :request)"
            ),
            [
                {
                    "event_id": r.event_id,
                    "tenant": r.tenant,
                    "stream": r.stream,
                    "seq": r.seq,
                    "request": r.SerializeToString(deterministic=True),
                }
                for r in requests
            ],
        )

    def wake(self) -> None:
        """Hint, after the commit, that there is something to relay; without it the relay looks every second.

        It is relayed as soon as it is older than what `deliver` may still be at work on (300 ms).
        """
        self._wake.set()

    async def deliver(self, event_id: str) -> Acknowledged:
        """Return once the ledger has acknowledged the entry, and with it every earlier one of its stream.

        Call it after the transaction that stored the entry has committed. Raises LedgerUnavailable when the ledger did
        not answer (the relay goes on trying), or the reason for which the entry was refused.
        """
        found_nothing = False
        while True:
            async with self._engine.connect() as connection:
                row = await self._find(connection, event_id)
                if row.log_index is not None:
                    return Acknowledged(event_id, row.log_index, bytes(row.leaf_hash))
                where = "stream = :stream AND seq <= :seq" if row.stream else "event_id = CAST(:event_id AS uuid)"
                arguments: dict[str, object]
                arguments = {"stream": row.stream, "seq": row.seq} if row.stream else {"event_id": event_id}
                requests = await self._read(connection, where, arguments)
            if not requests and not found_nothing:
                found_nothing = True  # somebody else has just delivered it, or it is blocked: look once more
                continue
            # No transaction is open while the ledger is asked.
            outcomes = await self._append(requests)
            outcome = outcomes.get(event_id)
            if isinstance(outcome, Appended):
                return Acknowledged(event_id, outcome.index, outcome.leaf_hash)
            if isinstance(outcome, Refused):
                raise outcome.error
            if not any(isinstance(o, Appended) for o in outcomes.values()):
                raise LedgerUnavailable("an earlier entry of the stream was refused", event_id=event_id)

    async def send(self, *requests: ledger_pb2.NewEntry) -> None:
        """Return once the ledger has acknowledged entries that this process has just stored and committed.

        The short way for entries outside of streams: what was put is still at hand, so nothing is read back, and the
        acknowledgement is stored behind the answer. A crash before that sends the same entries again, which changes
        nothing. Raises as `deliver`; the relay then goes on trying.
        """
        if any(request.stream for request in requests):
            raise ValueError("entries of a stream go in order: use deliver()")
        outcomes = await self._ledger.append(requests)
        task = asyncio.create_task(self._settle(requests, outcomes), name="outbox-acknowledge")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        for outcome in outcomes:
            if isinstance(outcome, Refused):
                raise outcome.error

    async def settled(self) -> None:
        """Wait until every acknowledgement that `send` left behind is stored; for an orderly end."""
        await asyncio.gather(*self._settling)

    async def relay(self, stopping: asyncio.Event) -> None:
        """Deliver whatever is not acknowledged until `stopping` is set; run it as one background task per process.

        One process at a time relays a database (an advisory lock). Rows younger than 300 ms are left to `deliver`.
        """
        pause = 0.0
        while not stopping.is_set():
            try:
                found = await self.relay_once()
                pause = 0.0 if found else IDLE_SECONDS
            except ServiceError as error:
                pause = min(MAX_PAUSE_SECONDS, max(IDLE_SECONDS, pause * 2))
                _log.warning("the outbox is not relayed: %s", error.reason)
            except (sa.exc.SQLAlchemyError, OSError) as error:
                pause = min(MAX_PAUSE_SECONDS, max(IDLE_SECONDS, pause * 2))
                _log.warning("the outbox is not read: %s", type(error).__name__)
            if pause:
                await self._pause(stopping, pause)

    async def relay_once(self) -> int:
        """Relay one batch and return how many entries it held; 0 when there were none or another process relays."""
        async with self._engine.connect() as connection, connection.begin():
            locked = await connection.scalar(
                sa.text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))"),
                {"name": f"counterseal.outbox.{self._table}"},
            )
            if not locked:
                return 0
            now = monotonic_ms()
            self._later = {key: until for key, until in self._later.items() if until > now}
            requests = await self._read(
                connection,
                f"create_time < clock_timestamp() - interval '{GRACE_MS} ms'"
                " AND stream <> ALL(CAST(:later AS text[])) AND CAST(event_id AS text) <> ALL(CAST(:later AS text[]))",
                {"later": list(self._later)},
            )
            for outcome in (await self._append(requests)).values():
                if isinstance(outcome, Refused):  # a closed log, say: asked again later, and behind everybody else
                    self._later[self._line_of(outcome.event_id, requests)] = now + REFUSED_PAUSE_MS
            return len(requests)

    @staticmethod
    def _line_of(event_id: str, requests: Sequence[ledger_pb2.NewEntry]) -> str:
        """Return what waits behind an entry: its stream, or only itself."""
        return next(request.stream or event_id for request in requests if request.event_id == event_id)

    async def _find(self, connection: AsyncConnection, event_id: str) -> sa.Row[Any]:
        query = f"SELECT stream, seq, log_index, leaf_hash FROM {self._table} WHERE event_id = CAST(:event_id AS uuid)"
        row = (await connection.execute(sa.text(query), {"event_id": event_id})).one_or_none()
        if row is None:
            raise InternalError("the entry is not in the outbox", event_id=event_id)
        return row

    async def _read(
        self, connection: AsyncConnection, where: str, arguments: dict[str, object]
    ) -> list[ledger_pb2.NewEntry]:
        """Return unacknowledged entries: by stream, in order of `seq`, so that a cut leaves whole prefixes."""
        rows = await connection.execute(
            sa.text(
                f"SELECT request FROM (SELECT request, row_number() OVER line AS at,"
                " sum(octet_length(request)) OVER line - octet_length(request) AS ahead FROM"
                f" (SELECT * FROM {self._table} WHERE {self._open} AND {where}"
                f" ORDER BY stream, seq, create_time, event_id LIMIT {MAX_BATCH}) AS due"
                " WINDOW line AS (ORDER BY stream, seq, create_time, event_id ROWS UNBOUNDED PRECEDING)) AS sized"
                f" WHERE ahead < {MAX_READ_BYTES} ORDER BY at"
            ),
            arguments,
        )
        return [ledger_pb2.NewEntry.FromString(bytes(row.request)) for row in rows]

    async def _append(self, requests: Sequence[ledger_pb2.NewEntry]) -> dict[str, Appended | Refused]:
        outcomes = await self._ledger.append(requests) if requests else []
        await self._store(requests, outcomes)
        return {outcome.event_id: outcome for outcome in outcomes}

    async def _settle(self, requests: Sequence[ledger_pb2.NewEntry], outcomes: Sequence[Appended | Refused]) -> None:
        """Store what the ledger answered; when that fails, the relay asks again and gets the same answer."""
        try:
            await self._store(requests, outcomes)
        except (sa.exc.SQLAlchemyError, OSError, TimeoutError) as error:
            _log.warning("an acknowledgement is not stored yet: %s", type(error).__name__)

    async def _store(self, requests: Sequence[ledger_pb2.NewEntry], outcomes: Sequence[Appended | Refused]) -> None:
        taken: list[tuple[ledger_pb2.NewEntry, Appended]] = []
        refused: list[Refused] = []
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, Appended):
                taken.append((request, outcome))
            else:
                refused.append(outcome)
                _log.error("the ledger refused %s: %s", outcome.event_id, outcome.error.reason)
                if self._on_refused is not None:
                    self._on_refused(request, outcome.error)
        # In order of id: two senders of the same rows lock them in the same order.
        taken.sort(key=lambda pair: pair[1].event_id)
        async with self._engine.begin() as connection:
            if taken:
                await connection.execute(
                    sa.text(
                        f"UPDATE {self._table} SET log_index = :i, leaf_hash = :h, ack_time = clock_timestamp(),"
                        " request = ''"
                        " WHERE event_id = CAST(:e AS uuid) AND ack_time IS NULL"
                    ),
                    [{"i": a.index, "h": a.leaf_hash, "e": a.event_id} for _, a in taken],
                )
                if self._on_ack is not None:
                    await self._on_ack(connection, taken)
            for outcome in refused:
                if outcome.error.reason in _FINAL:
                    await connection.execute(
                        sa.text(f"UPDATE {self._table} SET refusal = :why WHERE event_id = CAST(:e AS uuid)"),
                        {"why": outcome.error.reason, "e": outcome.event_id},
                    )

    async def _pause(self, stopping: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.create_task(stopping.wait()), asyncio.create_task(self._wake.wait())]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self._wake.is_set():
            self._wake.clear()
            # What was put just now is left to `deliver` for a moment; looking at once would find nothing, and then not
            # look again for a whole second.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_MS / 1000):
                    await stopping.wait()


def _unblocked(table: str) -> str:
    return (
        f"(stream = '' OR NOT EXISTS (SELECT 1 FROM {table} blocked"
        f" WHERE blocked.stream = {table}.stream AND blocked.refusal IS NOT NULL))"
    )
