"""How far long work is, on standard error and only for a person at a terminal."""

import sys
import time

EVERY_SECONDS = 1.0


class Progress:
    """Counts steps and says the count at most once a second. total: 0 where it is not known."""

    def __init__(self, what: str, total: int = 0) -> None:
        self._what = what
        self._total = total
        self._count = 0
        self._next = time.monotonic() + EVERY_SECONDS
        self._shown = sys.stderr.isatty()

    def step(self) -> None:
        """Count one."""
        self.at(self._count + 1)

    def at(self, count: int, total: int = 0) -> None:
        """Say where the work is."""
        self._count = count
        self._total = total or self._total
        if self._shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY_SECONDS
            of = f" of {self._total:,}" if self._total else ""
            print(f"{self._what}: {self._count:,}{of}", file=sys.stderr)
