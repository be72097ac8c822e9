"""The one place that reads a clock. Everything else takes a `Clock` as a parameter."""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns the current time as integer milliseconds since the Unix epoch."""


def system_clock() -> int:
    """Wall-clock time in integer milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Monotonic milliseconds, for leases and deadlines inside one process; meaningless between processes."""
    return time.monotonic_ns() // 1_000_000
