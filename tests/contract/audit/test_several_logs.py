"""Reading a tenant's logs one by one: one that was closed stays as readable as the one that continues it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc
from counterseal.clock import system_clock
from counterseal.errors import ServiceError
from counterseal.ids import new_id
from counterseal.ledger import proof as proofs
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import verify_consistency, verify_inclusion
from counterseal.ledger.verify import verify_log
from counterseal.rpc.status import from_rpc_error
from counterseal_audit.logs.anchors import Birth
from counterseal_audit.reader.export import LogFiles
from support.audit import AuditServer, append_one, audit_server
from support.entries import changed
from support.exports import Files
from support.postgres import FreshDatabase
from support.requirements import requirement

PEOPLE = ("user:olga", "user:pat")


async def fill(server: AuditServer, count: int) -> list[str]:
    """Append entries to the newest log; return their event ids."""
    entries = [changed(stream=f"plan:{new_id()}") for _ in range(count)]
    for entry in entries:
        await append_one(server.parts, entry)
    return [entry.event_id for entry in entries]


async def carry_on(server: AuditServer, tenant: str = "acme") -> int:
    """Close a tenant's log, have its end signed and begin the next; return its number."""
    operations = server.parts.operations
    old = await operations.newest(tenant)
    await operations.freeze(old, "OPERATOR", PEOPLE)
    await server.parts.publisher.publish_once()
    return (await operations.continue_behind(old, await operations.citation(old, b""), PEOPLE)).shard


@asynccontextmanager
async def two_logs(fresh_database: FreshDatabase) -> AsyncIterator[tuple[AuditServer, list[str], list[str]]]:
    """A server whose acme has 6 entries in a closed log and 8 in the next; and the event ids that were appended."""
    async with audit_server(fresh_database("audit"), publish=False, follow=False) as server:
        old = await fill(server, 4)
        assert await carry_on(server) == 1
        new = await fill(server, 6)
        await server.parts.publisher.publish_once()
        yield server, old, new


async def call(server: AuditServer, method: str, request: Any, **claims: Any) -> Any:
    async with server.channel("cli") as channel:
        stub = reader_pb2_grpc.LedgerReaderServiceStub(channel)
        metadata = (("txn-token", server.token(**claims)),)
        try:
            return await getattr(stub, method)(request, metadata=metadata, timeout=60)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, peer="audit") from None


async def reason(server: AuditServer, method: str, request: Any, **claims: Any) -> str:
    with pytest.raises(ServiceError) as refused:
        await call(server, method, request, **claims)
    return refused.value.reason


@requirement("ledger:closed-logs-readable")
async def test_an_entry_is_found_by_its_id_in_any_log_and_by_its_index_in_the_one_that_is_named(
    fresh_database: FreshDatabase,
) -> None:
    async with two_logs(fresh_database) as (server, old, new):
        for shard, ids in enumerate((old, new)):
            for event_id in ids:
                found = await call(server, "GetEntry", reader_pb2.GetEntryRequest(event_id=event_id))
                assert (found.entry.shard, found.size) == (shard, (6, 8)[shard])
                named = reader_pb2.GetEntryRequest(index=found.entry.index, shard=shard)
                assert (await call(server, "GetEntry", named)).entry == found.entry
                assert (
                    await reason(server, "GetEntry", reader_pb2.GetEntryRequest(event_id=event_id, shard=1 - shard))
                    == "NOT_FOUND"
                )
                assert (
                    await reason(server, "GetEntry", reader_pb2.GetEntryRequest(event_id=event_id), tenant="globex")
                    == "NOT_FOUND"
                )
        newest = await call(server, "GetEntry", reader_pb2.GetEntryRequest(index=0))
        assert newest.entry.shard == 1
        for method, request in (
            ("GetEntry", reader_pb2.GetEntryRequest(index=0, shard=2)),
            ("GetCheckpoint", reader_pb2.GetCheckpointRequest(shard=2)),
            ("ListEntries", reader_pb2.ListEntriesRequest(shard=2)),
            ("GetInclusionProof", reader_pb2.GetInclusionProofRequest(shard=2)),
            ("GetConsistencyProof", reader_pb2.GetConsistencyProofRequest(from_size=1, shard=2)),
        ):
            assert await reason(server, method, request) == "NOT_FOUND"
            request.shard = -1
            assert await reason(server, method, request) == "INPUT_INVALID"


@requirement("ledger:closed-logs-readable")
async def test_each_log_proves_its_own_entries(fresh_database: FreshDatabase) -> None:
    async with two_logs(fresh_database) as (server, old, new):
        for shard, ids in [*enumerate((old, new)), *enumerate((old, new))]:  # twice: the second time from memory
            head = await call(server, "GetCheckpoint", reader_pb2.GetCheckpointRequest(shard=shard))
            key = VerifierKey.parse(head.vkey)
            assert (head.shard, head.size, head.log_size) == (shard, (6, 8)[shard], (6, 8)[shard])
            for event_id in ids:
                entry = (await call(server, "GetEntry", reader_pb2.GetEntryRequest(event_id=event_id))).entry
                request = reader_pb2.GetInclusionProofRequest(index=entry.index, shard=shard)
                found = await call(server, "GetInclusionProof", request)
                verify_inclusion(entry.index, head.size, entry.leaf_hash, list(found.path), found.root_hash)
                proofs.parse(found.tlog_proof).verify(entry.entry, [key])
            pair = reader_pb2.GetConsistencyProofRequest(from_size=2, shard=shard)
            both = await call(server, "GetConsistencyProof", pair)
            verify_consistency(2, head.size, both.from_root_hash, both.to_root_hash, list(both.path))


@requirement("ledger:closed-logs-readable")
async def test_a_list_stays_in_its_log_from_page_to_page_and_says_which_one_follows(
    fresh_database: FreshDatabase,
) -> None:
    async with two_logs(fresh_database) as (server, _, _):
        for shard, size in ((0, 6), (1, 8)):
            seen: list[tuple[int, int]] = []
            page = ""
            while True:
                request = reader_pb2.ListEntriesRequest(shard=shard, page_size=4, page_token=page)
                answer = await call(server, "ListEntries", request)
                assert (answer.shard, answer.size) == (shard, size)
                assert (answer.next_shard if answer.HasField("next_shard") else None) == (1, None)[shard]
                seen += [(entry.shard, entry.index) for entry in answer.entries]
                page = answer.next_page_token
                if not page:
                    break
            assert seen == [(shard, index) for index in range(size)]
        first = await call(server, "ListEntries", reader_pb2.ListEntriesRequest(page_size=4))
        assert (first.shard, first.HasField("next_shard")) == (1, False)
        assert await carry_on(server) == 2
        rest = await call(server, "ListEntries", reader_pb2.ListEntriesRequest(page_token=first.next_page_token))
        assert (rest.shard, rest.next_shard) == (1, 2), "by now there is one behind it"
        assert [(one.shard, one.index) for one in rest.entries] == [(1, index) for index in range(4, 9)]


@requirement("ledger:closed-logs-readable")
async def test_a_log_that_a_restored_database_lost_gives_way_to_the_next_one_from_its_beginning(
    fresh_database: FreshDatabase,
) -> None:
    async with audit_server(fresh_database("audit"), publish=False, follow=False) as server:
        await fill(server, 4)
        old = await server.parts.log()
        lost = Birth(f"{old.origin}x", old.vkey, new_id(), system_clock(), "sha256:" + "ab" * 32)
        await server.parts.anchors.reserve("acme", 1, lost)
        assert await carry_on(server) == 2
        answer = await call(server, "ListEntries", reader_pb2.ListEntriesRequest(shard=1, from_index=2))
        assert [(one.shard, one.index) for one in answer.entries] == [(2, 0), (2, 1)]
        rest = reader_pb2.ListEntriesRequest(shard=1, from_index=2, page_size=1)
        rest.page_token = (await call(server, "ListEntries", rest)).next_page_token
        assert [(one.shard, one.index) for one in (await call(server, "ListEntries", rest)).entries] == [(2, 1)]
        assert [place async for place in tail(server, 2, shard=1, from_index=2)] == [(2, 0), (2, 1)]
        await server.parts.publisher.publish_once()
        new = await server.parts.log()
        last = await server.parts.checkpoints.latest(new.log_id)
        assert last is not None
        exporting = LogFiles(server.parts.logs, server.parts.checkpoints, server.parts.reader)
        report = verify_log(Files({path: content async for path, content in exporting.of(new, last)}), new.key)
        assert (report.findings, [one.origin for one in report.shards]) == ((), [old.origin])


@requirement("ledger:closed-logs-readable")
async def test_a_tail_that_names_a_log_goes_on_with_the_next_and_one_that_does_not_stays(
    fresh_database: FreshDatabase,
) -> None:
    async with audit_server(fresh_database("audit"), publish=False, follow=False) as server:
        await fill(server, 2)
        follows = asyncio.create_task(listed(tail(server, 16, shard=0, from_index=1)))
        stays = asyncio.create_task(listed(tail(server, 6, from_index=0)))
        await asyncio.sleep(0.3)
        await fill(server, 2)
        await carry_on(server)
        await fill(server, 1)
        await carry_on(server)
        await carry_on(server)
        await fill(server, 2)
        async with asyncio.timeout(20):
            assert await stays == [(0, index) for index in range(6)]
            assert await follows == [
                *((0, index) for index in range(1, 6)),
                *((1, index) for index in range(4)),
                *((2, index) for index in range(3)),
                *((3, index) for index in range(4)),
            ]


async def tail(server: AuditServer, count: int, **request: Any) -> AsyncIterator[tuple[int, int]]:
    """Yield where the first entries of a tail are; no message is of two logs."""
    async with server.channel("cli") as channel:
        stub = reader_pb2_grpc.LedgerReaderServiceStub(channel)
        metadata = (("txn-token", server.token()),)
        stream = stub.TailEntries(reader_pb2.TailEntriesRequest(**request), metadata=metadata)
        async for message in stream:
            for entry in message.entries:
                assert entry.shard == message.shard
                yield entry.shard, entry.index
                count -= 1
            if count <= 0:
                return


async def listed(places: AsyncIterator[tuple[int, int]]) -> list[tuple[int, int]]:
    return [place async for place in places]


@requirement("ledger:closed-logs-readable")
async def test_a_receipt_says_in_which_log_the_entry_is(fresh_database: FreshDatabase) -> None:
    async with (
        audit_server(fresh_database("audit"), publish=False, follow=False) as server,
        server.producer() as client,
    ):
        before = changed(stream="plan:before")
        assert (await client.append_one(before)).shard == 0
        await carry_on(server)
        new = await client.append_one(changed(stream="plan:after"))
        assert (new.shard, new.index) == (1, 2)
        again = await client.append_one(before)
        assert (again.shard, again.index, again.duplicate) == (0, 1, True)
