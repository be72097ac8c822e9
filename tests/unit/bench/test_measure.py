"""The harness itself: what it counts, how it compares, what its table says."""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench.cpu import cpu_seconds, memory_mib
from bench.measure import Comparison, Load, Round, compare, run
from bench.report import Figure, figure_of, table, write

LOAD = Load(callers=2, seconds=0.05, rounds=3, warm_up_seconds=0.01)


@dataclass
class Sleeper:
    """A side whose calls take this long; keeps the order in which sides were called."""

    name: str
    seconds: float
    order: list[str]
    pids: Sequence[int] = ()
    failing: bool = False

    async def call(self, worker: int) -> object:
        if self.failing:
            raise RuntimeError("refused")
        if self.order[-1:] != [self.name]:
            self.order.append(self.name)
        await asyncio.sleep(self.seconds)
        return worker


def rounds(*rates: float) -> tuple[Round, ...]:
    return tuple(Round(int(rate), 1.0, 1.0, 2.0, 10.0, 20.0) for rate in rates)


async def test_floor_and_subject_take_turns_after_a_warm_up_of_both() -> None:
    order: list[str] = []
    comparison = await compare("x", Sleeper("floor", 0.001, order), Sleeper("subject", 0.002, order), LOAD)
    assert order == ["floor", "subject"] * (1 + LOAD.rounds)
    assert len(comparison.floor) == len(comparison.subject) == LOAD.rounds


async def test_a_slower_subject_has_a_ratio_below_one() -> None:
    comparison = await compare("x", Sleeper("floor", 0.001, []), Sleeper("subject", 0.01, []), LOAD)
    assert comparison.median_ratio < 0.5


async def test_every_call_is_counted_and_the_percentiles_are_its_latencies() -> None:
    measured = await run(Sleeper("side", 0.01, []), callers=3, seconds=0.05)
    assert measured.calls >= 6
    assert 10 <= measured.p50_ms <= measured.p99_ms


async def test_a_call_that_fails_ends_the_run_instead_of_counting_as_fast() -> None:
    with pytest.raises(ExceptionGroup):
        await run(Sleeper("side", 0.0, [], failing=True), callers=2, seconds=0.05)


def test_the_figure_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_medians() -> None:
    comparison = Comparison("x", LOAD, "floor", "subject", rounds(100, 200, 400), rounds(90, 100, 360))
    assert comparison.median_ratio == pytest.approx(0.9)
    figure = figure_of(comparison, 0.8)
    assert figure.value == pytest.approx(0.9)
    assert figure.met is True


@pytest.mark.parametrize(
    ("value", "goal", "at_most", "met"),
    [(0.7, 0.8, False, False), (0.8, 0.8, False, True), (130, 120, True, False), (120, 120, True, True)],
)
def test_a_goal_is_a_lower_or_an_upper_bound(value: float, goal: float, at_most: bool, met: bool) -> None:
    assert Figure("x", value, "x", goal, at_most, "").met is met


def test_a_missed_goal_is_said_in_the_table_and_a_reported_figure_has_none() -> None:
    text = table([Figure("a", 0.5, "x", 0.8, False, "why"), Figure("b", 3.0, "x", None, False, "")])
    assert "| a | 0.50 x | >= 0.8 x | **missed** | why |" in text
    assert "| b | 3.00 x | reported |  |  |" in text


def test_the_json_holds_the_machine_the_figures_and_every_round(tmp_path: Path) -> None:
    comparison = Comparison("x", LOAD, "floor", "subject", rounds(100, 200), rounds(90, 100))
    write(tmp_path, "x", [figure_of(comparison, 0.8)], [comparison])
    document = json.loads((tmp_path / "x.json").read_text())
    assert {"date", "cpu", "cores", "python", "packages"} <= set(document["machine"])
    assert document["figures"][0]["met"] is False
    assert document["comparisons"][0]["ratios"] == [0.9, 0.5]
    assert len(document["comparisons"][0]["floor"]) == 2


def test_the_kernels_accounting_sees_work_and_memory() -> None:
    before = cpu_seconds([os.getpid()])
    sum(number * number for number in range(3_000_000))
    assert cpu_seconds([os.getpid()]) > before
    resident, shared = memory_mib(os.getpid())
    assert resident >= shared > 1
