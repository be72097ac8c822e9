"""A ledger in memory, behind the real wire contract: for tests of its producers. Audit's own tests use the real one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from counterseal.api.audit.v1 import ledger_pb2, ledger_pb2_grpc, reader_pb2, reader_pb2_grpc
from counterseal.ledger import entry as entries
from counterseal.ledger.disclosure import check
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tree import leaf_hash
from counterseal.rpc import ledger_wire


def pseudonym(person: str) -> str:
    return "p_" + "".join(chr(ord("a") + byte % 26) for byte in person.encode()).ljust(26, "a")[:26]


class TinyLedger(ledger_pb2_grpc.LedgerServiceServicer):
    """Takes every entry once, by event id. `producer` is who all callers are taken for."""

    def __init__(self, producer: str = "executor") -> None:
        self.producer = producer
        self.log: list[bytes] = []
        self.closed: list[list[bytes]] = []
        self.requests: list[ledger_pb2.NewEntry] = []
        self.down = False
        self.unreadable = False
        self.lose_answers = 0
        self.refuse: dict[str, str] = {}
        self.tails: list[tuple[str, int]] = []
        self.lists: list[tuple[str, int]] = []
        self.page_size = 1000
        self._by_id: dict[str, tuple[int, bytes]] = {}

    @property
    def types(self) -> list[str]:
        return [entries.parse(data).type for data in self.log]

    def log_of(self, tenant: str) -> list[bytes]:
        """The entries of one tenant, as its own log."""
        return [data for data in self.log if entries.parse(data).tenant == tenant]

    def shard_of(self, tenant: str, shard: int) -> list[bytes]:
        """The entries of one tenant in its logs before, and in the newest."""
        if shard == len(self.closed):
            return self.log_of(tenant)
        return [data for data in self.closed[shard] if entries.parse(data).tenant == tenant]

    def continue_logs(self) -> None:
        """Close every tenant's log and begin the next one."""
        self.closed.append(self.log)
        self.log = []

    def append(self, request: ledger_pb2.NewEntry) -> ledger_pb2.AppendResult:
        reason = self.refuse.get(request.event_id)
        if reason:
            refusal = ledger_pb2.AppendRefusal(reason_code=reason, message="refused by the test")
            return ledger_pb2.AppendResult(event_id=request.event_id, refused=refusal)
        try:
            content = entries.pseudonymise(ledger_wire.content_of(request), pseudonym)
            known = entries.check_content(content)
            check(request.disclosures, known.sealed)
        except VerificationError as error:
            refusal = ledger_pb2.AppendRefusal(reason_code="INPUT_INVALID", message=error.message)
            return ledger_pb2.AppendResult(event_id=request.event_id, refused=refusal)
        duplicate = request.event_id in self._by_id
        if not duplicate:
            producer = self.producer if self.producer in known.producers else min(known.producers)
            data = entries.build(content, entries.Srv(1, producer))
            self._by_id[request.event_id] = (len(self.log), data)
            self.log.append(data)
            self.requests.append(request)
        index, data = self._by_id[request.event_id]
        receipt = ledger_pb2.AppendedEntry(index=index, leaf_hash=leaf_hash(data), entry=data, duplicate=duplicate)
        return ledger_pb2.AppendResult(event_id=request.event_id, appended=receipt)

    async def AppendEntry(  # noqa: N802
        self, request: ledger_pb2.AppendEntryRequest, context: Any
    ) -> ledger_pb2.AppendEntryResponse:
        return ledger_pb2.AppendEntryResponse(result=self.append(request.entry))

    async def AppendBatch(  # noqa: N802
        self, request: ledger_pb2.AppendBatchRequest, context: Any
    ) -> ledger_pb2.AppendBatchResponse:
        return ledger_pb2.AppendBatchResponse(results=[self.append(entry) for entry in request.entries])

    async def AppendStream(  # noqa: N802
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[ledger_pb2.AppendStreamResponse]:
        async for request in request_iterator:
            if self.down:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
            results = [self.append(entry) for entry in request.entries]
            if self.lose_answers:
                self.lose_answers -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
            yield ledger_pb2.AppendStreamResponse(batch=request.batch, results=results)


class TinyReader(reader_pb2_grpc.LedgerReaderServiceServicer):
    """The tail of a tiny ledger: one log for every tenant, filtered as it is read."""

    def __init__(self, ledger: TinyLedger) -> None:
        self.ledger = ledger

    async def TailEntries(  # noqa: N802
        self, request: reader_pb2.TailEntriesRequest, context: Any
    ) -> AsyncIterator[reader_pb2.TailEntriesResponse]:
        at = request.from_index
        shard = request.shard if request.HasField("shard") else len(self.ledger.closed)
        self.ledger.tails.append((request.tenant, at))
        while not self.ledger.down:
            following = shard + 1 if shard < len(self.ledger.closed) else None
            log = self.ledger.shard_of(request.tenant, shard)
            found = [
                reader_pb2.LedgerEntry(index=at + offset, entry=data, leaf_hash=leaf_hash(data), shard=shard)
                for offset, data in enumerate(log[at : at + 100])
            ]
            at += len(found)
            yield reader_pb2.TailEntriesResponse(entries=found, size=len(log), shard=shard, next_shard=following)
            if not found and following is not None:
                shard, at = following, 0
            elif not found:
                await asyncio.sleep(0.05)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "down")

    async def ListEntries(  # noqa: N802
        self, request: reader_pb2.ListEntriesRequest, context: Any
    ) -> reader_pb2.ListEntriesResponse:
        if self.ledger.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        self.ledger.lists.append((request.tenant, request.from_index))
        shard, at = request.shard if request.HasField("shard") else len(self.ledger.closed), request.from_index
        log = self.ledger.shard_of(request.tenant, shard)
        found = [
            reader_pb2.LedgerEntry(index=at + offset, entry=data, leaf_hash=leaf_hash(data), shard=shard)
            for offset, data in enumerate(log[at : at + min(request.page_size, self.ledger.page_size)])
        ]
        following = shard + 1 if shard < len(self.ledger.closed) else None
        return reader_pb2.ListEntriesResponse(entries=found, size=len(log), shard=shard, next_shard=following)

    async def GetCheckpoint(  # noqa: N802
        self, request: reader_pb2.GetCheckpointRequest, context: Any
    ) -> reader_pb2.GetCheckpointResponse:
        """Everything is signed at once. Answers while appends are `down`: tests cut them behind the commit gate."""
        if self.ledger.unreadable:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        size = len(self.ledger.log_of(request.tenant))
        return reader_pb2.GetCheckpointResponse(size=size, log_size=size)


@asynccontextmanager
async def serve(
    servicer: ledger_pb2_grpc.LedgerServiceServicer, address: str = "127.0.0.1:0"
) -> AsyncIterator[grpc.aio.Channel]:
    """A real grpc.aio server on loopback, and a channel to it."""
    server = grpc.aio.server()
    ledger_pb2_grpc.add_LedgerServiceServicer_to_server(servicer, server)
    if isinstance(servicer, TinyLedger):
        tail = TinyReader(servicer)  # type: ignore[abstract] # nothing else is read of it
        reader_pb2_grpc.add_LedgerReaderServiceServicer_to_server(tail, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)
        await asyncio.sleep(0)
