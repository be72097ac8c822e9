"""Keeps every log as files, one step behind its checkpoints: the publisher says what is new, a sweep finds the rest.

Before a checkpoint replaces the one in the directory, the old tree must be a prefix of the new one by the stored
hashes, and entries must hash to their leaves. A directory that holds another history is left alone: it is the evidence.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from counterseal.errors import InternalError, ServiceError
from counterseal.ledger import tiles
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tiles import VKEY, WIDTH
from counterseal.ledger.tree import HASH_SIZE, leaf_hash
from counterseal_audit.checkpoints.engine import Published
from counterseal_audit.checkpoints.store import CheckpointStore
from counterseal_audit.database import CONNECTION_LOST
from counterseal_audit.logs.store import Log, LogStore
from counterseal_audit.reader.export import PREDECESSOR, predecessor_of
from counterseal_audit.reader.store import ReaderStore
from counterseal_audit.reader.trees import Trees
from counterseal_audit.tiles import engine
from counterseal_audit.tiles.directory import LogDirectory
from counterseal_audit.tiles.engine import Place

SWEEP_SECONDS = 30.0

log = logging.getLogger("counterseal.audit.tiles")

T = TypeVar("T")


def folder_of(root: Path, one: Log) -> Path:
    """Return a log's directory: below its tenant's, under the opaque part of its origin."""
    return root / one.tenant / one.origin.rpartition("/")[2]


@dataclass(slots=True)
class Exporter:
    """Writes logs below `root`. disk: a thread for everything that blocks, so that no call waits for the disk."""

    root: Path
    logs: LogStore
    checkpoints: CheckpointStore
    store: ReaderStore
    environment: str
    disk: Executor
    trees: Trees = field(init=False)
    _due: dict[int, Log] = field(default_factory=dict)
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Remember no tile: what is compared with the signed root is what is stored now, and written next."""
        self.trees = Trees(self.store)

    async def on_published(self, one: Log, _published: Published) -> None:
        """Take note that a log has a new checkpoint; nothing is written here."""
        self._due[one.log_id] = one
        self._woken.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Write until `stopping`: at once what the publisher names, every half minute whatever is behind."""
        loop = asyncio.get_running_loop()
        sweep = loop.time()
        while not stopping.is_set():
            if loop.time() >= sweep:
                await self._guarded(self._sweep)
                sweep = loop.time() + SWEEP_SECONDS
            while self._due:
                _, one = self._due.popitem()
                await self._bring(one)
            await _first_of(stopping, self._woken, sweep - loop.time())
            self._woken.clear()

    async def bring_up(self, one: Log) -> int:
        """Write what the log's directory lacks; return the size that it shows. Raises VerificationError, OSError."""
        last = await self.checkpoints.latest(one.log_id)
        if last is None:
            return 0
        folder = LogDirectory(folder_of(self.root, one))
        note = await self._blocking(folder.checkpoint)
        old = engine.head_of(note) if note is not None else None
        start = old.size if old is not None else 0
        if old is not None:
            engine.check_next(old, one.origin, last.size)
            await self._check_root(one, old.size, old.root)
        if note == last.published.public:
            return last.size
        await self._check_root(one, last.size, last.published.root)
        if start < last.size:
            todo = engine.places(start, await self.checkpoints.sizes_after(one.log_id, start, last.size))
            for place in todo:
                await self._write(one, folder, place)
            full = [tile for place in todo for tile in place.tiles if tile.is_full]
        else:
            full = []
        await self._write_beside(one, folder, last.size)
        await self._blocking(lambda: folder.publish(last.published.public))
        await self._blocking(lambda: folder.drop_partials(full))
        return last.size

    async def _sweep(self) -> None:
        for one in await self.logs.all(self.environment):
            self._due.setdefault(one.log_id, one)

    async def _bring(self, one: Log) -> None:
        try:
            await self._guarded(lambda: self.bring_up(one))
        except (VerificationError, InternalError) as error:
            log.critical("a log is not written", extra={"log_id": one.log_id, "why": error.message})
        except OSError as error:
            log.critical("a log is not written", extra={"log_id": one.log_id, "why": error.strerror})

    async def _guarded(self, work: Callable[[], object]) -> None:
        try:
            await work()  # type: ignore[misc]
        except InternalError:
            raise
        except ServiceError as error:
            log.warning("the export directory waits", extra={"reason": error.reason})
        except CONNECTION_LOST as error:
            if isinstance(error, OSError) and error.filename:
                raise
            log.warning("the export directory waits", extra={"reason": type(error).__name__})

    async def _write_beside(self, one: Log, folder: LogDirectory, size: int) -> None:
        """Write what is beside the tiles: the genesis key, the notes of rotations, the way to the shard before."""
        rotations = await self.checkpoints.rotation_notes(one.log_id, size)
        older = await predecessor_of(self.logs, one)

        def write() -> None:
            folder.write(VKEY, (one.vkey + "\n").encode())
            for n, note in enumerate(rotations, 1):
                folder.write(f"rotation/{n}", note)
            if older is not None:
                folder.link(PREDECESSOR, Path("..") / folder_of(self.root, older).name)

        await self._blocking(write)

    async def _check_root(self, one: Log, size: int, root: bytes) -> None:
        if await self.trees.root(one.log_id, size) != root:
            raise VerificationError(f"the stored tree of {size} entries is not the signed one", kind="forked")

    async def _write(self, one: Log, folder: LogDirectory, place: Place) -> None:
        """Write one place in every width; the narrower forms are the beginning of the widest."""
        start, widest = place.index * WIDTH, place.widths[-1]
        if place.level is None:
            rows = await self.store.page(one.log_id, start, widest)
            if len(rows) != widest or any(leaf_hash(row.entry) != row.leaf_hash for row in rows):
                raise VerificationError(f"entries from {start} on are not those of the tree", kind="forked")
            parts = [tiles.bundle([row.entry]) for row in rows]
        else:
            (joined,) = await self.store.runs(one.log_id, [(place.level, start, widest)])
            if len(joined) != widest * HASH_SIZE:
                raise VerificationError(f"hashes of level {place.level} from {start} on are missing", kind="forked")
            parts = [joined[at : at + HASH_SIZE] for at in range(0, len(joined), HASH_SIZE)]

        def write() -> None:
            for tile in place.tiles:
                folder.write_tile(tile, b"".join(parts[: tile.width]))

        await self._blocking(write)

    async def _blocking(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.disk, work)


async def _first_of(stopping: asyncio.Event, woken: asyncio.Event, seconds: float) -> None:
    waits = [asyncio.create_task(stopping.wait()), asyncio.create_task(woken.wait())]
    await asyncio.wait(waits, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
