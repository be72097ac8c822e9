"""CHECKPOINTED and WITNESSED over the wire: a proof in the answer, or the plain word that there is none yet."""

import asyncio

import grpc
import pytest

from counterseal.api.audit.v1 import ledger_pb2, ledger_pb2_grpc
from counterseal.errors import CheckpointStale
from counterseal.ledger import proof as proofs
from counterseal.rpc.ledger_client import Appended, Refused
from counterseal.rpc.status import from_rpc_error
from counterseal_audit.checkpoints.seams import CosignedNote
from counterseal_audit.logs.store import Log
from support.audit import AuditServer, SealedSigner, audit_server
from support.entries import changed, received
from support.postgres import FreshDatabase
from support.requirements import requirement

CHECKPOINTED = ledger_pb2.APPEND_MODE_CHECKPOINTED
WITNESSED = ledger_pb2.APPEND_MODE_WITNESSED


class Cosigner:
    """A witness policy of one; what it adds is not verified here."""

    def __init__(self) -> None:
        self.answers = True
        self.required = False
        self.asked = 0

    def is_required(self, log: Log) -> bool:
        return self.required

    async def cosign(self, log: Log, note: bytes, size: int) -> CosignedNote | None:
        self.asked += 1
        return CosignedNote(note + b"\xe2\x80\x94 witness.example AAAAAAAA\n", is_quorum=True) if self.answers else None


async def verified(server: AuditServer, answer: Appended) -> int:
    """Verify the proof offline; return the size of the tree that it is under."""
    log = await server.parts.log()
    return proofs.parse(answer.tlog_proof).verify(answer.entry, [log.key]).size


@requirement("ledger:checkpointed-proves-itself")
async def test_checkpointed_answers_with_a_proof_long_before_the_interval(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server, server.producer() as client:
        server.parts.publisher.interval_ms = 60_000
        await client.append_one(changed(stream="plan:0"))
        first = await client.append_one(changed(stream="plan:1"), CHECKPOINTED)
        assert await verified(server, first) > first.index
        answers = await client.append([changed(stream=f"plan:{n}") for n in range(2, 90)], CHECKPOINTED)
        assert all(isinstance(answer, Appended) for answer in answers)
        for answer in answers:
            assert isinstance(answer, Appended)
            assert await verified(server, answer) > answer.index
        sealed = received()
        whole = await client.append_one(sealed, CHECKPOINTED)
        extra = proofs.parse(whole.tlog_proof).extra
        assert extra is not None
        assert all(string.encode() in extra for string in sealed.disclosures)
        again = await client.append_one(sealed, CHECKPOINTED)
        assert (again.index, again.duplicate) == (whole.index, True)
        assert await verified(server, again) > again.index


@requirement("ledger:checkpointed-proves-itself")
async def test_those_who_wait_at_once_share_checkpoints(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server, server.channel("svc/executor") as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        requests = [
            ledger_pb2.AppendEntryRequest(entry=changed(stream=f"plan:{n}"), mode=CHECKPOINTED) for n in range(100)
        ]
        answers = await asyncio.gather(*(stub.AppendEntry(request, timeout=30) for request in requests))
        log = await server.parts.log()
        for answer in answers:
            entry = answer.result.appended
            proof = proofs.parse(entry.tlog_proof)
            assert proof.index == entry.index < proof.verify(entry.entry, [log.key]).size
        assert server.parts.signer.signatures < 30, "not one checkpoint each"


@requirement("ledger:checkpointed-fails-closed")
async def test_without_vault_durable_goes_on_checkpointed_fails_closed_and_all_is_signed_later(
    fresh_database: FreshDatabase,
) -> None:
    signer = SealedSigner()
    async with (
        audit_server(fresh_database("audit"), signer=signer) as server,
        server.producer() as client,
        server.channel("svc/executor") as channel,
    ):
        await client.append_one(changed(stream="plan:0"))
        signer.away = True
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        request = ledger_pb2.AppendEntryRequest(entry=changed(stream="plan:1"), mode=CHECKPOINTED)
        answer = (await stub.AppendEntry(request, timeout=1.5)).result
        assert answer.WhichOneof("result") == "unmet"
        assert answer.unmet.index == 2
        assert answer.unmet.reached == ledger_pb2.APPEND_MODE_DURABLE
        assert not answer.unmet.tlog_proof
        for n in range(2, 12):
            await client.append_one(changed(stream=f"plan:{n}"))
        with pytest.raises(CheckpointStale, match="durable at index 13, not checkpointed"):
            await client.append_one(changed(stream="plan:12"), CHECKPOINTED)
        signer.away = False
        again = (await stub.AppendEntry(request, timeout=20)).result
        assert again.WhichOneof("result") == "appended"
        assert (again.appended.index, again.appended.reached) == (2, CHECKPOINTED)
        later = await client.append_one(changed(stream="plan:13"), CHECKPOINTED)
        assert await verified(server, later) == 15, "everything that was taken meanwhile is signed"


@requirement("ledger:checkpointed-fails-closed")
async def test_proving_one_entry_again_changes_nothing_and_holds_up_nobody(fresh_database: FreshDatabase) -> None:
    """What waits for its checkpoint does so beside the stream: the batches there are answered in order."""
    signer = SealedSigner()
    async with audit_server(fresh_database("audit"), signer=signer) as server, server.producer() as client:
        entry = changed(stream="plan:0")
        first = await client.append_one(entry)
        proven = await client.prove(entry, 10)
        assert (proven.index, proven.leaf_hash, proven.duplicate) == (first.index, first.leaf_hash, True)
        assert await verified(server, proven) > first.index
        signer.away = True
        late = changed(stream="plan:1")
        waiting = asyncio.create_task(client.prove(late, 3))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(1.5):
            for n in range(2, 6):
                await client.append_one(changed(stream=f"plan:{n}"))
        with pytest.raises(CheckpointStale, match="durable at index"):
            await waiting
        signer.away = False
        again = await client.prove(late, 20)
        assert again.duplicate
        assert await verified(server, again) > again.index


async def test_a_refused_entry_has_its_reason_and_the_others_their_proofs(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server, server.producer() as client:
        answers = await client.append([changed(), changed(environment="staging"), changed(seq=2)], CHECKPOINTED)
        assert isinstance(answers[1], Refused)
        for answer in (answers[0], answers[2]):
            assert isinstance(answer, Appended)
            assert await verified(server, answer) > answer.index


@requirement("ledger:witnessed-or-not-at-all")
async def test_witnessed_waits_for_the_witnesses_and_asks_again(fresh_database: FreshDatabase) -> None:
    cosigner = Cosigner()
    async with audit_server(fresh_database("audit"), witnesses=cosigner) as server, server.producer() as client:
        first = await client.append_one(changed(stream="plan:0"), WITNESSED)
        assert b"witness.example" in first.tlog_proof
        assert await verified(server, first) > first.index
        cosigner.answers = False
        plain = await client.append_one(changed(stream="plan:1"), CHECKPOINTED)
        assert b"witness.example" not in plain.tlog_proof
        waiting = asyncio.create_task(client.append_one(changed(stream="plan:2"), WITNESSED))
        seen = cosigner.asked
        async with asyncio.timeout(20):
            while cosigner.asked < seen + 2:  # once for the entry, once more for a larger tree
                await asyncio.sleep(0.02)
        cosigner.answers = True
        late = await waiting
        assert b"witness.example" in late.tlog_proof


@requirement("ledger:witnessed-or-not-at-all")
async def test_a_log_that_demands_witnesses_shows_no_checkpoint_without_them(fresh_database: FreshDatabase) -> None:
    cosigner = Cosigner()
    cosigner.answers, cosigner.required = False, True
    async with audit_server(fresh_database("audit"), witnesses=cosigner, publish=False) as server:
        async with server.producer() as client:
            await client.append_one(changed())
        log = await server.parts.log()
        assert await server.parts.publisher.publish_once() == 0
        assert await server.parts.checkpoints.latest(log.log_id) is None
        cosigner.answers = True
        assert await server.parts.publisher.publish_once() == 1
        stored = await server.parts.checkpoints.latest(log.log_id)
        assert stored is not None
        assert stored.published.public == stored.published.cosigned


async def test_without_witnesses_nobody_is_told_that_there_are(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server, server.channel("svc/executor") as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        unknown = ledger_pb2.AppendBatchRequest(entries=[changed()])
        unknown.MergeFromString(b"\x10\x11")  # mode 17, of a later release
        for request in (ledger_pb2.AppendBatchRequest(entries=[changed()], mode=WITNESSED), unknown):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.AppendBatch(request)
            assert from_rpc_error(caught.value).reason == "INPUT_INVALID"
