"""Results as JSON in build/bench/ and as one table for people."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.measure import Comparison, Round
from counterseal.clock import system_clock

PACKAGES = ("grpcio", "protobuf", "sqlalchemy", "asyncpg", "hvac")


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. value and goal in `unit`; goal None: reported, not demanded.

    at_most: whether the goal is an upper bound. detail: what a reader needs to judge the figure.
    """

    name: str
    value: float
    unit: str
    goal: float | None
    at_most: bool
    detail: str

    @property
    def met(self) -> bool | None:
        """Whether the goal was met; None where there is none."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def figure_of(comparison: Comparison, goal: float | None) -> Figure:
    """The figure of a comparison: subject over floor."""
    floor, subject = _median_rate(comparison.floor), _median_rate(comparison.subject)
    low, high = min(comparison.ratios), max(comparison.ratios)
    detail = (
        f"{comparison.subject_name} {_short(subject)}/s, p50 {_p50(comparison.subject):.2f} ms"
        f" | floor: {comparison.floor_name} {_short(floor)}/s, p50 {_p50(comparison.floor):.2f} ms"
        f" | range {_short(low)} to {_short(high)}"
        f" | server CPU {_cpu(comparison.subject):,.0f} us against {_cpu(comparison.floor):,.0f} us a call"
    )
    name = f"{comparison.name}, {comparison.load.callers} caller{'s' if comparison.load.callers > 1 else ''}"
    return Figure(name, comparison.median_ratio, "x", goal, at_most=False, detail=detail)


def machine() -> dict[str, Any]:
    """Hardware, versions and date, without which a figure means nothing."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?")
    return {
        "date": datetime.fromtimestamp(system_clock() / 1000, UTC).date().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def write(out: Path, name: str, figures: Sequence[Figure], comparisons: Sequence[Comparison]) -> None:
    """Write build/bench/<name>.json: machine, figures, and every round."""
    out.mkdir(parents=True, exist_ok=True)
    document = {
        "v": 1,
        "machine": machine(),
        "figures": [{**asdict(figure), "met": figure.met} for figure in figures],
        "comparisons": [{**asdict(item), "ratios": item.ratios} for item in comparisons],
    }
    (out / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def table(figures: Sequence[Figure]) -> str:
    """The table as Markdown."""
    lines = ["| what | measured | goal | | detail |", "|---|---|---|---|---|"]
    for figure in figures:
        goal = (
            "reported" if figure.goal is None else f"{'<=' if figure.at_most else '>='} {figure.goal:g} {figure.unit}"
        )
        verdict = {None: "", True: "met", False: "**missed**"}[figure.met]
        lines.append(f"| {figure.name} | {_short(figure.value)} {figure.unit} | {goal} | {verdict} | {figure.detail} |")
    return "\n".join(lines) + "\n"


def _median_rate(rounds: Sequence[Round]) -> float:
    return statistics.median(item.rate for item in rounds)


def _p50(rounds: Sequence[Round]) -> float:
    return statistics.median(item.p50_ms for item in rounds)


def _cpu(rounds: Sequence[Round]) -> float:
    return statistics.median(item.server_cpu_us for item in rounds)


def _short(value: float) -> str:
    """Two decimals, none from a hundred on, two digits below a tenth."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
