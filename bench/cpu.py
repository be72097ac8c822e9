"""What the kernel accounts to processes: CPU seconds and memory (Linux, /proc)."""

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of living processes, threads included, in seconds; resolution one clock tick."""
    return sum(_ticks(pid) for pid in pids) / _TICKS


def memory_mib(pid: int) -> tuple[float, float]:
    """Return (RSS, PSS) of a process in MiB. PSS shares what is shared, so that sums over processes are true."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0])
    return fields["Rss"] / 1024, fields["Pss"] / 1024


def _ticks(pid: int) -> int:
    # The second field is the command in parentheses and may hold spaces: count from its end (proc(5), stat).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
