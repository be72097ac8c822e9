"""Which files a new checkpoint adds to a log's directory, and whether the new history goes on from the old. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from counterseal.ledger import tiles
from counterseal.ledger.checkpoint import Checkpoint, parse_text
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import split
from counterseal.ledger.tiles import HEIGHT, WIDTH, Tile


@dataclass(frozen=True, slots=True)
class Place:
    """A tile's place, and every width in which it must be there, the widest last."""

    level: int | None
    index: int
    widths: tuple[int, ...]

    @property
    def tiles(self) -> Iterable[Tile]:
        """The files, narrowest first."""
        return [Tile(self.level, self.index, width) for width in self.widths]


def places(old: int, sizes: Sequence[int]) -> list[Place]:
    """Return what must be written to go from a tree of `old` entries to the last of `sizes`.

    sizes: of every checkpoint that was published after `old`, ascending: clients may hold any of them, so each needs
    its partial tiles, unless the full tile is there by now (C2SP tlog-tiles, "Partial Tiles").
    """
    new = sizes[-1]
    found: dict[tuple[int | None, int], set[int]] = {}
    for level in (None, *range(_levels(new))):
        height = HEIGHT * ((level or 0) + 1)
        for index in range(old >> height, new >> height):
            found[level, index] = {WIDTH}
    for size in sizes:
        for tile in _partials(size):
            if tiles.width_at(new, tile.level, tile.index) < WIDTH:
                found.setdefault((tile.level, tile.index), set()).add(tile.width)
    ordered = sorted(found, key=lambda place: (-1 if place[0] is None else place[0], place[1]))
    return [Place(level, index, tuple(sorted(found[level, index]))) for level, index in ordered]


def head_of(note: bytes) -> Checkpoint:
    """Return what a checkpoint in the directory says. Raises VerificationError; signatures are not looked at."""
    return parse_text(split(note)[0])


def _levels(size: int) -> int:
    return -(-size.bit_length() // HEIGHT)


def _partials(size: int) -> Iterable[Tile]:
    for level in (None, *range(_levels(size))):
        count = size >> (HEIGHT * (level or 0))
        if count % WIDTH:
            yield Tile(level, count >> HEIGHT, count % WIDTH)


def check_next(old: Checkpoint, origin: str, size: int) -> None:
    """Raise VerificationError when a directory is another log's, or ahead of what is published now."""
    if old.origin != origin:
        raise VerificationError(f"the directory holds the log {old.origin}", kind="forked")
    if old.size > size:
        raise VerificationError(
            f"the directory's checkpoint covers {old.size} entries, the newest in the database only {size}",
            kind="forked",
        )
