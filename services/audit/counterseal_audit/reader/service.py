"""LedgerReaderService: people read their own tenant's log, services name the one they mean."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc
from counterseal.errors import InputInvalid, NotFound, RoleRequired
from counterseal.identity import current_caller
from counterseal.ids import is_id
from counterseal.ledger.keyring import claimed
from counterseal.ledger.places import of_place, place
from counterseal.ledger.proof import TlogProof
from counterseal_audit.append.convert import timestamp
from counterseal_audit.checkpoints.store import CheckpointStore, StoredCheckpoint
from counterseal_audit.logs.store import Log, LogStore
from counterseal_audit.payloads.disclosing import Discloser
from counterseal_audit.projection.engine import Query
from counterseal_audit.reader import convert
from counterseal_audit.reader.choosing import Choosing, shard_of
from counterseal_audit.reader.export import LogFiles
from counterseal_audit.reader.prover import Prover
from counterseal_audit.reader.recording import ExportRecorder
from counterseal_audit.reader.search import Coverage, Searcher, Spanned
from counterseal_audit.reader.store import ReaderStore, StoredEntry
from counterseal_audit.reader.tailing import Tailer
from counterseal_audit.reader.trees import Trees

EXPORT_POLL_SECONDS = 0.1
PIECE_BYTES = 1 << 20
REINDEX_POLL_SECONDS = 0.2


@dataclass(slots=True)
class ReaderServicer(reader_pb2_grpc.LedgerReaderServiceServicer):
    """Reads logs. Tenancy: a token's tenant is the only one that it opens; what is not there is NOT_FOUND."""

    logs: LogStore
    choosing: Choosing
    store: ReaderStore
    trees: Trees
    prover: Prover
    checkpoints: CheckpointStore
    tailer: Tailer
    discloser: Discloser
    searcher: Searcher
    recorder: ExportRecorder
    stopping: asyncio.Event
    operator_roles: frozenset[str] = frozenset({"operator"})

    async def GetEntry(  # noqa: N802
        self,
        request: reader_pb2.GetEntryRequest,
        context: Any,  # noqa: ARG002
    ) -> reader_pb2.GetEntryResponse:
        """Return one entry by index or event id."""
        async with self.store.snapshot():
            log, found = await self._one(request)
            last = await self.checkpoints.latest(log.log_id)
            return reader_pb2.GetEntryResponse(
                entry=convert.entry(found, log.shard),
                size=await self.store.size(log.log_id),
                signed_size=last.size if last else 0,
            )

    async def ListEntries(  # noqa: N802
        self,
        request: reader_pb2.ListEntriesRequest,
        context: Any,  # noqa: ARG002
    ) -> reader_pb2.ListEntriesResponse:
        """Return a page of entries in order of the index."""
        shard, start = shard_of(request), convert.index(request.from_index, "from_index")
        tenant = self.choosing.tenant(request.tenant)
        behind = convert.place_of(request, tenant)
        if behind is not None:
            shard, start = behind
        count = convert.page_size(request.page_size)
        chosen = await self.choosing.onward(request.tenant, shard, start)
        log = chosen.log
        async with self.store.snapshot():  # behind the choice: a log that has a next one by then takes no more entries
            size = await self.store.size(log.log_id)
            rows = convert.within(await self._list(log, request, chosen.start, count))
        more = bool(rows) and rows[-1].index + 1 < size
        return reader_pb2.ListEntriesResponse(
            entries=[convert.entry(row, log.shard) for row in rows],
            next_page_token=convert.token(request, tenant, log.shard, rows[-1].index) if more else "",
            size=size,
            shard=log.shard,
            next_shard=chosen.next_shard,
        )

    async def SearchEntries(  # noqa: N802
        self,
        request: reader_pb2.SearchEntriesRequest,
        context: Any,  # noqa: ARG002
    ) -> reader_pb2.SearchEntriesResponse:
        """Return a page of the entries that a query means."""
        shards = await self.choosing.shards(request.tenant)
        query = await self.searcher.query(shards[-1], request)
        tenant = self.choosing.tenant(request.tenant)
        start = place(*(convert.place_of(request, tenant) or (0, 0)))
        count = convert.page_size(request.page_size)
        found = await self.searcher.page(shards, query, start, count)
        places = list(found.entries)
        rows = convert.within(list(found.entries.values()))
        more = len(rows) < len(found.entries) or len(rows) == count
        shard, index = of_place(places[len(rows) - 1]) if rows else (0, 0)
        return reader_pb2.SearchEntriesResponse(
            entries=[convert.entry(row, of_place(at)[0]) for at, row in zip(places, rows, strict=False)],
            next_page_token=convert.token(request, tenant, shard, index) if more else "",
            indexed_size=found.complete_size,
            size=sum(one.size for one in found.coverage),
            shards=[
                reader_pb2.ShardCoverage(
                    shard=one.log.shard, origin=one.log.origin, indexed_size=one.complete_size, size=one.size
                )
                for one in found.coverage
            ],
        )

    async def GetTrace(  # noqa: N802
        self,
        request: reader_pb2.GetTraceRequest,
        context: Any,  # noqa: ARG002
    ) -> reader_pb2.GetTraceResponse:
        """Return everything about one action, proven in each log's latest checkpoint as far as that covers it."""
        shards = await self.choosing.shards(request.tenant)
        await self.searcher.prepare(shards[-1])
        async with self.store.snapshot():
            found = await self.searcher.gather(shards, request)
            if not found.entries:
                raise NotFound("the ledger holds nothing about this")
            *older, newest = [await self._traced(one, found) for one in found.coverage]
        return reader_pb2.GetTraceResponse(
            entries=newest.entries,
            indexed_size=newest.indexed_size,
            size=newest.size,
            checkpoint=newest.checkpoint,
            vkey=newest.vkey,
            truncated=found.truncated,
            older=older,
            shard=newest.shard,
            rotations=newest.rotations,
        )

    async def ReindexLog(  # noqa: N802
        self,
        request: reader_pb2.ReindexLogRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[reader_pb2.ReindexLogResponse]:
        """Empty the projection and report until everything that was in the logs then is in it again."""
        shards = await self.choosing.shards(request.tenant)
        if not self.operator_roles & current_caller().roles:
            raise RoleRequired("making the projection again needs the role operator")
        size = sum([await self.store.size(log.log_id) for log in shards])
        for log in shards:
            await self.searcher.reindex(log)
        indexed = 0
        while not self.stopping.is_set():
            indexed = sum([await self.searcher.projection.indexed_size(log.log_id) for log in shards])
            yield reader_pb2.ReindexLogResponse(indexed_size=indexed, size=size)
            if indexed >= size:
                return
            await asyncio.sleep(REINDEX_POLL_SECONDS)

    async def TailEntries(  # noqa: N802
        self,
        request: reader_pb2.TailEntriesRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[reader_pb2.TailEntriesResponse]:
        """Stream entries from an index on, gapless; an empty message every second says that there are none."""
        async for message in self.tailer.tail(request):
            yield message

    async def GetCheckpoint(  # noqa: N802
        self,
        request: reader_pb2.GetCheckpointRequest,
        context: Any,  # noqa: ARG002
    ) -> reader_pb2.GetCheckpointResponse:
        """Return the latest signed checkpoint."""
        async with self.store.snapshot():
            log = await self.choosing.log(request.tenant, shard_of(request))
            last = await self._latest(log)
            return reader_pb2.GetCheckpointResponse(
                checkpoint=last.published.note,
                vkey=log.vkey,
                size=last.size,
                publish_time=timestamp(last.publish_time_ms),
                log_size=await self.store.size(log.log_id),
                shard=log.shard,
            )

    async def GetInclusionProof(  # noqa: N802
        self,
        request: reader_pb2.GetInclusionProofRequest,
        context: Any,  # noqa: ARG002
    ) -> reader_pb2.GetInclusionProofResponse:
        """Prove that an entry is in a tree of a size."""
        index = convert.index(request.index, "index")
        whose = self.choosing.tenant(request.tenant), shard_of(request)
        found = await self.prover.inclusion(whose, index, request.tree_size)
        note = found.checkpoint.published.note if found.checkpoint else None
        return reader_pb2.GetInclusionProofResponse(
            tree_size=found.size,
            path=found.path,
            leaf_hash=found.leaf,
            root_hash=found.root,
            tlog_proof=TlogProof(index, found.path, note).serialize() if note is not None else b"",
        )

    async def GetConsistencyProof(  # noqa: N802
        self,
        request: reader_pb2.GetConsistencyProofRequest,
        context: Any,  # noqa: ARG002
    ) -> reader_pb2.GetConsistencyProofResponse:
        """Prove that one tree is a prefix of another."""
        whose = self.choosing.tenant(request.tenant), shard_of(request)
        found = await self.prover.consistency(whose, request.from_size, request.to_size)
        return reader_pb2.GetConsistencyProofResponse(
            to_size=found.to_size, path=found.path, from_root_hash=found.from_root, to_root_hash=found.to_root
        )

    async def ExportLog(  # noqa: N802
        self,
        request: reader_pb2.ExportLogRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[reader_pb2.ExportLogResponse]:
        """Stream the log as files, all for one checkpoint that covers `min_size`; the log says so before the first."""
        log = await self.choosing.log(request.tenant)
        if request.min_size > await self.store.size(log.log_id):
            raise InputInvalid(f"min_size: the log has fewer than {request.min_size} entries")
        last = await self.checkpoints.latest(log.log_id)
        while (last is None or last.size < request.min_size) and not self.stopping.is_set():
            await asyncio.sleep(EXPORT_POLL_SECONDS)
            last = await self.checkpoints.latest(log.log_id)
        if last is None:
            raise NotFound("no checkpoint was signed yet")
        files = LogFiles(self.logs, self.checkpoints, self.store)
        parts = await files.parts(log, last)
        recorded = await self.recorder.handed_out(current_caller(), log, [part.head for part in parts], request.purpose)
        first = True
        async for path, content in files.files(parts):
            for start in range(0, len(content), PIECE_BYTES):
                piece = reader_pb2.ExportLogResponse(path=path, content=content[start : start + PIECE_BYTES])
                if first:
                    piece.size = last.size
                    piece.disclosed_event_id = recorded.event_id
                    piece.manifest_digest = recorded.manifest_digest
                    first = False
                yield piece

    async def RecordExport(  # noqa: N802
        self,
        request: reader_pb2.RecordExportRequest,
        context: Any,  # noqa: ARG002
    ) -> reader_pb2.RecordExportResponse:
        """Record what the caller made of an export of theirs."""
        log = await self.choosing.log(request.tenant)
        event_id = await self.recorder.made(current_caller(), log, request)
        return reader_pb2.RecordExportResponse(disclosed_event_id=event_id)

    async def _list(
        self, log: Log, request: reader_pb2.ListEntriesRequest, start: int, count: int
    ) -> list[StoredEntry]:
        """Return a page: what the projection knows of it, then what is behind the projection, entry by entry."""
        filters = convert.filters(request)
        if not filters:
            return await self.store.page(log.log_id, start, count)
        query = Query({field: [value] for field, (_, value) in filters.items()})
        hits = await self.searcher.projection.find(log.log_id, query, start, count)
        rows = [StoredEntry(hit.index, hit.entry, hit.leaf_hash) for hit in hits.entries]
        if len(rows) < count and hits.indexed_size < hits.size:
            needles = [f'"{name}":"{value}"'.encode() for name, value in filters.values()]
            rows += await self.store.page(log.log_id, max(start, hits.indexed_size), count - len(rows), needles)
        return rows

    async def _traced(self, one: Coverage, found: Spanned) -> reader_pb2.ShardTrace:
        """Return one shard's part of a trace, with the proofs."""
        log = one.log
        rows = [row for at, row in found.entries.items() if of_place(at)[0] == log.shard]
        last = await self.checkpoints.latest(log.log_id)
        size = last.size if last else 0
        # Read after the checkpoint: the rotations to every key that signed it are stored by then.
        rotations = [(turn, claimed(turn.note)) for turn in await self.checkpoints.rotations(log.log_id)]
        signed = {first.size: first.root for _, first in rotations} | ({size: last.published.root} if last else {})
        leaves = [(row.index, size) for row in rows] + [(turn.index, first.size) for turn, first in rotations]
        paths = await self.trees.paths(log.log_id, [leaf for leaf in leaves if leaf[0] < leaf[1]], signed)
        return reader_pb2.ShardTrace(
            shard=log.shard,
            entries=[
                reader_pb2.TracedEntry(entry=convert.entry(row, log.shard), path=paths.get((row.index, size)))
                for row in rows
            ],
            indexed_size=one.complete_size,
            size=one.size,
            checkpoint=last.published.note if last else b"",
            vkey=log.vkey,
            rotations=[
                reader_pb2.KeyRotation(
                    index=turn.index, entry=turn.entry, path=paths.get((turn.index, first.size)), note=turn.note
                )
                for turn, first in rotations
            ],
        )

    async def DiscloseEntry(  # noqa: N802
        self,
        request: reader_pb2.DiscloseEntryRequest,
        context: Any,  # noqa: ARG002
    ) -> reader_pb2.DiscloseEntryResponse:
        """Return chosen sealed fields of an entry; the log says so before the caller has them."""
        log, entry = await self._one(request)
        done = await self.discloser.disclose(
            current_caller(), log, entry, list(request.names), request.purpose, request.note
        )
        return reader_pb2.DiscloseEntryResponse(
            entry=convert.entry(entry, log.shard),
            disclosures=done.disclosures,
            tlog_proof=await self._proof(log, entry.index),
            disclosed_event_id=done.event_id,
            manifest_digest=done.manifest_digest,
        )

    async def _one(
        self, request: reader_pb2.GetEntryRequest | reader_pb2.DiscloseEntryRequest
    ) -> tuple[Log, StoredEntry]:
        """Return an entry and its log: by event id of whichever of the tenant's logs, unless the request names one."""
        log = await self.choosing.log(request.tenant, shard_of(request))
        if request.WhichOneof("by") == "index":
            found = await self.store.by_index(log.log_id, convert.index(request.index, "index"))
        elif is_id(request.event_id):
            found = await self.store.by_event_id(log.log_id, request.event_id)
            older = [] if found or not log.shard or request.HasField("shard") else await self._before(log)
            for log in older:
                found = await self.store.by_event_id(log.log_id, request.event_id)
                if found is not None:
                    break
        else:
            raise InputInvalid("an entry is asked for by index, or by event_id (a UUID in lower case)")
        if found is None:
            raise NotFound("no such entry")
        return log, found

    async def _before(self, log: Log) -> list[Log]:
        """Return the logs before a log, newest first."""
        shards = await self.logs.shards(log.tenant, log.environment)
        return [one for one in reversed(shards) if one.shard < log.shard]

    async def _proof(self, log: Log, index: int) -> bytes:
        """Return an entry's tlog-proof in the latest checkpoint, empty when that does not cover it yet."""
        last = await self.checkpoints.latest(log.log_id)
        if last is None or index >= last.size:
            return b""
        signed = {last.size: last.published.root}
        (path,) = (await self.trees.paths(log.log_id, [(index, last.size)], signed)).values()
        return TlogProof(index, tuple(path), last.published.note).serialize()

    async def _latest(self, log: Log) -> StoredCheckpoint:
        last = await self.checkpoints.latest(log.log_id)
        if last is None:
            raise NotFound("no checkpoint was signed yet")
        return last
