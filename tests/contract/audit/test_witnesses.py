"""The witness client against witnesses on real sockets: growth, conflicts, quorums, and witnesses that misbehave."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aiohttp import web

from counterseal.cli.witness_server import State, Witness, WitnessKey
from counterseal.ledger import policy as policies
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.policy import Policy
from counterseal.ledger.registry import SYSTEM_TENANT
from counterseal.ledger.tree import consistency_path, leaf_hash
from counterseal_audit.checkpoints.seams import CosignedNote
from counterseal_audit.logs.store import Log
from counterseal_audit.witnesses.config import WitnessConfig
from counterseal_audit.witnesses.cosigners import Cosigners
from support.exports import KEY, ORIGIN, log_of
from support.histories import OLD, W1, W2, W3, cosigned, note_of
from support.requirements import requirement

LOG = log_of(60)
LEAVES = [leaf_hash(data) for data in LOG]
ONE = Log(1, "acme", "prod", 0, ORIGIN, KEY.vkey, 0)
NOW = 1_795_000_000


async def prove(_: Log, old: int, new: int) -> Sequence[bytes]:
    return consistency_path(old, LEAVES[:new])


@dataclass
class Served:
    """A witness's address and key, and how often it was asked."""

    url: str
    key: VerifierKey
    asked: list[bytes]


Handler = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def honest(folder: Path, seed: int, name: str) -> AsyncIterator[Served]:
    key = WitnessKey.make(name, bytes([seed]) * 32)
    state = State(folder / name, key.key, {ORIGIN: [KEY]})
    asked: list[bytes] = []

    @web.middleware
    async def count(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]):  # type: ignore[no-untyped-def]
        asked.append(await request.read())
        return await handler(request)

    app = Witness(key, {ORIGIN: [KEY]}, state, lambda: NOW * 1000).application("/w")
    app.middlewares.append(count)
    try:
        async with listening(app) as url:
            yield Served(url + "/w", key.key, asked)
    finally:
        state.close()


@asynccontextmanager
async def misbehaving(handler: Handler) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await handler(request, await request.read())

    app = web.Application()
    app.router.add_post("/add-checkpoint", answer)
    async with listening(app) as url:
        yield url


def policy_of(quorum: str, *witnesses: tuple[str, VerifierKey, str]) -> Policy:
    lines = [f"witness {name} {key.vkey} {url}" for name, key, url in witnesses]
    return policies.parse("\n".join([*lines, quorum, "quorum Q"]).encode() + b"\n")


@asynccontextmanager
async def cosigners(policy: Policy, seconds: float = 20.0, **more: object) -> AsyncIterator[Cosigners]:
    one = Cosigners(policy, prove, timeout_seconds=seconds, **more)  # type: ignore[arg-type]
    try:
        yield one
    finally:
        await one.close()


async def cosign(one: Cosigners, size: int) -> CosignedNote | None:
    return await one.cosign(ONE, note_of(LOG[:size], OLD), size)


@requirement("ledger:witnesses")
async def test_heads_are_cosigned_as_the_log_grows_with_one_request_each(tmp_path: Path) -> None:
    async with honest(tmp_path, 21, "w1.example") as w1, honest(tmp_path, 22, "w2.example") as w2:
        policy = policy_of("group Q all A B", ("A", w1.key, w1.url), ("B", w2.key, w2.url))
        async with cosigners(policy) as one:
            for size in (5, 7, 40, 40, 60):
                found = await cosign(one, size)
                assert found is not None
                assert found.is_quorum
                assert found.note == cosigned(note_of(LOG[:size], OLD), W1, W2, time=NOW), "our line, then theirs"
                assert policy.open(found.note, [KEY]).times == {"A": NOW, "B": NOW}
            assert (len(w1.asked), len(w2.asked)) == (5, 5)
        async with cosigners(policy) as restarted:
            found = await cosign(restarted, 60)
            assert found is not None
            assert found.is_quorum
            assert [body.split(b"\n")[0] for body in w1.asked[5:]] == [b"old 0", b"old 60"], "409 says where it stands"


@requirement("ledger:witnesses")
async def test_a_quorum_is_met_with_one_witness_down_and_not_with_two(tmp_path: Path) -> None:
    dead = "http://127.0.0.1:1/"
    async with honest(tmp_path, 21, "w1.example") as w1, honest(tmp_path, 22, "w2.example") as w2:
        listed = ("A", w1.key, w1.url), ("B", w2.key, w2.url), ("C", W3[1], dead)
        async with cosigners(policy_of("group Q 2 A B C", *listed)) as one:
            found = await cosign(one, 5)
            assert found is not None
            assert found.is_quorum
        listed = ("A", w1.key, w1.url), ("B", W2[1], dead), ("C", W3[1], dead)
        async with cosigners(policy_of("group Q 2 A B C", *listed)) as one:
            found = await cosign(one, 9)
            assert found is not None
            assert not found.is_quorum
            assert found.note == cosigned(note_of(LOG[:9], OLD), W1, time=NOW), "what came is kept"
        async with cosigners(policy_of("group Q any B C", ("B", W2[1], dead), ("C", W3[1], dead))) as one:
            assert await cosign(one, 9) is None


async def answer_200(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="text/plain")


def by(seed_pair: tuple[object, VerifierKey], size: int = 5, time: int = NOW) -> bytes:
    note = note_of(LOG[:size], OLD)
    return cosigned(note, seed_pair, time=time)[len(note) :]  # type: ignore[arg-type]


async def _conflict(size: bytes, content_type: str = "text/x.tlog.size") -> web.Response:
    return web.Response(body=size, status=409, headers={"Content-Type": content_type})


MISBEHAVIOUR: dict[str, Handler] = {
    "a cosignature of another head": lambda _, __: answer_200(by(W1, 6)),
    "a cosignature of another witness": lambda _, __: answer_200(by(W2)),
    "a cosignature without a time": lambda _, __: answer_200(by(W1, time=0)),
    "a good and a bad cosignature": lambda _, __: answer_200(by(W1) + by(W1, 6)),
    "nothing": lambda _, __: answer_200(b""),
    "garbage": lambda _, __: answer_200(b"\xff\x00" * 50),
    "an endless answer": lambda _, __: answer_200(by(W1) * 2000),
    "a conflict for ever": lambda _, body: _conflict(b"2\n" if body.startswith(b"old 0") else b"0\n"),
    "a conflict without a size": lambda _, __: _conflict(b"many\n"),
    "a conflict of another type": lambda _, __: _conflict(b"2\n", "text/plain"),
    "a larger log than ours": lambda _, __: _conflict(b"1000\n"),
    "a redirect": lambda _, __: _redirect(),
    "an error": lambda _, __: _error(),
}


async def _redirect() -> web.Response:
    return web.Response(status=307, headers={"Location": "/add-checkpoint"})


async def _error() -> web.Response:
    return web.Response(status=500)


@requirement("ledger:witnesses")
@pytest.mark.parametrize("kind", list(MISBEHAVIOUR))
async def test_a_witness_that_misbehaves_counts_for_nothing_and_stops_nobody(kind: str, tmp_path: Path) -> None:
    async with honest(tmp_path, 22, "w2.example") as w2, misbehaving(MISBEHAVIOUR[kind]) as url:
        policy = policy_of("group Q all A B", ("A", W1[1], url), ("B", w2.key, w2.url))
        async with cosigners(policy) as one:
            found = await cosign(one, 5)
            assert found is not None
            assert not found.is_quorum
            assert found.note == cosigned(note_of(LOG[:5], OLD), W2, time=NOW)


async def test_a_witness_that_never_answers_is_not_waited_for_once_the_quorum_is_met(tmp_path: Path) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request, __: bytes) -> web.Response:
        asked.set()
        await never.wait()
        return web.Response()

    async with honest(tmp_path, 22, "w2.example") as w2, misbehaving(hang) as url:
        listed = ("A", W1[1], url), ("B", w2.key, w2.url)
        async with cosigners(policy_of("group Q any A B", *listed), seconds=600.0) as one:
            found = await asyncio.wait_for(cosign(one, 5), 100)
            assert found is not None
            assert found.is_quorum
            assert asked.is_set()
        async with cosigners(policy_of("group Q all A B", *listed), seconds=1.0) as one:
            found = await asyncio.wait_for(cosign(one, 5), 100)
            assert found is not None
            assert not found.is_quorum
        never.set()


async def test_a_proof_that_cannot_be_made_stops_nobody(tmp_path: Path) -> None:
    async def failing(_: Log, old: int, new: int) -> Sequence[bytes]:
        raise ConnectionResetError

    async with honest(tmp_path, 21, "w1.example") as w1:
        policy = policy_of("group Q all A", ("A", w1.key, w1.url))
        async with cosigners(policy) as one:
            assert await cosign(one, 5) is not None
        one = Cosigners(policy, failing, timeout_seconds=20)
        try:
            assert await cosign(one, 9) is None
        finally:
            await one.close()


async def test_the_empty_tree_is_shown_to_nobody(tmp_path: Path) -> None:
    async with (
        honest(tmp_path, 21, "w1.example") as w1,
        cosigners(policy_of("group Q all A", ("A", w1.key, w1.url))) as one,
    ):
        assert await cosign(one, 0) is None
        assert w1.asked == []


async def test_which_logs_wait_for_their_witnesses_is_configuration() -> None:
    policy = policy_of("group Q all A", ("A", W1[1], "http://127.0.0.1:1"))
    system = replace(ONE, tenant=SYSTEM_TENANT)
    for required, expected in (((), (False, False)), (("tenant",), (True, False)), (("system",), (False, True))):
        async with cosigners(policy, required_for=required) as one:
            assert (one.is_required(ONE), one.is_required(system)) == expected


def test_a_configuration_that_could_never_be_met_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "policy"
    for good in (WitnessConfig(), WitnessConfig(policy_file=file, required_for=("tenant", "system"))):
        assert good.timeout_ms == 2000
    assert WitnessConfig().policy() is None
    for bad in ({"required_for": ("tenant",)}, {"policy_file": file, "required_for": ("x",)}, {"timeout_ms": 1}):
        with pytest.raises(ValueError, match=r"required_for|timeout_ms"):
            WitnessConfig(**bad)
    with pytest.raises(ValueError, match="policy_file"):
        WitnessConfig(policy_file=file).policy()
    for text, why in (("quorum", "line 1"), (f"witness A {W1[1].vkey}\nquorum A\n", "no quorum")):
        file.write_text(text)
        with pytest.raises(ValueError, match=why):
            WitnessConfig(policy_file=file).policy()
    file.write_text(f"witness A {W1[1].vkey} https://w.example/\nquorum A\n")
    assert WitnessConfig(policy_file=file).policy() is not None
