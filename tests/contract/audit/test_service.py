"""The audit service over the wire: who may append and read what, proofs, tails, exports that verify."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from counterseal.api.audit.v1 import ledger_pb2, ledger_pb2_grpc, reader_pb2, reader_pb2_grpc
from counterseal.cli import main
from counterseal.cli.audit_pins import read_vkey
from counterseal.cli.audit_sources import Directory
from counterseal.client.export import write_export
from counterseal.errors import IdempotencyKeyReused, InputInvalid, LedgerUnavailable, LogForked, PeerNotAllowed
from counterseal.ids import new_id
from counterseal.ledger import proof as proofs
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import verify_consistency, verify_inclusion
from counterseal.ledger.verify import verify_log
from counterseal.rpc.ledger_client import Appended, Refused
from counterseal.rpc.ledger_wire import new_entry
from counterseal.rpc.status import from_rpc_error
from support.audit import AuditServer, audit_server
from support.entries import NOW, changed, received
from support.postgres import FreshDatabase
from support.requirements import requirement


async def fill(server: AuditServer, count: int, tenant: str = "acme") -> list[Appended]:
    requests = [changed(stream=f"plan:{n}", tenant=tenant) for n in range(count)]
    async with server.producer() as client:
        answers = await client.append(requests)
    assert all(isinstance(answer, Appended) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Appended)]


async def read(server: AuditServer, method: str, request: Any, path: str = "svc/policy", **claims: Any) -> Any:
    metadata = () if path.startswith("svc/") else (("txn-token", server.token(path, **claims)),)
    async with server.channel(path) as channel:
        stub = reader_pb2_grpc.LedgerReaderServiceStub(channel)
        return await getattr(stub, method)(request, metadata=metadata, timeout=10)


async def reason(server: AuditServer, method: str, request: Any, path: str = "svc/policy", **claims: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(server, method, request, path, **claims)
    return from_rpc_error(caught.value).reason


async def signed(server: AuditServer, size: int, tenant: str = "acme") -> Any:
    async with asyncio.timeout(10):
        while True:
            try:
                found = await read(server, "GetCheckpoint", reader_pb2.GetCheckpointRequest(tenant=tenant))
            except grpc.aio.AioRpcError:
                found = None
            if found is not None and found.size >= size:
                return found
            await asyncio.sleep(0.02)


async def test_the_three_ways_to_append_lead_to_the_same_entry(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server, server.channel("svc/executor") as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        request = received()
        single = await stub.AppendEntry(ledger_pb2.AppendEntryRequest(entry=request))
        batch = await stub.AppendBatch(ledger_pb2.AppendBatchRequest(entries=[request]))
        async with server.producer() as client:
            streamed = await client.append_one(request)
    assert single.result.appended.index == batch.results[0].appended.index == streamed.index == 1
    assert not single.result.appended.duplicate
    assert batch.results[0].appended.duplicate
    assert streamed.duplicate
    assert streamed.entry == single.result.appended.entry


async def test_the_producer_is_the_certificate_and_nothing_else(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server:
        async with server.producer("policy") as client:
            with pytest.raises(PeerNotAllowed, match="policy may not write"):
                await client.append_one(changed())
        for path in ("cli", "agent/refund-bot", "svc/audit", "operator"):
            async with server.channel(path) as channel:
                stub = ledger_pb2_grpc.LedgerServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.AppendEntry(ledger_pb2.AppendEntryRequest(entry=changed()), timeout=5)
                assert from_rpc_error(caught.value).reason == "PEER_NOT_ALLOWED"


async def test_a_token_must_fit_the_entry_and_none_is_needed(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server, server.channel("svc/executor") as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        metadata = (("txn-token", server.token("agent/refund-bot", tenant="globex")),)
        for request in (changed(), received(tenant="globex", subject="user:olga")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.AppendEntry(ledger_pb2.AppendEntryRequest(entry=request), metadata=metadata)
            assert from_rpc_error(caught.value).reason == "CONTEXT_MISMATCH"
        good = received(tenant="globex")
        await stub.AppendEntry(ledger_pb2.AppendEntryRequest(entry=good), metadata=metadata)


async def test_a_refused_entry_has_its_own_reason_and_the_others_are_appended(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server, server.producer() as client:
        first = changed()
        await client.append_one(first)
        bad = changed(seq=2)
        bad.event.plan_changed.to_state = "free text, with ana@example.com"
        reused = changed(seq=9, event_id=first.event_id)
        foreign = changed(environment="staging")
        answers = await client.append([changed(seq=3), bad, reused, foreign, changed(seq=4)])
    assert [type(answer) for answer in answers] == [Appended, Refused, Refused, Refused, Appended]
    errors = [answer.error for answer in answers if isinstance(answer, Refused)]
    assert isinstance(errors[0], InputInvalid)
    assert isinstance(errors[1], IdempotencyKeyReused)
    assert [error.reason for error in errors] == ["INPUT_INVALID", "IDEMPOTENCY_KEY_REUSED", "ENVIRONMENT_MISMATCH"]


async def test_a_forked_log_of_one_tenant_holds_up_no_other(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server, server.producer() as client:
        await client.append([changed(), changed(tenant="globex")])
        (await server.parts.writer("acme")).mark_forked("the test says so")
        first, second = await client.append([changed(seq=2), changed(seq=2, tenant="globex")])
    assert isinstance(first, Refused)
    assert first.error.reason == "LOG_FORKED"
    assert isinstance(second, Appended)


async def test_batches_of_a_stream_are_answered_in_order_and_a_skipped_number_ends_it(
    fresh_database: FreshDatabase,
) -> None:
    async with audit_server(fresh_database("audit")) as server, server.channel("svc/executor") as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)

        async def batches(numbers: Sequence[int]) -> Any:
            for number in numbers:
                yield ledger_pb2.AppendStreamRequest(batch=number, entries=[changed(stream=f"plan:{new_id()}")])

        answers = [answer async for answer in stub.AppendStream(batches(range(1, 60)))]
        assert [answer.batch for answer in answers] == list(range(1, 60))
        indices = [answer.results[0].appended.index for answer in answers]
        assert indices == sorted(indices)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.AppendStream(batches([1, 3])):
                pass
        assert from_rpc_error(caught.value).reason == "INPUT_INVALID"


async def test_open_append_streams_do_not_hold_the_drain_and_lose_nothing(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server:
        async with server.producer() as client:
            await client.append_one(changed(stream="plan:0"))
            requests = [changed(stream=f"plan:{n}") for n in range(1, 40)]
            work = [asyncio.create_task(client.append_one(request)) for request in requests]
            await asyncio.sleep(0)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await server.server.stop(server.stopping)
            assert loop.time() - began < 1.5, "the grace is 2 s"
            answers = await asyncio.gather(*work, return_exceptions=True)
        assert all(isinstance(answer, (Appended, LedgerUnavailable)) for answer in answers)
        taken = [answer for answer in answers if isinstance(answer, Appended)]
        log = await server.parts.log()
        stored = {row.entry for row in await server.parts.reader.page(log.log_id, 0, 100)}
        assert all(answer.entry in stored for answer in taken)


async def test_an_acknowledgement_says_what_is_signed(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await fill(server, 3)
        await signed(server, 4)
        async with server.producer() as client:
            receipt = await client.append_one(changed(stream="plan:late"))
    assert receipt.signed_size >= 4
    assert receipt.signed_time_ms > 0


async def test_an_entry_is_read_by_index_and_by_event_id(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server:
        (receipt,) = await fill(server, 1)
        for request in (
            reader_pb2.GetEntryRequest(tenant="acme", index=1),
            reader_pb2.GetEntryRequest(tenant="acme", event_id=receipt.event_id),
        ):
            found = await read(server, "GetEntry", request)
            assert (found.entry.entry, found.entry.leaf_hash) == (receipt.entry, receipt.leaf_hash)
        assert await reason(server, "GetEntry", reader_pb2.GetEntryRequest(tenant="acme", index=9)) == "NOT_FOUND"
        absent = reader_pb2.GetEntryRequest(tenant="acme", event_id=new_id())
        assert await reason(server, "GetEntry", absent) == "NOT_FOUND"
        for bad in ({"event_id": "x' OR 1=1"}, {"index": -1}, {}):
            request = reader_pb2.GetEntryRequest(tenant="acme", **bad)
            assert await reason(server, "GetEntry", request) == "INPUT_INVALID"


@requirement("tenant:isolated")
async def test_another_tenants_log_answers_as_one_that_does_not_exist(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server:
        (receipt,) = await fill(server, 1)
        entry = reader_pb2.GetEntryRequest(event_id=receipt.event_id)
        assert await reason(server, "GetEntry", entry, "cli", tenant="globex") == "NOT_FOUND"
        await fill(server, 1, "globex")
        assert await reason(server, "GetEntry", entry, "cli", tenant="globex") == "NOT_FOUND"
        named = reader_pb2.GetEntryRequest(tenant="acme", event_id=receipt.event_id)
        assert await reason(server, "GetEntry", named, "cli", tenant="globex") == "CONTEXT_MISMATCH"
        listed = await read(server, "ListEntries", reader_pb2.ListEntriesRequest(), "cli", tenant="globex")
        assert len(listed.entries) == 2
        assert not any(b"acme" in entry.entry for entry in listed.entries)
        proof = reader_pb2.GetInclusionProofRequest(index=0, tree_size=2)
        one = await read(server, "GetInclusionProof", proof, "cli", tenant="globex")
        two = await read(server, "GetInclusionProof", proof, "cli", tenant="acme")
        assert one.root_hash != two.root_hash


async def test_a_person_needs_the_reading_scope(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await fill(server, 1)
        request = reader_pb2.ListEntriesRequest()
        assert await reason(server, "ListEntries", request, "cli", scope=("plan.read",)) == "ROLE_REQUIRED"
        assert len((await read(server, "ListEntries", request, "cli")).entries) == 2


async def test_lists_are_paged_and_filtered(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await fill(server, 25)
        async with server.producer() as client:
            await client.append_one(received())
        seen: list[int] = []
        token = ""
        while True:
            request = reader_pb2.ListEntriesRequest(tenant="acme", page_size=10, page_token=token)
            page = await read(server, "ListEntries", request)
            seen += [entry.index for entry in page.entries]
            token = page.next_page_token
            if not token:
                break
        assert seen == list(range(27))
        by_request = reader_pb2.ListEntriesRequest(tenant="acme", request_id="r-1")
        assert [entry.index for entry in (await read(server, "ListEntries", by_request)).entries] == [26]
        for bad in ({"page_token": "i-1"}, {"page_token": "x"}, {"plan_digest": "%"}, {"page_size": -1}):
            request = reader_pb2.ListEntriesRequest(tenant="acme", **bad)
            assert await reason(server, "ListEntries", request) == "INPUT_INVALID"


async def test_a_tail_is_gapless_beats_while_idle_and_ends_at_the_drain(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server, server.channel("svc/policy") as channel:
        stub = reader_pb2_grpc.LedgerReaderServiceStub(channel)
        call = stub.TailEntries(reader_pb2.TailEntriesRequest(tenant="acme"))
        messages = aiter(call)
        first = await asyncio.wait_for(anext(messages), 5)
        assert (len(first.entries), first.size) == (0, 0), "a log that does not exist yet beats too"
        await fill(server, 700)
        seen: list[int] = []
        async with asyncio.timeout(10):
            while len(seen) < 701:
                seen += [entry.index for entry in (await anext(messages)).entries]
        assert seen == list(range(701))
        beat = await asyncio.wait_for(anext(messages), 5)
        assert (len(beat.entries), beat.size) == (0, 701)
        server.stopping.set()
        async with asyncio.timeout(3):
            async for _ in messages:
                pass
        assert await call.code() == grpc.StatusCode.OK


@pytest.mark.parametrize("count", [1, 255, 256, 300])
async def test_proofs_of_every_kind_verify(fresh_database: FreshDatabase, count: int) -> None:
    async with audit_server(fresh_database("audit")) as server:
        receipts = await fill(server, count)
        checkpoint = await signed(server, count + 1)
        key = VerifierKey.parse(checkpoint.vkey)
        for receipt in receipts[:: max(1, count // 7)]:
            request = reader_pb2.GetInclusionProofRequest(tenant="acme", index=receipt.index)
            found = await read(server, "GetInclusionProof", request)
            assert found.leaf_hash == receipt.leaf_hash
            verify_inclusion(receipt.index, found.tree_size, receipt.leaf_hash, list(found.path), found.root_hash)
            proofs.parse(found.tlog_proof).verify(receipt.entry, [key])
        for old in {1, 2, count // 2 + 1, count, count + 1}:
            pair = reader_pb2.GetConsistencyProofRequest(tenant="acme", from_size=old)
            found = await read(server, "GetConsistencyProof", pair)
            verify_consistency(old, found.to_size, found.from_root_hash, found.to_root_hash, list(found.path))


async def test_proofs_that_cannot_be_are_refused(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit"), publish=False) as server:
        await fill(server, 3)
        unsigned = reader_pb2.GetInclusionProofRequest(tenant="acme", index=0)
        assert await reason(server, "GetInclusionProof", unsigned) == "NOT_FOUND"
        for index, size in ((4, 4), (0, 5), (-1, 4), (0, -1)):
            request = reader_pb2.GetInclusionProofRequest(tenant="acme", index=index, tree_size=size)
            assert await reason(server, "GetInclusionProof", request) == "INPUT_INVALID"
        for old, new in ((0, 4), (5, 4), (-1, 4), (1, 9)):
            pair = reader_pb2.GetConsistencyProofRequest(tenant="acme", from_size=old, to_size=new)
            assert await reason(server, "GetConsistencyProof", pair) == "INPUT_INVALID"


@pytest.mark.parametrize("count", [1, 255, 256, 600])
async def test_an_export_verifies_and_a_later_one_extends_it(
    fresh_database: FreshDatabase, tmp_path: Path, count: int
) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await fill(server, count)
        first = await server.export(tmp_path / "first", min_size=count + 1)
        async with server.producer() as client:
            await client.append_one(changed(stream="plan:later"))
        second = await server.export(tmp_path / "second", min_size=count + 2)
    vkey = (first / "vkey").read_text().strip()
    assert main(["audit", "verify", str(first), "--vkey", vkey]) == 0
    assert main(["audit", "verify", str(second), "--vkey", vkey, "--since", str(first / "checkpoint")]) == 0
    assert main(["audit", "verify", str(first), "--vkey", vkey, "--since", str(second / "checkpoint")]) == 4


async def test_an_export_of_more_than_there_is_is_refused_at_once(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await fill(server, 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.export(tmp_path / "x", min_size=99)
        assert from_rpc_error(caught.value).reason == "INPUT_INVALID"


async def test_a_large_sealed_field_is_taken_and_only_its_digest_kept(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server, server.producer() as client:
        request = new_entry(
            "plan.proposed",
            {
                "effect": "E1",
                "reversibility": "R1",
                "confidence_ppm": 900_000,
                "step_count": 1,
                "unverified_count": 0,
                "taint": False,
            },
            event_id=new_id(),
            event_time_ms=NOW,
            tenant="acme",
            environment="prod",
            request_id="r-1",
            plan_digest="sha256:" + "ab" * 32,
            sealed={"plan": "x" * 900_000},
        )
        receipt = await client.append_one(request)
    assert len(receipt.entry) < 1000


async def test_an_interrupted_export_leaves_no_half_file_and_no_checkpoint(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await fill(server, 300)
        pieces = await server.pieces(min_size=301)

    async def cut(count: int) -> Any:
        for piece in pieces[:count]:
            yield piece

    for count in range(1, len(pieces)):
        with contextlib.suppress(RuntimeError):
            await write_export(broken(cut(count)), tmp_path / str(count))
        assert not (tmp_path / str(count) / "checkpoint").exists()
    assert await write_export(cut(len(pieces)), tmp_path / "whole") == 301
    assert verify_log(Directory(tmp_path / "whole"), read_vkey(str(tmp_path / "whole/vkey"))).verdict is None


async def broken(pieces: Any) -> Any:
    async for piece in pieces:
        yield piece
    raise RuntimeError("the connection broke")


@pytest.mark.parametrize("path", ["../evil", "tile/0/../../evil", "/etc/evil", "tile/0/0", ".profile"])
async def test_a_service_cannot_make_the_client_write_elsewhere(tmp_path: Path, path: str) -> None:
    async def pieces() -> Any:
        yield reader_pb2.ExportLogResponse(path=path, content=b"x", size=1)
        yield reader_pb2.ExportLogResponse(path="checkpoint", content=b"x")

    with pytest.raises(LogForked):
        await write_export(pieces(), tmp_path / "export")
    assert not list(tmp_path.rglob("evil"))
