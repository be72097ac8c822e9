"""A log as files (C2SP tlog-tiles plus a one-line `vkey`), all for one checkpoint's size."""

from collections.abc import AsyncIterator

from counterseal.errors import InternalError
from counterseal.ledger import tiles
from counterseal.ledger.tiles import CHECKPOINT, VKEY, WIDTH
from counterseal_audit.checkpoints.store import StoredCheckpoint
from counterseal_audit.logs.store import Log
from counterseal_audit.reader.store import ReaderStore


async def files(store: ReaderStore, log: Log, checkpoint: StoredCheckpoint) -> AsyncIterator[tuple[str, bytes]]:
    """Yield (path, bytes) of every file of the export, checkpoint first; memory holds one bundle at a time."""
    size = checkpoint.size
    yield CHECKPOINT, checkpoint.published.note
    yield VKEY, (log.vkey + "\n").encode()
    for tile in tiles.tiles_of(size):
        if tile.level:
            start = tile.index * WIDTH
            found = await store.hashes(log.log_id, [(tile.level, start, tile.width)])
            yield tile.path, b"".join(found[tile.level, start + n] for n in range(tile.width))
    for bundle in tiles.bundles_of(size):
        rows = await store.page(log.log_id, bundle.index * WIDTH, bundle.width)
        if len(rows) != bundle.width:
            raise InternalError("the log has fewer entries than its checkpoint covers")
        yield tiles.Tile(0, bundle.index, bundle.width).path, b"".join(row.leaf_hash for row in rows)
        yield bundle.path, tiles.bundle(row.entry for row in rows)
