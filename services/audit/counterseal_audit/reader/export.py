"""A log as files for one checkpoint: C2SP tlog-tiles, `vkey`, `rotation/<n>`, older shards below `predecessor/`."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from counterseal.errors import InternalError
from counterseal.ledger import tiles
from counterseal.ledger.checkpoint import Checkpoint
from counterseal.ledger.tiles import CHECKPOINT, VKEY, WIDTH
from counterseal.ledger.tree import HASH_SIZE
from counterseal_audit.checkpoints.store import CheckpointStore, StoredCheckpoint
from counterseal_audit.logs.store import Log, LogStore
from counterseal_audit.reader.store import ReaderStore

PREDECESSOR = "predecessor"


@dataclass(frozen=True, slots=True)
class Part:
    """One log of an export, as one of its checkpoints has it; its files lie below `below`."""

    log: Log
    checkpoint: StoredCheckpoint
    below: str

    @property
    def head(self) -> Checkpoint:
        """What the checkpoint says."""
        return Checkpoint(self.log.origin, self.checkpoint.size, self.checkpoint.published.root)


@dataclass(frozen=True, slots=True)
class LogFiles:
    """Reads whole logs out of the database, one bundle at a time."""

    logs: LogStore
    checkpoints: CheckpointStore
    store: ReaderStore

    async def of(self, log: Log, checkpoint: StoredCheckpoint) -> AsyncIterator[tuple[str, bytes]]:
        """Yield (path, bytes) of every file of the export, the log's checkpoint first, its predecessors last."""
        async for file in self.files(await self.parts(log, checkpoint)):
            yield file

    async def parts(self, log: Log, checkpoint: StoredCheckpoint) -> list[Part]:
        """Return what an export at a checkpoint consists of: the log, then each shard before it, newest first.

        Raises InternalError when one of those has no checkpoint.
        """
        found = [Part(log, checkpoint, "")]
        while (older := await predecessor_of(self.logs, found[-1].log)) is not None:
            last = await self.checkpoints.latest(older.log_id)
            if last is None:
                raise InternalError("the log before this one has no checkpoint")
            found.append(Part(older, last, f"{found[-1].below}{PREDECESSOR}/"))
        return found

    async def files(self, parts: Sequence[Part]) -> AsyncIterator[tuple[str, bytes]]:
        """Yield (path, bytes) of every file of the parts, in order."""
        for part in parts:
            yield part.below + CHECKPOINT, part.checkpoint.published.public
            yield part.below + VKEY, (part.log.vkey + "\n").encode()
            notes = await self.checkpoints.rotation_notes(part.log.log_id, part.checkpoint.size)
            for n, note in enumerate(notes, 1):
                yield f"{part.below}rotation/{n}", note
            async for path, content in self._tiles(part.log, part.checkpoint.size):
                yield part.below + path, content

    async def _tiles(self, log: Log, size: int) -> AsyncIterator[tuple[str, bytes]]:
        for tile in tiles.tiles_of(size):
            if tile.level:
                start = tile.index * WIDTH
                (joined,) = await self.store.runs(log.log_id, [(tile.level, start, tile.width)])
                if len(joined) != tile.width * HASH_SIZE:
                    raise InternalError("a stored hash is missing", level=tile.level, start=start)
                yield tile.path, joined
        for bundle in tiles.bundles_of(size):
            rows = await self.store.page(log.log_id, bundle.index * WIDTH, bundle.width)
            if len(rows) != bundle.width:
                raise InternalError("the log has fewer entries than its checkpoint covers")
            yield tiles.Tile(0, bundle.index, bundle.width).path, b"".join(row.leaf_hash for row in rows)
            yield bundle.path, tiles.bundle(row.entry for row in rows)


async def predecessor_of(logs: LogStore, log: Log) -> Log | None:
    """Return the shard before this one: not always the one numbered so, a lost database may have begun others."""
    if log.shard == 0:
        return None
    shards = await logs.shards(log.tenant, log.environment)
    return next((one for one in reversed(shards) if one.shard < log.shard), None)
