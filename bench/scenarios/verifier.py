"""`counterseal audit verify log` against reading and hashing alone, and how much memory it takes.

Subject: the command as an auditor runs it, in a process of its own: every entry parsed and checked, every tile of every
level compared, root and signature verified. Floor: another Python process that reads the same files and hashes them.
Both are measured by the kernel's CPU accounting of the whole process, start included; memory is the peak resident size.

Goals: <= 4 x the floor; at most 200 MiB. What the same takes at a tenth of the size stands beside the latter.
Size: 10^5 entries; `--entries 1000000` for the goal's size.
"""

import asyncio
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.database import audit_database, cluster, fill, opened
from bench.report import Figure
from bench.settings import Result, Settings
from counterseal.ledger.tiles import CHECKPOINT, VKEY
from counterseal_audit.reader.export import LogFiles
from support.postgres import ServiceDatabase

ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process used: CPU seconds, and its peak memory in MiB."""

    cpu_seconds: float
    peak_mib: float


async def run(settings: Settings) -> Result:
    """Fill, export at a tenth and at the full size, hash and verify in turn."""
    size = settings.entries or (10_000 if settings.quick else 100_000)
    few, many = settings.folder("few"), settings.folder("many")
    with cluster(settings.kept(f"verifier-{size}") / "cluster") as running:
        database = await audit_database(running)
        fewer = await export(database, size // 10, few)
        entries = await export(database, size, many)
    verify = (str(Path(sys.executable).parent / "counterseal"), "audit", "verify", "log")
    hashing = (sys.executable, "-m", "bench.hash_export")
    floors, subjects, small = [], [], []
    for _ in range(1 if settings.quick else ROUNDS):
        floors.append(await cost(*hashing, str(many)))
        subjects.append(await cost(*verify, str(many), "--vkey", str(many / VKEY)))
        small.append(await cost(*verify, str(few), "--vkey", str(few / VKEY)))
    ratios = [mine.cpu_seconds / base.cpu_seconds for base, mine in zip(floors, subjects, strict=True)]
    mine, base = (statistics.median(one.cpu_seconds for one in costs) for costs in (subjects, floors))
    peak, little = (statistics.median(one.peak_mib for one in costs) for costs in (subjects, small))
    detail = (
        f"verify {mine:.1f} s of CPU, {mine / entries * 1e6:.0f} us an entry | floor: {base:.1f} s"
        f" | range {min(ratios):.2f} to {max(ratios):.2f}"
    )
    name = f"verifying {entries:,} entries against hashing them"
    speed = Figure(name, statistics.median(ratios), "x", 4, at_most=True, detail=detail)
    name = f"peak memory of verifying {entries:,} entries"
    detail = f"all resident; {little:.0f} MiB for {fewer:,}"
    memory = Figure(name, peak, "MiB", 200, at_most=True, detail=detail)
    return Result([speed, memory])


async def export(database: ServiceDatabase, size: int, target: Path) -> int:
    """Fill the log up to `size`, have it signed, and write it as files; return how many entries they have."""
    await fill(database, size)
    async with opened(database) as (parts, _):
        log = await parts.log()
        await parts.publisher.publish_once()
        checkpoint = await parts.checkpoints.latest(log.log_id)
        assert checkpoint is not None
        async for path, content in LogFiles(parts.logs, parts.checkpoints, parts.reader).of(log, checkpoint):
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    assert (target / CHECKPOINT).exists()
    return checkpoint.size


async def cost(*command: str) -> Cost:
    """Run a command to its end and return what it used. Raises RuntimeError when it fails."""
    return await asyncio.get_running_loop().run_in_executor(None, _cost, command)


def _cost(command: tuple[str, ...]) -> Cost:
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(command[0], command, dict(os.environ), file_actions=silent)
    _, status, used = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
