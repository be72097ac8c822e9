"""The layout of a log's files (C2SP tlog-tiles.md): paths, hash tiles and entry bundles.

One pure description for the writer and the verifier: `tiles_of` and `bundles_of` name every file that a tree of a
size has, and nothing else does.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tree import HASH_SIZE

WIDTH = 256
HEIGHT = 8
MAX_ENTRY = 0xFFFF

CHECKPOINT = "checkpoint"
VKEY = "vkey"


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of `width` (1 to 256) consecutive hashes or entries: the `index`-th of its `level`, None for entries."""

    level: int | None
    index: int
    width: int

    @property
    def is_full(self) -> bool:
        """Whether the tile will never change again."""
        return self.width == WIDTH

    @property
    def path(self) -> str:
        """The tile's path below the log's prefix, such as `tile/0/x001/x234/067` or `tile/entries/000.p/12`."""
        level = "entries" if self.level is None else str(self.level)
        suffix = "" if self.is_full else f".p/{self.width}"
        return f"tile/{level}/{_index_path(self.index)}{suffix}"


def tiles_of(size: int) -> Iterator[Tile]:
    """Yield every hash tile of a tree of `size` leaves, level by level."""
    level = 0
    while size:
        yield from _row(level, size)
        size >>= HEIGHT
        level += 1


def bundles_of(size: int) -> Iterator[Tile]:
    """Yield every entry bundle of a tree of `size` leaves."""
    return _row(None, size)


def width_at(size: int, level: int | None, index: int) -> int:
    """Return how wide the `index`-th tile of `level` (None: entries) is in a tree of `size` leaves; 0: not there."""
    count = size >> (HEIGHT * (level or 0))
    return max(0, min(WIDTH, count - index * WIDTH))


def parse_hashes(tile: Tile, data: bytes) -> list[bytes]:
    """Return the hashes of a tile. Raises VerificationError when its length is not `width` times 32 bytes."""
    if len(data) != tile.width * HASH_SIZE:
        raise VerificationError(
            f"a tile of {tile.width} hashes has {tile.width * HASH_SIZE} bytes, this one {len(data)}", where=tile.path
        )
    return [data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)]


def bundle(entries: Iterable[bytes]) -> bytes:
    """Return the bytes of an entry bundle: each entry after its length as a big-endian uint16."""
    out = bytearray()
    for entry in entries:
        if len(entry) > MAX_ENTRY:
            raise VerificationError(f"an entry of {len(entry)} bytes does not fit a bundle")
        out += len(entry).to_bytes(2, "big") + entry
    return bytes(out)


def parse_bundle(tile: Tile, data: bytes) -> list[bytes]:
    """Return the entries of a bundle. Raises VerificationError, naming entry and byte, when it does not add up."""
    entries: list[bytes] = []
    at = 0
    first = tile.index * WIDTH
    for number in range(tile.width):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if end > len(data):
            raise VerificationError(f"entry {first + number} at byte {at} runs past the file's end", where=tile.path)
        entries.append(data[at + 2 : end])
        at = end
    if at != len(data):
        raise VerificationError(f"{len(data) - at} bytes follow the last entry, from byte {at}", where=tile.path)
    return entries


def bundle_offsets(entries: Sequence[bytes]) -> list[int]:
    """Return the byte at which each entry of a bundle starts, after its length prefix."""
    offsets = []
    at = 0
    for entry in entries:
        offsets.append(at + 2)
        at += 2 + len(entry)
    return offsets


def parse_path(path: str) -> Tile:
    """Read a tile's path. Raises VerificationError unless it is the one spelling that `Tile.path` gives."""
    parts = path.split("/")
    width = WIDTH
    if len(parts) > 3 and parts[-2].endswith(".p"):
        width = _number(parts.pop())
        parts[-1] = parts[-1].removesuffix(".p")
    if len(parts) < 3 or parts[0] != "tile":
        raise VerificationError("not the path of a tile", where=path)
    level = None if parts[1] == "entries" else _number(parts[1])
    index = _number("".join(part.removeprefix("x") for part in parts[2:]).lstrip("0") or "0")
    tile = Tile(level, index, width)
    if tile.path != path or not 1 <= width <= WIDTH or (level or 0) > 63:
        raise VerificationError("not the path of a tile", where=path)
    return tile


def _row(level: int | None, count: int) -> Iterator[Tile]:
    for index in range(count >> HEIGHT):
        yield Tile(level, index, WIDTH)
    if count % WIDTH:
        yield Tile(level, count >> HEIGHT, count % WIDTH)


def _index_path(index: int) -> str:
    parts = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        parts.append(f"x{index % 1000:03d}")
    return "/".join(reversed(parts))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 20:
        raise VerificationError("not the path of a tile")
    return int(text)
