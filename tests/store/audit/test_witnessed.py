"""The publisher and its witnesses on real PostgreSQL and real sockets: proofs from stored rows, classes of logs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from counterseal.cli.witness_server import State, Witness, WitnessKey
from counterseal.clock import system_clock
from counterseal.ledger import policy as policies
from counterseal.ledger.note import VerifierKey
from counterseal_audit.checkpoints.store import StoredCheckpoint
from counterseal_audit.reader.trees import Trees
from counterseal_audit.witnesses.cosigners import Cosigners, prover
from support.audit import Replica, replica
from support.entries import changed
from support.postgres import FreshDatabase
from support.requirements import requirement


async def grow(parts: Replica, start: int, count: int) -> None:
    requests = [changed(stream=f"plan:{n}") for n in range(start, start + count)]
    for answer in await parts.ledger.submit(requests, "executor"):
        assert isinstance(answer, asyncio.Future)
        await answer


async def latest(parts: Replica) -> StoredCheckpoint | None:
    return await parts.checkpoints.latest((await parts.log()).log_id)


@asynccontextmanager
async def serving(folder: Path, name: str, *logs: VerifierKey) -> AsyncIterator[tuple[str, VerifierKey]]:
    key = WitnessKey.make(name, name.encode().ljust(32, b"."))
    known = {log.name: [log] for log in logs}
    state = State(folder / name, key.key, known)
    runner = web.AppRunner(Witness(key, known, state, system_clock).application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}", key.key
    finally:
        await runner.cleanup()
        state.close()


@requirement("ledger:witnesses")
async def test_heads_are_stored_with_the_cosignatures_of_a_quorum(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with replica(fresh_database("audit")) as parts:
        await grow(parts, 0, 1)
        key = (await parts.log()).key
        async with serving(tmp_path, "w1", key) as (url1, w1), serving(tmp_path, "w2", key) as (url2, w2):
            text = f"witness A {w1.vkey} {url1}\nwitness B {w2.vkey} {url2}\ngroup Q all A B\nquorum Q\n"
            policy = policies.parse(text.encode())
            cosigners = Cosigners(policy, prover(Trees(parts.reader)), timeout_seconds=60)
            parts.publisher.witnesses = cosigners
            try:
                for start, count in ((1, 3), (4, 300), (304, 500)):
                    await grow(parts, start, count)
                    assert await parts.publisher.publish_once() == 1
                    stored = await latest(parts)
                    assert stored is not None
                    assert stored.published.witnessed
                    witnessed = policy.open(stored.published.public, [key])
                    assert witnessed.checkpoint.size == start + count + 1
                    assert set(witnessed.times) == {"A", "B"}
            finally:
                await cosigners.close()


@requirement("ledger:witnesses")
async def test_without_a_quorum_a_head_is_held_back_or_published_as_its_class_demands(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with replica(fresh_database("audit")) as parts:
        await grow(parts, 0, 3)
        key = (await parts.log()).key
        async with serving(tmp_path, "w1", key) as (url, w1):
            lost = VerifierKey.make("w2", key.public, 4)
            text = f"witness A {w1.vkey} {url}\nwitness B {lost.vkey} http://127.0.0.1:1\ngroup Q all A B\nquorum Q\n"
            policy = policies.parse(text.encode())
            for required, size in ((("tenant",), None), (("system",), 4)):
                cosigners = Cosigners(policy, prover(Trees(parts.reader)), required_for=required, timeout_seconds=60)
                parts.publisher.witnesses = cosigners
                try:
                    await parts.publisher.publish_once()
                finally:
                    await cosigners.close()
                stored = await latest(parts)
                assert (stored.size if stored is not None else None) == size
            assert stored is not None
            assert not stored.published.witnessed
            assert stored.published.cosigned is not None, "what came is shown"
