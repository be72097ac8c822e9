"""Inclusion proofs by RPC against an empty call, on trees of growing size.

Subject: the reader of the audit service in a process of its own, over PostgreSQL; each call proves a random entry of
a signed tree, and the first answers are verified. Floor: the same method answered emptily behind the same interceptor.

A service that has served for a while remembers the tiles of its log, of a million entries unless it is configured for
more (`proof_cache_mib`), as it is here for a longer log; so each tile is asked for once before the rounds. What the
first proof in a tile costs is reported beside it: the same at the largest size, by a service that remembers 64 tiles,
enough for those above the leaves.

Goals: >= 0.8 of an empty call; cost grows with log n: server CPU per proof at the largest size over that among 1,000
entries is at most the ratio of the logarithms. Sizes: 10^3 and 10^5; `--entries 1000000` (10000000) goes on to there.
"""

import asyncio
import math
import statistics
from collections.abc import Sequence
from random import Random  # noqa: TID251 (seeded, so that a run can be repeated)
from typing import Any

import grpc

from bench import ledger_server
from bench.children import child
from bench.database import audit_database, cluster, fill, sign
from bench.material import NAME, Material
from bench.measure import Comparison, compare
from bench.report import Figure, figure_of
from bench.settings import Result, Settings
from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc
from counterseal.ledger.tiles import WIDTH, tiles_of
from counterseal.ledger.tree import verify_inclusion
from counterseal.rpc.tls import open_channel
from counterseal_audit.reader.trees import REMEMBERED

CALLERS = 64
CHECKED = 50
SMALLEST = 1000


class Proofs:
    """Proofs of random entries in the tree of one size."""

    def __init__(self, name: str, channel: grpc.aio.Channel, pid: int, size: int, *, check: bool) -> None:
        self.name = name
        self.pids: Sequence[int] = (pid,)
        stub: Any = reader_pb2_grpc.LedgerReaderServiceStub(channel)
        self._method = stub.GetInclusionProof
        self._chance = Random(1)
        self._size = size
        self._left = CHECKED if check else 0

    async def touch(self) -> None:
        """Ask for a proof in each tile, so that the server remembers them, as far as it does."""
        for start in range(0, self._size, WIDTH * CALLERS):
            places = range(start, min(start + WIDTH * CALLERS, self._size), WIDTH)
            await asyncio.gather(*(self._prove(index) for index in places))

    async def call(self, worker: int) -> object:
        """Ask for one proof."""
        return await self._prove(self._chance.randrange(self._size))

    async def _prove(self, index: int) -> object:
        request = reader_pb2.GetInclusionProofRequest(tenant="acme", index=index, tree_size=self._size)
        answer = await self._method(request, timeout=30)
        if self._left:
            self._left -= 1
            assert answer.tlog_proof, "the tree is signed"
            verify_inclusion(index, self._size, answer.leaf_hash, list(answer.path), answer.root_hash)
        return answer


async def run(settings: Settings) -> Result:
    """Fill, with a checkpoint at each size, then prove in those trees: the log's past is proven like its head."""
    work = settings.folder("proofs")
    material = Material.make(work)
    largest = settings.entries or (10_000 if settings.quick else 100_000)
    result = Result()
    with cluster(settings.kept("proofs") / "cluster") as running:
        database = await audit_database(running)
        for size in sizes(largest):
            await fill(database, size)
            await sign(database)
        empty_server = child(work / "empty.log", "bench.empty_server", str(work), "--with", "interceptor")
        enough = str(max(REMEMBERED, sum(1 for _ in tiles_of(largest))))
        ledger = child(work / "ledger.log", "bench.ledger_server", str(work), database.dsn, "--remember", enough)
        forgets = settings.folder("proofs-forgets")
        forgetful = child(work / "forgets.log", "bench.ledger_server", str(forgets), database.dsn, "--remember", "64")
        async with (
            empty_server as (empty_pid, empty_port),
            ledger as (pid, port),
            forgetful as (forgetful_pid, forgetful_port),
            open_channel(f"127.0.0.1:{empty_port}", material.service, NAME) as nothing,
            open_channel(f"127.0.0.1:{port}", ledger_server.caller(work), ledger_server.NAME) as audit,
            open_channel(f"127.0.0.1:{forgetful_port}", ledger_server.caller(forgets), ledger_server.NAME) as cold,
        ):
            for size in sizes(largest):
                floor = Proofs("empty call", nothing, empty_pid, size, check=False)
                subject = Proofs("inclusion proof", audit, pid, size, check=True)
                await subject.touch()
                name = f"inclusion proof among {size:,} entries against an empty call"
                result.comparisons.append(await compare(name, floor, subject, settings.load(CALLERS)))
                result.figures.append(figure_of(result.comparisons[-1], 0.8))
            result.figures.append(_growth(largest, result.comparisons))
            floor = Proofs("empty call", nothing, empty_pid, largest, check=False)
            subject = Proofs("inclusion proof, leaves not remembered", cold, forgetful_pid, largest, check=True)
            name = f"inclusion proof among {largest:,} entries, leaves not remembered, against an empty call"
            result.comparisons.append(await compare(name, floor, subject, settings.load(CALLERS)))
            result.figures.append(figure_of(result.comparisons[-1], None))
    return result


def sizes(largest: int) -> list[int]:
    """The tree sizes up to the largest: 1,000, the powers of ten from 100,000 on, and the largest itself."""
    powers = [10**digits for digits in range(5, len(str(largest)))]
    return sorted({SMALLEST, *(size for size in powers if size < largest), largest})


def _growth(largest: int, comparisons: Sequence[Comparison]) -> Figure:
    """Server CPU per proof at the largest size over that at the smallest, beside the ratio of the logarithms."""
    first, last = (statistics.median(one.server_cpu_us for one in c.subject) for c in (comparisons[0], comparisons[-1]))
    bound = round(math.log(largest) / math.log(SMALLEST), 2)
    detail = f"server CPU {last:,.0f} us against {first:,.0f} us; log n grows by {bound}"
    name = f"cost of a proof among {largest:,} entries over one among {SMALLEST:,}"
    return Figure(name, last / first, "x", bound, at_most=True, detail=detail)
