"""One run: replicas, writers, readers, kills; then silence, and everything is verified."""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random  # noqa: TID251 (seeded, so that a run can be repeated)
from typing import Any

import asyncpg

from bench.hammer.book import Book
from bench.hammer.readers import AUDITOR, Auditor, Reading
from bench.hammer.traffic import Mix
from bench.hammer.writers import Field, Pace, StreamWriter, UnaryWriter
from bench.stacks import ENVIRONMENT, TENANT, ReplicaEnded, Replicas, prepared, replicas
from counterseal.embedded.layout import Wanted
from counterseal.embedded.supervisor import Supervisor
from counterseal.errors import ServiceError
from counterseal.ids import new_id
from counterseal.ledger import tiles
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import Frontier, leaf_hash

SETTLE_SECONDS = 180.0
PROGRESS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked for.

    streams, unary: writers of each kind. batch, window: entries a message, messages in flight on a stream.
    rate: target of all writers together, entries a second; None: as fast as it goes.
    goal: acknowledged entries after which writers stop; 0: after `seconds`. kills: SIGKILLs, one every `kill_every`
    seconds; the run goes on until goal and kills are reached. durable: whether the disk is waited for.
    """

    replicas: int = 2
    streams: int = 4
    unary: int = 4
    random_readers: int = 2
    full_readers: bool = True
    batch: int = 16
    window: int = 4
    rate: float | None = None
    goal: int = 0
    seconds: float = 30.0
    kills: int = 0
    kill_every: float = 2.0
    duplicates: float = 0.1
    reuses: float = 0.002
    seed: int = 1
    durable: bool = True


async def hammer(settings: Settings, work: Path) -> dict[str, Any]:
    """Run in `work`, a folder for data, logs and exports, and return the report.

    Its `contradictions` are empty when everything held.
    """
    users = {AUDITOR: ("auditor",)}
    wanted = Wanted(environment=ENVIRONMENT, tenants=(TENANT,), users=users, durable=settings.durable)
    async with suite(work / "stack", wanted, settings.replicas) as several:
        return await on_replicas(settings, several, work)


@asynccontextmanager
async def suite(data: Path, wanted: Wanted, count: int) -> AsyncIterator[Replicas]:
    """Replicas on a prepared stack, and the credentials service, from which the auditor has a token."""
    async with prepared(data, wanted) as running, replicas(running, count) as several:
        supervisor = Supervisor(running, services=("credentials",))
        await supervisor.start()
        try:
            yield several
        finally:
            await supervisor.stop()


async def on_replicas(settings: Settings, several: Replicas, work: Path) -> dict[str, Any]:
    """Load replicas that serve already, then verify."""
    chance, book = Random(settings.seed), Book()
    ground = Field(several, book, Mix(chance, settings.duplicates, settings.reuses), Pace(settings.rate))
    reading = Reading(several, book, chance, asyncio.Event())
    auditor = Auditor(reading, work)
    run_id = new_id()
    began = time.monotonic()
    async with asyncio.TaskGroup() as readers:
        readers.create_task(reading.follow())
        for _ in range(settings.random_readers):
            readers.create_task(reading.read_at_random())
        if settings.full_readers:
            readers.create_task(auditor.read_everything())
        telling = readers.create_task(progress(ground, reading, several, began))
        async with asyncio.TaskGroup() as writers:
            for number in range(settings.streams):
                writers.create_task(StreamWriter(ground, number, settings.batch, settings.window).run())
            for number in range(settings.unary):
                writers.create_task(UnaryWriter(ground, number, run_id).run())
            writers.create_task(conduct(settings, ground, several, chance, began))
        loaded = time.monotonic() - began
        reading.stop.set()
        telling.cancel()
    try:
        for one in several.all:
            await several.ready(one.number)
        verdict = await verify(book, reading, auditor, several)
    except (ReplicaEnded, TimeoutError, VerificationError) as error:
        verdict = {"size": 0, "root": ""}
        book.contradictions.add(str(error) or "the log could not be exported whole in time")
    latencies = sorted(ground.latencies_ms) or [0.0]
    return {
        "v": 1,
        "seed": settings.seed,
        "replicas": settings.replicas,
        "load_seconds": round(loaded, 1),
        "acknowledgements": book.acknowledgements,
        "entries": book.entries,
        "entries_per_second": round(book.entries / loaded),
        "answered_as_duplicate": book.duplicates,
        "other_content_refused": book.reuses_refused,
        "answer_p50_ms": round(statistics.median(latencies), 2),
        "answer_p99_ms": round(latencies[min(len(latencies) - 1, int(0.99 * len(latencies)))], 2),
        "requests_sent_again": ground.retries,
        "kills": sum(one.kills for one in several.all),
        "inclusion_proofs": reading.inclusions,
        "consistency_proofs": reading.consistencies,
        "exports_verified": reading.exports,
        "entries_verified_in_exports": reading.exported_entries,
        "readers_interrupted": reading.interrupted,
        **verdict,
        "contradiction_count": book.contradictions.count,
        "contradictions": book.contradictions.kept,
    }


async def conduct(settings: Settings, ground: Field, several: Replicas, chance: Random, began: float) -> None:
    """Kill what is to be killed and end the load when it is time."""
    try:
        for _ in range(settings.kills):
            await asyncio.sleep(settings.kill_every)
            victim = several.all[chance.randrange(len(several.all))]
            await several.ready(victim.number)  # killing what only starts shows little
            if ground.stop.is_set():
                return
            await victim.kill()
        while not ground.stop.is_set():
            for one in several.all:
                one.check()
            late = not settings.goal and time.monotonic() - began >= settings.seconds
            if late or (settings.goal and ground.book.entries >= settings.goal):
                return
            await asyncio.sleep(0.05)
    except (ReplicaEnded, TimeoutError) as error:
        ground.book.contradictions.add(str(error) or "a replica did not come up again")
    finally:
        ground.stop.set()


async def verify(book: Book, reading: Reading, auditor: Auditor, several: Replicas) -> dict[str, Any]:
    """Hold the log, as it is exported and as it is stored, against everything that was acknowledged.

    Raises TimeoutError when no export covers it in time, VerificationError when its files make no sense.
    """
    async with asyncio.timeout(SETTLE_SECONDS):
        while True:
            try:
                folder = await auditor.export(book.end)
                break
            except ServiceError:
                await asyncio.sleep(0.5)
    tree = book.check_log(exported(folder))
    key = reading.pinned or VerifierKey.parse((folder / tiles.VKEY).read_text().strip())
    signed = open_checkpoint((folder / tiles.CHECKPOINT).read_bytes(), [key])
    if (signed.size, signed.root) != (tree.size, tree.root()):
        book.contradictions.add("the signed root is not the one recomputed from the entries")
    await check_stored(book, tree, several)
    return {"size": tree.size, "root": tree.root().hex()}


def exported(folder: Path) -> Iterator[bytes]:
    """Yield the entries of an export in order; as many as its checkpoint says."""
    size = int((folder / tiles.CHECKPOINT).read_text().split("\n")[1])
    for bundle in tiles.bundles_of(size):
        yield from tiles.parse_bundle(bundle, (folder / bundle.path).read_bytes())


async def check_stored(book: Book, tree: Frontier, several: Replicas) -> None:
    """The head row is what the stored entries make: `tree`, which was exported, and what came after it."""
    connection = await asyncpg.connect(several.running.control.dsn("counterseal_audit"))
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            head = await connection.fetchrow(
                "SELECT log_id, size, root FROM ledger_head JOIN ledger_log USING (log_id) WHERE tenant = $1", TENANT
            )
            log_id, size, root = head
            count = await connection.fetchval("SELECT count(*) FROM ledger_entry WHERE log_id = $1", log_id)
            rows = await connection.fetch(
                "SELECT idx, entry FROM ledger_entry WHERE log_id = $1 AND idx >= $2 ORDER BY idx", log_id, tree.size
            )
    finally:
        await connection.close()
    if count != size or [row["idx"] for row in rows] != list(range(tree.size, size)):
        book.contradictions.add(f"the log has {count} rows where its head says {size}")
    stored = tree.extend(leaf_hash(row["entry"]) for row in rows)
    if (stored.size, stored.root()) != (size, root):
        book.contradictions.add("the head's root is not the one recomputed from the entries")


async def progress(ground: Field, reading: Reading, several: Replicas, began: float) -> None:
    """A line for people every two seconds."""
    last = 0
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        book = ground.book
        rate, last = (book.entries - last) / PROGRESS_SECONDS, book.entries
        kills = sum(one.kills for one in several.all)
        print(
            f"{time.monotonic() - began:6.0f} s  {book.entries:>9,} entries {rate:>7,.0f}/s"
            f"  {book.duplicates:,} duplicates  {book.reuses_refused} reuses refused  {kills} kills"
            f"  {reading.inclusions:,} proofs under size {reading.common.size if reading.common else 0:,}"
            f"  {reading.exports} exports  {book.contradictions.count} contradictions",
            file=sys.stderr,
            flush=True,
        )
