"""`explain` by the service on a log whose key was rotated and whose overlap is over: the pinned first key is enough."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc
from counterseal.cli.explain import from_answer
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal_audit.database import reading
from counterseal_audit.logs.store import Log
from support.audit import AuditServer, append_one, audit_server
from support.entries import changed
from support.postgres import FreshDatabase
from support.requirements import requirement
from support.rotations import PEOPLE, TwoVersions

REQUEST = "r-rotated"


async def write(server: AuditServer, n: int, tenant: str = "acme") -> None:
    await append_one(server.parts, changed(tenant=tenant, stream=f"plan:{n}", request_id=REQUEST))


async def rotate(server: AuditServer, log: Log) -> VerifierKey:
    """Rotate a log's key and let the overlap end: the next checkpoint is by the new key alone."""
    signer = server.parts.signer
    assert isinstance(signer, TwoVersions)
    signer.rotate()
    rotated = await server.parts.operations.rotate(log)
    assert await server.parts.publisher.publish_once() >= 1
    server.parts.publisher.overlap_ms = 0
    return rotated.key


@asynccontextmanager
async def twice_rotated(fresh_database: FreshDatabase) -> AsyncIterator[tuple[AuditServer, list[VerifierKey]]]:
    """A server whose acme has an action all along two rotations, and globex one without any; and acme's keys."""
    async with audit_server(fresh_database("audit"), publish=False, follow=False, signer=TwoVersions()) as server:
        for n in range(3):
            await write(server, n)
        await write(server, 0, "globex")
        log = await server.parts.log()
        keys = [log.key]
        for n in (10, 20):
            keys.append(await rotate(server, log))
            for more in range(5):
                await write(server, n + more)
            await server.parts.publisher.publish_once()
            await server.parts.publisher.publish_once()  # the entry that archives the old key
        yield server, keys


async def traced(server: AuditServer, tenant: str = "acme") -> reader_pb2.GetTraceResponse:
    async with server.channel("cli") as channel:
        stub: Any = reader_pb2_grpc.LedgerReaderServiceStub(channel)
        metadata = (("txn-token", server.token(tenant=tenant)),)
        request = reader_pb2.GetTraceRequest(request_id=REQUEST)
        answer: reader_pb2.GetTraceResponse = await stub.GetTrace(request, metadata=metadata, timeout=60)
        return answer


@requirement("ledger:trace-across-rotations")
async def test_an_honest_log_is_told_from_the_key_of_its_genesis(fresh_database: FreshDatabase) -> None:
    async with twice_rotated(fresh_database) as (server, keys):
        answer = await traced(server)
        assert VerifierKey.parse(answer.vkey) == keys[0]
        for old in keys[:2]:
            with pytest.raises(VerificationError, match="no signature by a known key"):
                open_checkpoint(answer.checkpoint, [old])
        for pinned in ([keys[0]], [], [keys[1]], [keys[2]], [keys[0], keys[2]]):
            told = from_answer(answer, pinned)
            assert any("13 of 13 entries are in the signed tree of" in line for line in told.lines()), pinned
        assert len(answer.rotations) == 2
        # The newest entry stays told where the checkpoint does not cover it yet.
        await write(server, 30)
        assert any("(1 are newer)" in line for line in from_answer(await traced(server), keys[:1]).lines())


@requirement("ledger:trace-across-rotations")
async def test_a_rotation_that_is_forged_moved_or_withheld_convinces_nobody(fresh_database: FreshDatabase) -> None:
    async with twice_rotated(fresh_database) as (server, keys):
        answer = await traced(server)

        def changed_answer() -> reader_pb2.GetTraceResponse:
            copy = reader_pb2.GetTraceResponse()
            copy.CopyFrom(answer)
            return copy

        bad = [changed_answer() for _ in range(7)]
        del bad[0].rotations[:]  # what a server of before sends
        del bad[1].rotations[0]
        del bad[2].rotations[1]
        bad[3].rotations[0].index += 1
        bad[4].rotations[1].note = answer.checkpoint
        bad[5].rotations[0].entry = bad[5].rotations[0].entry.replace(keys[1].public.hex().encode(), b"ab" * 32)
        bad[6].rotations[0].note, bad[6].rotations[1].note = answer.rotations[1].note, answer.rotations[0].note
        for n, one in enumerate(bad):
            for pinned in (keys[:1], []):
                with pytest.raises(VerificationError):
                    from_answer(one, pinned)
                assert one != answer, n


@requirement("ledger:trace-across-rotations", "ledger:search-spans-shards")
async def test_each_shard_has_its_own_rotations(fresh_database: FreshDatabase) -> None:
    async with twice_rotated(fresh_database) as (server, keys):
        operations, publisher = server.parts.operations, server.parts.publisher
        old = await operations.newest("acme")
        await operations.freeze(old, "OPERATOR", PEOPLE)
        await publisher.publish_once()
        new = await operations.continue_behind(old, await operations.citation(old, b""), PEOPLE)
        await write(server, 40)
        await publisher.publish_once()
        answer = await traced(server)
        assert (len(answer.rotations), [len(one.rotations) for one in answer.older]) == (0, [2])
        newer = await rotate(server, new)
        await write(server, 41)
        await publisher.publish_once()
        answer = await traced(server)
        assert (len(answer.rotations), [len(one.rotations) for one in answer.older]) == (1, [2])
        for pinned in ([new.key, keys[0]], [new.key], [newer]):
            lines = from_answer(answer, pinned).lines()
            assert any("15 of 15 entries are in the signed trees of" in line for line in lines), pinned
        answer.older[0].rotations[0].CopyFrom(answer.rotations[0])
        with pytest.raises(VerificationError):
            from_answer(answer, [new.key])


@requirement("tenant:isolated", "ledger:trace-across-rotations")
async def test_rotations_are_of_one_log(fresh_database: FreshDatabase) -> None:
    async with twice_rotated(fresh_database) as (server, _):
        assert not (await traced(server, "globex")).rotations
        for tenant, count in (("acme", 2), ("globex", 0)):
            async with reading(server.parts.engine, (await server.parts.log(tenant)).log_id) as raw:
                assert await raw.fetchval("SELECT count(*) FROM ledger_rotation") == count
