"""Proofs from stored hashes: which rows a proof needs, and the proof once they are there.

A perfect subtree of height h is made of 2^(h mod 8) consecutive hashes of tile level h // 8, so a proof needs at most
255 rows per level, whatever the size of the tree.
"""

from collections.abc import Iterable, Mapping, Sequence

from counterseal.errors import InternalError
from counterseal.ledger.tiles import HEIGHT
from counterseal.ledger.tree import EMPTY_ROOT, Span, perfect_root

Hashes = Mapping[tuple[int, int], bytes]


def ranges_for(spans: Iterable[Span]) -> list[tuple[int, int, int]]:
    """Return the ranges (tile level, first hash, count) that the spans' hashes are made of."""
    return [_range(height, index) for span in spans for height, index in span.perfect_parts()]


def roots_of(spans: Sequence[Span], hashes: Hashes, known: dict[tuple[int, int], bytes] | None = None) -> list[bytes]:
    """Return the hash of each span. Raises InternalError when a row is missing.

    known: subtrees by (height, index) that were computed before; proofs of neighbours share most of theirs.
    """
    done = known if known is not None else {}

    def subtree(height: int, index: int) -> bytes:
        if (height, index) not in done:
            done[height, index] = _subtree(height, index, hashes)
        return done[height, index]

    return [span.root(subtree) for span in spans]


def whole(size: int) -> list[Span]:
    """Return the span of a whole tree; none for the empty one."""
    return [Span(0, size)] if size else []


def root_of(size: int, hashes: Hashes) -> bytes:
    """Return the root of the first `size` leaves."""
    return roots_of(whole(size), hashes)[0] if size else EMPTY_ROOT


def _range(height: int, index: int) -> tuple[int, int, int]:
    level, rest = divmod(height, HEIGHT)
    return level, index << rest, 1 << rest


def _subtree(height: int, index: int, hashes: Hashes) -> bytes:
    level, start, count = _range(height, index)
    try:
        return perfect_root([hashes[level, start + offset] for offset in range(count)])
    except KeyError:
        raise InternalError("a stored hash is missing", level=level, start=start) from None
