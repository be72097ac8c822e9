"""Roots and consistency from a log's hash tiles (C2SP tlog-tiles), without reading the entries."""

from collections.abc import Sequence

from counterseal.ledger import tiles
from counterseal.ledger.checkpoint import Checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tiles import HEIGHT, WIDTH, Tile
from counterseal.ledger.tree import EMPTY_ROOT, Span, consistency_spans, perfect_root, verify_consistency
from counterseal.ledger.walk import Files, read_tile


def consistency(files: Files | None, old: Checkpoint, new: Checkpoint) -> None:
    """Raise VerificationError unless `new` extends `old` by the tiles of the log at `new`.

    files: the log of the larger checkpoint; not needed for equal sizes. Both checkpoints are verified already.
    """
    if old.size > new.size:
        raise VerificationError(f"{old.size} entries are not a beginning of {new.size}")
    if old.size in {0, new.size}:
        first = EMPTY_ROOT if old.size == 0 else new.root
        if old.root != first:
            raise VerificationError(f"two different roots of size {old.size}", kind="forked")
        return
    if files is None:
        raise VerificationError("the larger head comes without tiles; name its export or URL", kind="incomplete")
    verify_consistency(old.size, new.size, old.root, new.root, proof(files, old.size, new.size))


def proof(files: Files, old: int, new: int) -> list[bytes]:
    """Return the consistency proof between two sizes from the tiles of the log at the larger one."""
    return [span.root(_Hashes(files, new).subtree) for span in consistency_spans(old, new)]


def root(files: Files, size: int, at: int) -> bytes:
    """Return the root of the first `at` entries from the tiles of a log of `size`, at <= size."""
    return Span(0, at).root(_Hashes(files, size).subtree) if at else EMPTY_ROOT


class _Hashes:
    """The hashes of perfect subtrees, each from a run of hashes of one tile."""

    def __init__(self, files: Files, size: int) -> None:
        self._files, self._size = files, size
        self._read: dict[Tile, Sequence[bytes]] = {}

    def subtree(self, height: int, index: int) -> bytes:
        level, rest = divmod(height, HEIGHT)
        number, start = divmod(index << rest, WIDTH)
        tile = Tile(level, number, tiles.width_at(self._size, level, number))
        if tile not in self._read:
            self._read[tile] = tiles.parse_hashes(tile, read_tile(self._files, tile))
        return perfect_root(self._read[tile][start : start + (1 << rest)])
