"""Roots of spans of a tree, out of its tiles: whatever a proof is made of.

A tile is up to 256 consecutive hashes of one level; level L's hashes are the roots of 256^L leaves each. A perfect
subtree of height h lies above 2^(h mod 8) consecutive hashes of level h // 8, all in one tile, so a proof needs a tile
per level, and a second one where the tree ends, whatever its size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from counterseal.errors import InternalError
from counterseal.ledger.tiles import HEIGHT, WIDTH
from counterseal.ledger.tree import EMPTY_ROOT, HASH_SIZE, Span, node_hashes

Place = tuple[int, int]
"""Level, and the number of the tile in it."""


@dataclass(frozen=True, slots=True)
class TileTree:
    """A tile's hashes and every full node above them: `rows[r]` holds, joined, the nodes r levels above the hashes."""

    rows: tuple[bytes, ...]

    @classmethod
    def of(cls, joined: bytes) -> "TileTree":
        """Hash up from a tile's hashes, joined; nodes whose right half is not there are left out."""
        rows = [joined]
        while len(rows[-1]) >= 2 * HASH_SIZE:
            rows.append(node_hashes(rows[-1]))
        return cls(tuple(rows))

    @property
    def width(self) -> int:
        """How many hashes it has; what is there never changes, and up to 256 come behind it."""
        return len(self.rows[0]) // HASH_SIZE

    def node(self, above: int, at: int) -> bytes:
        """Return the `at`-th node so many levels above the tile's hashes. Raises InternalError when it is not there."""
        node = self.rows[above][at * HASH_SIZE : (at + 1) * HASH_SIZE] if above < len(self.rows) else b""
        if len(node) != HASH_SIZE:
            raise InternalError("a stored hash is missing")
        return node

    def root(self, width: int) -> bytes:
        """Return the root of the first `width` hashes. Raises InternalError when one is not there."""
        return Span(0, width).root(self.node)

    def path(self, at: int, width: int) -> list[bytes]:
        """Return the audit path of hash `at` in the tree of the first `width`. Raises InternalError as `root` does."""
        if self.width < width:
            raise InternalError("a stored hash is missing")
        path = []
        for above, row in enumerate(self.rows):
            sibling = at >> above ^ 1
            if (sibling + 1) << above <= width:
                path.append(row[sibling * HASH_SIZE : (sibling + 1) * HASH_SIZE])
            elif sibling << above < width:  # where the tree ends: no full node
                path.append(Span(sibling << above, width).root(self.node))
        return path


def needs_of(spans: Iterable[Span]) -> dict[Place, int]:
    """Return the tiles that the spans' roots are made of, and how many of its first hashes each must have."""
    needs: dict[Place, int] = {}
    for span in spans:
        for height, index in span.perfect_parts():
            place = _place(height, index)
            width = ((index + 1) << height % HEIGHT) - place[1] * WIDTH
            needs[place] = max(width, needs.get(place, 0))
    return needs


class Tiles(Protocol):
    """Tiles by their place."""

    def __getitem__(self, place: Place, /) -> TileTree:
        """Return one. Raises KeyError when it is not there."""


def roots_of(spans: Iterable[Span], tiles: Tiles) -> list[bytes]:
    """Return the root of each span. Raises InternalError when a hash is missing, KeyError when a tile is."""

    def subtree(height: int, index: int) -> bytes:
        level, above = divmod(height, HEIGHT)
        down = HEIGHT - above
        tile = index >> down
        return tiles[level, tile].node(above, index - (tile << down))

    roots = []
    for span in spans:
        width = span.end - span.start
        if width & (width - 1) or span.start & (width - 1):
            roots.append(span.root(subtree))
        else:  # a perfect subtree, as most are: looked up at once, for half the time
            height = width.bit_length() - 1
            roots.append(subtree(height, span.start >> height))
    return roots


def whole(size: int) -> list[Span]:
    """Return the span of a whole tree; none for the empty one."""
    return [Span(0, size)] if size else []


def root_of(roots: Sequence[bytes]) -> bytes:
    """Return the root of a whole tree from the roots of `whole`."""
    return roots[0] if roots else EMPTY_ROOT


def _place(height: int, index: int) -> Place:
    level, above = divmod(height, HEIGHT)
    return level, index >> (HEIGHT - above)
