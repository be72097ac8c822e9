"""Entries as they come, for as long as somebody listens: of one log, or of a tenant's logs one after the other."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from counterseal.api.audit.v1 import reader_pb2
from counterseal.errors import NotFound
from counterseal_audit.append.ledger import Ledger
from counterseal_audit.reader import convert
from counterseal_audit.reader.choosing import Choosing, Chosen, shard_of
from counterseal_audit.reader.store import ReaderStore, StoredEntry

POLL_SECONDS = 0.2
HEARTBEAT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Tailer:
    """Serves tails until the drain."""

    choosing: Choosing
    store: ReaderStore
    ledger: Ledger
    stopping: asyncio.Event

    async def tail(self, request: reader_pb2.TailEntriesRequest) -> AsyncIterator[reader_pb2.TailEntriesResponse]:
        """Yield entries from an index on, gapless; a message without any, every second, says that there are none.

        A closed log is left for the next one only when nothing is found behind what was read *after* the next one was
        there: what is appended until then is read, and nothing is appended later.
        """
        shard, at = shard_of(request), convert.index(request.from_index, "from_index")
        follows = shard is not None
        chosen: Chosen | None = None
        loop = asyncio.get_running_loop()
        beat = loop.time()
        while not self.stopping.is_set():
            is_due = loop.time() >= beat
            if chosen is None or (follows and is_due):
                chosen = await self._choose(request.tenant, shard, at)
            rows: list[StoredEntry] = []
            if chosen is not None:
                shard, at = chosen.log.shard if follows else None, chosen.start
                rows = convert.within(await self.store.page(chosen.log.log_id, at, convert.MAX_PAGE))
                at = rows[-1].index + 1 if rows else at
                chosen = replace(chosen, start=at)
            if rows or is_due:
                yield await self._message(chosen, rows)
                beat = loop.time() + HEARTBEAT_SECONDS
            if rows:
                continue
            if chosen is not None and chosen.next_shard is not None:
                shard, at, chosen = chosen.next_shard, 0, None
            else:
                await self._growth(chosen)

    async def _choose(self, tenant: str, shard: int | None, at: int) -> Chosen | None:
        try:
            return await self.choosing.onward(tenant, shard, at)
        except NotFound:  # it may begin while we wait
            return None

    async def _message(self, chosen: Chosen | None, rows: Sequence[StoredEntry]) -> reader_pb2.TailEntriesResponse:
        if chosen is None:
            return reader_pb2.TailEntriesResponse()
        return reader_pb2.TailEntriesResponse(
            entries=[convert.entry(row, chosen.log.shard) for row in rows],
            size=await self.store.size(chosen.log.log_id),
            shard=chosen.log.shard,
            next_shard=chosen.next_shard,
        )

    async def _growth(self, chosen: Chosen | None) -> None:
        """Wait until this process appended to the log, or a moment: another replica may have."""
        writer = self.ledger.writer_of(chosen.log.log_id) if chosen is not None else None
        waits = [asyncio.create_task(self.stopping.wait())]
        if writer is not None:
            waits.append(asyncio.create_task(writer.grown.wait()))
        await asyncio.wait(waits, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
