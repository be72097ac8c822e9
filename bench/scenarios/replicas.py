"""Does a second replica on the same log hurt, and does it help once the RPC layer is out of the way?

Deployed: two audit processes over one database; the same 64 entries in flight on streams with a window, all to one
process, or half to each. Engine: processes that append from the request on without RPC, 128 callers in all; alone, two
on one log, and two with a log each. Everything runs on one machine: client, PostgreSQL and replicas share its cores.

Goals: two replicas on one log lose at most 10 %; engine-level, two processes on one log reach 1.5 x one.
"""

import asyncio
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from bench.database import audit_database, cluster, opened
from bench.measure import compare
from bench.report import Figure, figure_of
from bench.scenarios.append import Windowed
from bench.settings import Result, Settings
from bench.stacks import prepared, replicas

CALLERS = 64
ENGINE_CALLERS = 128
OTHER = "globex"


class Split:
    """Every other caller goes to the second replica."""

    name = "two replicas"

    def __init__(self, one: Windowed, two: Windowed) -> None:
        self.pids: Sequence[int] = (*one.pids, *two.pids)
        self._sides = (one, two)

    async def call(self, worker: int) -> object:
        """Append by the caller's replica; callers of one stream share it."""
        return await self._sides[worker // 4 % 2].call(worker)


async def run(settings: Settings) -> Result:
    """Deployed replicas, then engines."""
    result = Result()
    async with prepared(settings.work / "stack") as running, replicas(running, 2) as several:
        first, second = several.all
        alone = Windowed("one replica", several.channels[0], first.pid)
        one = Windowed("first of two", several.channels[0], first.pid)
        two = Windowed("second of two", several.channels[1], second.pid)
        name = "two replicas on one log against one"
        comparison = await compare(name, alone, Split(one, two), settings.load(CALLERS))
        result.comparisons.append(comparison)
        result.figures.append(figure_of(comparison, 0.9))
        for side in (alone, one, two):
            await side.close()
    result.figures.extend(await engines(settings))
    return result


async def engines(settings: Settings) -> list[Figure]:
    """Rates of one engine process, two on one log, two on a log each, in turn."""
    seconds, rounds = (0.5, 2) if settings.quick else (3.0, 5)
    rates: dict[str, list[float]] = {"alone": [], "one log": [], "a log each": []}
    with cluster(settings.work / "cluster") as running:
        database = await audit_database(running)
        for tenant in ("acme", OTHER):
            async with opened(database, tenant):
                pass  # the log begins, so that all processes find the same
        half = ENGINE_CALLERS // 2
        async with (
            engine(settings.work, database.dsn, "acme", ENGINE_CALLERS) as whole,
            engine(settings.work, database.dsn, "acme", half) as first,
            engine(settings.work, database.dsn, "acme", half) as second,
            engine(settings.work, database.dsn, OTHER, half) as apart,
        ):
            for number in range(rounds + 1):
                measured = {
                    "alone": await together(seconds, whole),
                    "one log": await together(seconds, first, second),
                    "a log each": await together(seconds, first, apart),
                }
                for name, rate in measured.items() if number else ():  # the first round warms up
                    rates[name].append(rate)
    return [_figure(rates, "one log", 1.5), _figure(rates, "a log each", None)]


@asynccontextmanager
async def engine(folder: Path, dsn: str, tenant: str, callers: int) -> AsyncIterator[Any]:
    """An engine process that waits to be told."""
    async with AsyncExitStack() as ending:
        log = ending.enter_context((folder / "engines.log").open("ab"))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.engine_child", dsn, tenant, str(callers)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if not await process.stdout.readline():
                raise RuntimeError(f"an engine did not start; see {folder / 'engines.log'}")
            yield process
        finally:
            process.stdin.close()
            await process.wait()


async def together(seconds: float, *processes: Any) -> float:
    """Let processes append side by side; return entries a second of all."""
    for process in processes:
        process.stdin.write(f"{seconds}\n".encode())
    counts = await asyncio.gather(*(process.stdout.readline() for process in processes))
    if not all(counts):
        raise RuntimeError("an engine ended; see engines.log")
    return sum(int(count) for count in counts) / seconds


def _figure(rates: dict[str, list[float]], which: str, goal: float | None) -> Figure:
    ratios = [two / one for one, two in zip(rates["alone"], rates[which], strict=True)]
    rate, floor = statistics.median(rates[which]), statistics.median(rates["alone"])
    detail = f"{rate:,.0f}/s | floor: {floor:,.0f}/s | range {min(ratios):.2f} to {max(ratios):.2f}"
    name = f"two engines without RPC, {which}, against one"
    return Figure(name, statistics.median(ratios), "x", goal, at_most=False, detail=detail)
