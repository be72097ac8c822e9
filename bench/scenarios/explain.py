"""`explain` on a large log: one GetTrace over mTLS, proofs checked, the story told; and how fast the follower reads.

The log is made of the recorded incidents (tests/vectors/incidents-v1), each time under fresh ids, appended as producers
do, on a PostgreSQL that keeps its promises. Actions from all over the log are asked for, each once.
`--entries` sets the log's size; the goal is p95 <= 1 s with 1,000,000 entries.

Then the same from an export, as an auditor without our service does: a process of its own verifies the whole log and
tells one action, its files dropped from the page cache before. Goal: 30 s.
"""

import asyncio
import itertools
import os
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.report import Figure
from bench.settings import Result, Settings
from counterseal.api.audit.v1 import ledger_pb2, reader_pb2, reader_pb2_grpc
from counterseal.cli.explain import from_answer
from counterseal.embedded.postgres import PostgresServer
from counterseal.ids import new_id
from counterseal.ledger.entry import committed_event_id
from support import incidents
from support.audit import AuditServer, append, audit_server
from support.postgres import Databases

ASKED = 200
COLD = 3
BATCH = 1000


async def run(settings: Settings) -> Result:
    """Fill a log, let the follower read it, explain actions."""
    size = 5_000 if settings.quick else settings.entries or 100_000
    folder = settings.folder("postgres")
    folder.chmod(0o755)
    postgres = PostgresServer(folder / "cluster")
    databases = Databases(postgres.start())
    try:
        async with audit_server(databases.fresh("audit"), publish=False, follow=False) as server:
            plans = await fill(server, size)
            await server.parts.publisher.publish_once()
            begun = time.monotonic()
            while await server.parts.follower.step():
                pass
            indexed = size / (time.monotonic() - begun)
            times = await explain(server, plans[:: max(1, len(plans) // ASKED)])
            export = await server.export(settings.folder("export"), min_size=size)
    finally:
        postgres.stop()
    offline = [await cold(export, plan) for plan in plans[:: max(1, len(plans) // COLD)][:COLD]]
    cut = statistics.quantiles(times, n=20)
    detail = f"p50 {statistics.median(times):.0f} ms, most {max(times):.0f} ms, {len(times)} actions"
    return Result(
        [
            Figure(f"explain, p95 on a log of {size:,} entries", cut[18], "ms", 1000, at_most=True, detail=detail),
            Figure(
                f"explain from a cold export of {size:,} entries, whole log verified",
                max(offline),
                "s",
                30,
                at_most=True,
                detail=f"the longest of {len(offline)} processes, median {statistics.median(offline):.1f} s",
            ),
            Figure(f"follower, over {size:,} entries", indexed, "entries/s", None, at_most=False, detail="one process"),
        ]
    )


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)  # only what is on the disk can be dropped
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


async def cold(folder: Path, plan: str) -> float:
    """Explain one action from an export that the machine has forgotten; return the seconds that it took."""
    forget(folder)
    script = Path(sys.executable).parent / "counterseal"
    begun = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(str(script), "explain", plan, "--from", str(folder)), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    taken = time.monotonic() - begun
    if process.returncode or b"\nproof" not in told or len(told.splitlines()) > 60:
        raise RuntimeError(f"no story: exit {process.returncode}")
    return taken


async def fill(server: AuditServer, size: int) -> list[str]:
    """Append incidents until the log has `size` entries; return the plans in it."""
    recorded = incidents.requests()
    plans: list[str] = []
    count = 1
    while count < size:
        fresh = list(itertools.islice(_again(recorded, plans), size - count))
        for producer, group in itertools.groupby(fresh, key=lambda pair: pair[0]):
            entries = [entry for _, entry in group]
            for start in range(0, len(entries), BATCH):
                await append(server.parts, entries[start : start + BATCH], producer)
        count += len(fresh)
    return plans


def _again(
    recorded: list[tuple[str, ledger_pb2.NewEntry]], plans: list[str]
) -> Iterator[tuple[str, ledger_pb2.NewEntry]]:
    """Yield the recorded entries under ids that nobody used yet, by producer: executor's streams stay in order."""
    renamed: dict[str, str] = {}

    def fresh(value: str, make: Callable[[], str] = new_id) -> str:
        if value and value not in renamed:
            renamed[value] = make()
        return renamed.get(value, value)

    for producer, original in sorted(recorded, key=lambda pair: pair[0]):
        entry = ledger_pb2.NewEntry()
        entry.CopyFrom(original)
        kind = str(entry.event.WhichOneof("event") or "")
        entry.plan_digest = fresh(entry.plan_digest, lambda: f"sha256:{uuid.UUID(new_id()).hex * 2}")
        entry.request_id = fresh(entry.request_id)
        if entry.stream:
            entry.stream = "plan:" + fresh(entry.stream)
        data: Any = getattr(entry.event, kind)
        for name in ("attempt_id", "grant_id", "task_id", "decision_id"):
            if hasattr(data, name):
                setattr(data, name, fresh(getattr(data, name)))
        entry.event_id = committed_event_id(entry.plan_digest) if kind == "plan_committed" else fresh(entry.event_id)
        if kind == "plan_proposed":
            plans.append(entry.plan_digest)
        yield producer, entry


async def explain(server: AuditServer, plans: list[str]) -> list[float]:
    """Explain each plan once; return the milliseconds that each took."""
    times = []
    async with server.channel("cli") as channel:
        stub: Any = reader_pb2_grpc.LedgerReaderServiceStub(channel)
        for plan in plans:
            begun = time.monotonic()
            metadata = (("txn-token", server.token()),)
            answer = await stub.GetTrace(reader_pb2.GetTraceRequest(plan_digest=plan), metadata=metadata, timeout=60)
            if len(from_answer(answer, []).lines()) > 60:
                raise RuntimeError("a story of more than 60 lines")
            times.append((time.monotonic() - begun) * 1000)
    return times
