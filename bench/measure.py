"""A closed loop, and two of them interleaved: floor, subject, floor, subject.

Absolute rates drift by a third within an hour on a shared machine; the ratio of two neighbouring rounds holds. So a
comparison's figure is the median of the rounds' ratios, and no test gates on a time.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.cpu import cpu_seconds

Call = Callable[[int], Awaitable[object]]
"""One operation of the worker with this number; counts as done when it returns."""


class Side(Protocol):
    """What is measured: it is open while the comparison runs. pids: the processes that serve it, for their CPU."""

    name: str
    pids: Sequence[int]

    async def call(self, worker: int) -> object:
        """Do one operation. Whatever it raises ends the run: a benchmark that fails measures nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """callers: closed-loop workers. seconds: length of one round. rounds: interleaved pairs. warm_up: before them."""

    callers: int
    seconds: float
    rounds: int
    warm_up_seconds: float


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one side. Latencies in milliseconds; CPU in microseconds per call, from the kernel's accounting."""

    calls: int
    seconds: float
    p50_ms: float
    p99_ms: float
    client_cpu_us: float
    server_cpu_us: float

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


@dataclass(frozen=True, slots=True)
class Comparison:
    """Floor and subject, round by round. ratio: subject's rate over the floor's; median_ratio is the figure."""

    name: str
    load: Load
    floor_name: str
    subject_name: str
    floor: tuple[Round, ...]
    subject: tuple[Round, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """One ratio of rates per pair of rounds."""
        return tuple(mine.rate / base.rate for base, mine in zip(self.floor, self.subject, strict=True))

    @property
    def median_ratio(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.ratios)


async def compare(
    name: str,
    floor: Side,
    subject: Side,
    load: Load,
    *,
    floor_callers: int | None = None,
    floor_weight: int = 1,
    subject_weight: int = 1,
) -> Comparison:
    """Run floor and subject in turn under the same load.

    floor_callers: where the floor is at its best with another number of callers. weights: how many operations one call
    does, such as the rows of a batch.
    """
    callers = floor_callers or load.callers
    await run(floor, callers, load.warm_up_seconds)
    await run(subject, load.callers, load.warm_up_seconds)
    floors, subjects = [], []
    for _ in range(load.rounds):
        floors.append(await run(floor, callers, load.seconds, floor_weight))
        subjects.append(await run(subject, load.callers, load.seconds, subject_weight))
    return Comparison(name, load, floor.name, subject.name, tuple(floors), tuple(subjects))


async def run(side: Side, callers: int, seconds: float, weight: int = 1) -> Round:
    """Keep `callers` calls in flight for `seconds`; those under way at the end are waited for and counted.

    weight: operations a call. Rate and CPU are per operation, latencies per call.
    """
    latencies: list[float] = []
    server_before, client_before = cpu_seconds(side.pids), time.process_time()
    start = time.perf_counter()
    end = start + seconds

    async def worker(number: int) -> None:
        while (began := time.perf_counter()) < end:
            await side.call(number)
            latencies.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(worker(number))
    elapsed = time.perf_counter() - start
    client = time.process_time() - client_before
    server = cpu_seconds(side.pids) - server_before
    latencies.sort()
    calls = len(latencies) * weight
    return Round(
        calls=calls,
        seconds=elapsed,
        p50_ms=_quantile(latencies, 0.50) * 1000,
        p99_ms=_quantile(latencies, 0.99) * 1000,
        client_cpu_us=client / calls * 1e6,
        server_cpu_us=server / calls * 1e6,
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
