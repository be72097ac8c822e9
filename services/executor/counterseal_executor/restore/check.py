"""Comparing the ledger with this database: at the start, before a tenant's first change, and from time to time.

The cursor moves only over entries that this database has, and lies in it: a restore takes it back too. It also moves
while nothing is wrong, so that a start reads what came since and not the whole log.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable

import grpc
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2, reader_pb2, reader_pb2_grpc
from counterseal.documents.effects import PLAN_COMMITTED
from counterseal.errors import IdempotencyKeyReused, LedgerUnavailable, ServiceError
from counterseal.ledger.places import of_place, place
from counterseal.rpc.ledger_wire import kind_of
from counterseal.rpc.status import from_rpc_error
from counterseal_executor import database as db
from counterseal_executor.restore import store
from counterseal_executor.restore.behind import Behind
from counterseal_executor.restore.engine import first_missing, own_entries

LOOK_SECONDS = 30.0
RETRY_SECONDS = 1.0
SILENCE_SECONDS = 5.0
"""The tail has a heartbeat every second: a longer silence is an outage."""

log = logging.getLogger(__name__)


class RestoreCheck:
    """Tells whether this database is as new as the ledger, and refuses changes until that is known."""

    def __init__(self, engine: AsyncEngine, channel: Callable[[], grpc.aio.Channel], behind: Behind) -> None:
        self._engine = engine
        self._channel = channel
        self._behind = behind
        self._compared: set[str] = set()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._refused: dict[str, str] = {}
        self._started = asyncio.Event()
        self._suspected = asyncio.Event()

    @property
    def current(self) -> bool:
        """Whether every log was compared since the start, and nothing was missing: work may be claimed."""
        return self._started.is_set() and not self._refused and not self._behind

    async def settled(self) -> bool:
        """Wait until every log was compared once; return whether this database is current."""
        await self._started.wait()
        return self.current

    async def require(self, tenant: str) -> None:
        """Let a change of the tenant's state pass; a tenant that was not compared since the start is compared now.

        Raises StateBehindLedger, and LedgerUnavailable while the ledger cannot be asked.
        """
        await self._judge_refused()
        self._behind.check(tenant)
        if tenant not in self._compared:
            async with self._turns[tenant]:
                if tenant not in self._compared:
                    await self._compare(tenant)
            self._behind.check(tenant)

    def suspect(self, entry: ledger_pb2.NewEntry, error: ServiceError) -> None:
        """Note that the ledger refused an entry: a commit whose id it holds with other content proves a restore."""
        if error.reason == IdempotencyKeyReused.reason and kind_of(entry) == PLAN_COMMITTED:
            self._refused[entry.tenant] = entry.stream
            self._suspected.set()

    async def loop(self, stopping: asyncio.Event) -> None:
        """Compare every known tenant's log, again and again, until `stopping` or the verdict."""
        while not stopping.is_set() and not self._behind:
            await self._judge_refused()
            try:
                async with db.transaction(self._engine, db.EVERY_TENANT) as conn:
                    tenants = await store.tenants(conn)
                done = [await self._try(tenant) for tenant in tenants]
            except (sa.exc.SQLAlchemyError, OSError) as error:
                log.warning("the ledger is not compared", extra={"error": type(error).__name__})
                done = [False]
            if all(done) or self._behind:
                self._started.set()
            await self._pause(stopping, LOOK_SECONDS if all(done) else RETRY_SECONDS)

    async def _judge_refused(self) -> None:
        """Take the verdict that a refused commit is; the log is read first, to name what this database lacks."""
        for tenant, stream in list(self._refused.items()):
            with contextlib.suppress(ServiceError):
                await self._compare(tenant)
            self._behind.set(tenant, None, f"the log of {tenant} holds another commit of {stream}")

    async def _try(self, tenant: str) -> bool:
        try:
            async with self._turns[tenant]:
                await self._compare(tenant)
        except ServiceError as error:
            log.warning("a tenant's log is not compared", extra={"tenant": tenant, "reason": error.reason})
            return False
        return True

    async def _compare(self, tenant: str) -> None:
        """Read the tenant's logs from the cursor to their end. Raises LedgerUnavailable, LogForked."""
        async with db.transaction(self._engine, db.EVERY_TENANT) as conn:
            at = await store.next_place(conn, tenant)
        stub = reader_pb2_grpc.LedgerReaderServiceStub(self._channel())
        shard, index = of_place(at)
        call = stub.TailEntries(reader_pb2.TailEntriesRequest(tenant=tenant, shard=shard, from_index=index))
        pages = aiter(call)
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    page = await anext(pages, None)
                if page is None:
                    raise LedgerUnavailable("the ledger ended the tail")
                at = await self._take(tenant, at, page)
                if self._behind:
                    return
                if not page.HasField("next_shard") and at >= place(page.shard, page.size):
                    break
        except TimeoutError:
            raise LedgerUnavailable("the ledger did not answer in time") from None
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, peer="audit") from None
        finally:
            call.cancel()
        self._compared.add(tenant)

    async def _take(self, tenant: str, at: int, page: reader_pb2.TailEntriesResponse) -> int:
        """Compare one page and move the cursor over it; returns the place after it."""
        if not page.entries:
            return at
        shard, index = of_place(at)
        start = index if page.shard == shard else 0  # the stream goes on with the next log from its first entry
        own = own_entries(start, ((entry.index, entry.entry) for entry in page.entries))
        after = place(page.shard, start + len(page.entries))
        async with db.transaction(self._engine, db.EVERY_TENANT) as conn:
            missing = first_missing(own, await store.known(conn, [entry.event_id for entry in own]))
            await store.move(conn, tenant, after if missing is None else place(page.shard, missing.index))
        if missing is not None:
            which = f"shard {page.shard} of the log" if page.shard else "the log"
            why = f"it lacks its own entry {missing.index} ({missing.type}) of {which} of {tenant}"
            self._behind.set(tenant, missing, why)
        return after

    async def _pause(self, stopping: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.create_task(stopping.wait()), asyncio.create_task(self._suspected.wait())]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self._suspected.clear()
