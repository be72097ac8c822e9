"""Roots and paths in the trees of stored logs, read tile by tile.

A stored hash never changes while its log's database is the same one, so the tiles used last are remembered with the
nodes above their hashes: a proof among entries that were proven lately is a matter of looking up. A restored database
may grow other entries in the same places. So what is remembered is used only for trees whose root is signed, where it
is seen at once whether it still leads there; where not, the log's tiles are forgotten and read as they are stored.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from counterseal.errors import InternalError
from counterseal.ledger.tiles import WIDTH
from counterseal.ledger.tree import Span, inclusion_spans, root_from_inclusion, root_of_path
from counterseal_audit.reader import engine
from counterseal_audit.reader.engine import Place, TileTree
from counterseal_audit.reader.store import ReaderStore

TILES_PER_MIB = 64
"""Remembered tiles take 16 KiB and a little each."""
REMEMBERED = 64 * TILES_PER_MIB
"""Tiles that are kept: those of a million entries."""


@dataclass(slots=True)
class _Kept:
    """A tile, and how it leads to the root of the signed tree (size, root) in which its hashes were proven last.

    What is below the tile's root was hashed up from its hashes, so once this leads there, each of their paths does.
    """

    tile: TileTree
    tree: tuple[int, bytes] = (0, b"")
    above: Sequence[bytes] = ()


class Trees:
    """The trees of all logs of a database. Every method raises InternalError when a stored hash is missing."""

    def __init__(self, store: ReaderStore, remembered: int = REMEMBERED) -> None:
        self._store = store
        self._remembered = remembered
        self._tiles: OrderedDict[tuple[int, Place], _Kept] = OrderedDict()

    async def roots(self, log_id: int, spans: Sequence[Span]) -> list[bytes]:
        """Return the root of each span as it is stored now, from one read for all."""
        needs = engine.needs_of(spans)
        return engine.roots_of(spans, await self._read(log_id, sorted(needs))) if needs else []

    async def root(self, log_id: int, size: int) -> bytes:
        """Return the root of the first `size` leaves as it is stored now."""
        return engine.root_of(await self.roots(log_id, engine.whole(size)))

    async def signed_roots(
        self, log_id: int, spans: Sequence[Span], fit: Callable[[Sequence[bytes]], bool]
    ) -> list[bytes]:
        """Return the root of each span; fit: whether such roots lead to what is signed.

        No read where all is remembered and fits. Roots that do not fit are those that are stored: whoever gets them
        verifies them.
        """
        try:
            roots = engine.roots_of(spans, _Used(self._tiles, log_id))
        except (KeyError, InternalError):  # a tile that is not remembered, or was narrower then
            roots = engine.roots_of(spans, await self._known(log_id, engine.needs_of(spans)))
        if fit(roots):
            return roots
        self._forget(log_id)
        return await self.roots(log_id, spans)

    async def inclusion(
        self, log_id: int, index: int, size: int, root: bytes
    ) -> tuple[bytes, tuple[bytes, ...], bytes]:
        """Return a leaf's hash, its audit path in a signed tree, and the root to which that leads.

        No read and nearly no hashing where its tile is remembered and leads to `root`. A path that leads elsewhere is
        the one that is stored: whoever gets it verifies it.
        """
        number, at = divmod(index, WIDTH)
        width = min(WIDTH, size - number * WIDTH)
        key = (log_id, (0, number))
        kept = self._tiles.get(key)
        if kept is None or kept.tree != (size, root):
            kept = await self._led(log_id, number, size, root)
            if kept is None:
                self._forget(log_id)
                leaf, *path = await self.roots(log_id, [Span(index, index + 1), *inclusion_spans(index, size)])
                return leaf, tuple(path), root_from_inclusion(index, size, leaf, path)
        else:
            self._tiles.move_to_end(key)
        return kept.tile.node(0, at), (*kept.tile.path(at, width), *kept.above), root

    async def _led(self, log_id: int, number: int, size: int, root: bytes) -> _Kept | None:
        """Return a tile of hashes of leaves that leads to the root of a signed tree, None where it does not."""
        spans = inclusion_spans(number, -(-size // WIDTH))
        above = [Span(span.start * WIDTH, min(span.end * WIDTH, size)) for span in spans]
        width = min(WIDTH, size - number * WIDTH)
        needs = engine.needs_of(above)
        needs[0, number] = width
        tiles = await self._known(log_id, needs)
        path = engine.roots_of(above, tiles)
        tile = tiles[0, number]
        if root_of_path(number, spans, tile.root(width), path) != root:
            return None
        kept = self._tiles.get((log_id, (0, number)))
        if kept is None or kept.tile is not tile:  # forgotten meanwhile
            kept = _Kept(tile)
        kept.tree, kept.above = (size, root), path
        return kept

    async def paths(
        self, log_id: int, leaves: Sequence[tuple[int, int]], signed: Mapping[int, bytes]
    ) -> dict[tuple[int, int], list[bytes]]:
        """Return the audit path of each (index, tree size), from one read for all; signed: the roots by size."""
        spans = {(index, size): inclusion_spans(index, size) for index, size in leaves}
        asked = [span for (index, _), many in spans.items() for span in (Span(index, index + 1), *many)]

        def paths_of(roots: Sequence[bytes]) -> dict[tuple[int, int], list[bytes]]:
            them = iter(roots)
            return {leaf: [next(them) for _ in range(1 + len(many))] for leaf, many in spans.items()}

        def fit(roots: Sequence[bytes]) -> bool:
            return all(
                root_of_path(index, spans[index, size], leaf, path) == signed[size]
                for (index, size), (leaf, *path) in paths_of(roots).items()
            )

        found = paths_of(await self.signed_roots(log_id, asked, fit)) if asked else {}
        return {leaf: path for leaf, (_, *path) in found.items()}

    async def _known(self, log_id: int, needs: Mapping[Place, int]) -> dict[Place, TileTree]:
        """Return tiles with so many hashes: what is remembered, and the others from one read, to be remembered."""
        found: dict[Place, TileTree] = {}
        missing = []
        for place, width in needs.items():
            kept = self._tiles.get((log_id, place))
            if kept is not None and kept.tile.width >= width:
                found[place] = kept.tile
                self._tiles.move_to_end((log_id, place))
            else:
                missing.append(place)
        read = await self._read(log_id, sorted(missing)) if missing else {}
        for place, tile in read.items():
            found[place] = tile
            self._tiles[log_id, place] = _Kept(tile)
            self._tiles.move_to_end((log_id, place))
        while len(self._tiles) > self._remembered:
            self._tiles.popitem(last=False)
        return found

    async def _read(self, log_id: int, places: Sequence[Place]) -> dict[Place, TileTree]:
        runs = await self._store.runs(log_id, [(level, number * WIDTH, WIDTH) for level, number in places])
        return {place: TileTree.of(joined) for place, joined in zip(places, runs, strict=True)}

    def _forget(self, log_id: int) -> None:
        for key in [key for key in self._tiles if key[0] == log_id]:
            del self._tiles[key]


class _Used:
    """The remembered tiles of one log; those that are looked at are forgotten last."""

    def __init__(self, tiles: OrderedDict[tuple[int, Place], _Kept], log_id: int) -> None:
        self._tiles = tiles
        self._log_id = log_id

    def __getitem__(self, place: Place) -> TileTree:
        key = (self._log_id, place)
        kept = self._tiles[key]
        self._tiles.move_to_end(key)
        return kept.tile
