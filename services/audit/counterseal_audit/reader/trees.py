"""Roots and paths in the trees of stored logs, read tile by tile.

A stored hash never changes, so the tiles used last are remembered with the nodes above their hashes, and read again
only where more of their hashes are needed than were there. That makes a proof among entries that were proven lately a
matter of looking up; it vouches for nothing: whoever gets a proof verifies it.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from counterseal.ledger.tiles import WIDTH
from counterseal.ledger.tree import Span, inclusion_spans
from counterseal_audit.reader import engine
from counterseal_audit.reader.engine import Place, TileTree
from counterseal_audit.reader.store import ReaderStore

REMEMBERED = 512
"""Tiles that are kept, 16 KiB each."""


class Trees:
    """The trees of all logs of a database. Every method raises InternalError when a stored hash is missing."""

    def __init__(self, store: ReaderStore, remembered: int = REMEMBERED) -> None:
        self._store = store
        self._remembered = remembered
        self._tiles: OrderedDict[tuple[int, Place], TileTree] = OrderedDict()

    async def roots(self, log_id: int, spans: Sequence[Span]) -> list[bytes]:
        """Return the root of each span, from one read for all."""
        needs = engine.needs_of(spans)
        return engine.roots_of(spans, await self._read(log_id, needs)) if needs else []

    async def root(self, log_id: int, size: int) -> bytes:
        """Return the root of the first `size` leaves."""
        return engine.root_of(await self.roots(log_id, engine.whole(size)))

    async def paths(self, log_id: int, leaves: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[bytes]]:
        """Return the audit path of each (index, tree size), from one read for all."""
        spans = {(index, size): inclusion_spans(index, size) for index, size in leaves}
        roots = iter(await self.roots(log_id, [span for many in spans.values() for span in many]))
        return {leaf: [next(roots) for _ in many] for leaf, many in spans.items()}

    async def _read(self, log_id: int, needs: Mapping[Place, int]) -> dict[Place, TileTree]:
        found: dict[Place, TileTree] = {}
        for place, width in needs.items():
            tile = self._tiles.get((log_id, place))
            if tile is not None and tile.width >= width:
                self._tiles.move_to_end((log_id, place))
                found[place] = tile
        missing = sorted(needs.keys() - found.keys())
        if missing:
            runs = await self._store.runs(log_id, [(level, number * WIDTH, WIDTH) for level, number in missing])
            for place, joined in zip(missing, runs, strict=True):
                self._tiles[log_id, place] = found[place] = TileTree.of(joined)
                self._tiles.move_to_end((log_id, place))
        while len(self._tiles) > self._remembered:
            self._tiles.popitem(last=False)
        return found
