"""What became of the plans that people were asked about, as the ledger has it: tasks read USED or WITHDRAWN.

This is what people see, and why votes go on counting for a committed plan. That a plan commits once is not enforced
here but by the executor's `commit_use` and by the ledger, whose log may be read a moment late.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc
from counterseal.clock import Clock
from counterseal.errors import LedgerUnavailable, NotFound, ServiceError
from counterseal.ids import IdSource
from counterseal.ledger import entry as entries
from counterseal.ledger.entry import Entry
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.places import of_place, place
from counterseal.ledger.tree import leaf_hash
from counterseal.rpc.ledger_client import Channel
from counterseal.rpc.outbox import Outbox
from counterseal.rpc.status import from_rpc_error
from counterseal_policy.approvals import cursor, store
from counterseal_policy.approvals.engine import COMMITTED, ENDED, after_plan
from counterseal_policy.database import EVERY_TENANT, transaction
from counterseal_policy.decisions.asking import ended_entry

PAGE = 1000
LOOK_SECONDS = 1.0
CALL_SECONDS = 10.0
_MARKS = tuple(f'"type":"{name}"'.encode() for name in (COMMITTED, ENDED))

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlanFollower:
    """Reads the logs of tenants with open tasks. Replicas may do so at once: a task is moved under its row's lock."""

    engine: AsyncEngine
    channel: Channel
    outbox: Outbox
    environment: str
    clock: Clock
    new_id: IdSource

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow until the drain; run it as one background task."""
        while not stopping.is_set():
            try:
                await self.follow()
            except (ServiceError, sa.exc.SQLAlchemyError) as error:
                _log.warning("plans are not followed: %s", getattr(error, "reason", type(error).__name__))
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await stopping.wait()
            except TimeoutError:
                continue

    async def follow(self) -> int:
        """Read what is new and return how many tasks it moved.

        Raises LedgerUnavailable, PolicyUnavailable once every tenant was read: a malformed log holds up no other.
        """
        async with transaction(self.engine, EVERY_TENANT) as connection:
            starts = await cursor.starts(connection)
        moved = 0
        failures: list[ServiceError] = []
        for tenant, at in starts:
            try:
                moved += await self._tenant(tenant, at)
            except ServiceError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return moved

    async def _tenant(self, tenant: str, at: int) -> int:
        moved = 0
        while True:
            page = await self._page(tenant, at)
            if page is None:
                return moved
            found = [entry for one in page.entries if (entry := _plan_event(one, tenant)) is not None]
            before, at = at, _after(page, at)
            if at == before:
                return moved
            async with transaction(self.engine, tenant) as connection:
                for entry in found:
                    moved += await self._apply(connection, entry)
                await cursor.move(connection, tenant, at)
            if moved:
                self.outbox.wake()
            if at == place(page.shard, page.size):  # the newest log's end: no need to ask again
                return moved

    async def _page(self, tenant: str, at: int) -> reader_pb2.ListEntriesResponse | None:
        channel = self.channel() if callable(self.channel) else self.channel
        shard, index = of_place(at)
        request = reader_pb2.ListEntriesRequest(tenant=tenant, shard=shard, from_index=index, page_size=PAGE)
        try:
            stub = reader_pb2_grpc.LedgerReaderServiceStub(channel)
            answer: reader_pb2.ListEntriesResponse = await stub.ListEntries(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error, peer="audit")
            if isinstance(failure, NotFound):
                return None  # the tenant has no log yet
            raise failure from None
        return answer

    async def _apply(self, connection: AsyncConnection, entry: Entry) -> int:
        """Move the plan's open task, if it has one; returns how many."""
        task = await store.lock_live(connection, entry.document.get("plan_digest", ""))
        if task is None:
            return 0
        state = after_plan(task.state, entry.type, str(entry.data.get("state", "")))
        if state is None:
            return 0
        await store.set_state(connection, task.task_id, state)
        if state == "WITHDRAWN":
            await self.outbox.put(connection, ended_entry(task, self.environment, self.new_id(), self.clock()))
        return 1


def _after(page: reader_pb2.ListEntriesResponse, at: int) -> int:
    """Return the place behind a page that was read from `at` on; at a closed log's end, the next one's beginning.

    Never one before `at`: a ledger that lost entries to a restore is left alone until its log is continued by another.
    """
    end = max(at, place(page.shard, page.entries[-1].index + 1 if page.entries else 0))
    if page.HasField("next_shard") and end >= place(page.shard, page.size):
        return place(page.next_shard, 0)
    return end


def _plan_event(one: reader_pb2.LedgerEntry, tenant: str) -> Entry | None:
    """Return the entry if it says that a plan was committed or ended, which only the executor may write.

    Raises LedgerUnavailable for a malformed one.
    """
    if not _mentions(one.entry, _MARKS):
        return None
    try:
        entry = entries.parse(one.entry)
    except VerificationError as error:
        raise LedgerUnavailable(f"the ledger sent a malformed entry: {error.message}") from error
    if leaf_hash(one.entry) != one.leaf_hash or entry.tenant != tenant:
        raise LedgerUnavailable("the ledger sent an entry that is not what it says", event_id=entry.event_id)
    return entry if entry.type in (COMMITTED, ENDED) else None


def _mentions(data: bytes, marks: Sequence[bytes]) -> bool:
    return any(mark in data for mark in marks)
