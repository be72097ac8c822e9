"""How a run is asked for, and what a scenario gives back."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measure import Comparison, Load
from bench.report import Figure


@dataclass(frozen=True, slots=True)
class Settings:
    """work: a folder for data and logs. quick: short rounds, for CI: it shows that scenarios run, not how fast.

    entries: size of the largest log, for the scenarios that fill one; None: theirs. keep: a folder where filled logs
    stay for the next run; None: they are made anew.
    """

    work: Path
    quick: bool
    entries: int | None = None
    keep: Path | None = None

    def folder(self, name: str) -> Path:
        """Return a new folder below `work`."""
        folder = self.work / name
        folder.mkdir()
        return folder

    def kept(self, name: str) -> Path:
        """Return the folder of a filled log: below `keep`, where one may lie already, else below `work`."""
        folder = (self.keep or self.work) / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        return folder

    def load(self, callers: int) -> Load:
        """Fifteen rounds of a second: what else the machine does meets both sides. Quick: two of half a second."""
        return Load(callers, 0.5, 2, 0.3) if self.quick else Load(callers, 1.0, 15, 1.5)


@dataclass(frozen=True, slots=True)
class Result:
    """Figures for the table, and the comparisons behind them."""

    figures: list[Figure] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)


class Skipped(Exception):
    """A scenario cannot run here; the text says why."""


Scenario = Callable[[Settings], Coroutine[Any, Any, Result]]
