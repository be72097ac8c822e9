"""The tree of a log derived again from its files: every leaf hash, every tile, the root at each size that is wanted.

One pass over the bundles, from the first entry or from where an earlier pass ended; memory holds one bundle and one
tile a level. What does not hold is a finding that names file, entry and byte.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Protocol

from counterseal.ledger import tiles
from counterseal.ledger.checkpoint import Checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.findings import Findings
from counterseal.ledger.tiles import CHECKPOINT, HEIGHT, WIDTH, Tile
from counterseal.ledger.tree import EMPTY_ROOT, HASH_SIZE, Frontier, leaf_hash, perfect_root


class Files(Protocol):
    """The files of one log."""

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, None when there is no such file. Raises VerificationError when it cannot be read."""


OnEntries = Callable[[int, list[bytes], str], None]
"""Takes the entries of one bundle, which hash to their leaves, with the index of the first and the bundle's path."""


@dataclass(slots=True)
class Walk:
    """One pass over the log that `head` claims; `run` returns whether no hole was met.

    start: the tree up to a full bundle that an earlier pass has verified.
    marks: sizes whose roots are wanted in `roots`.
    """

    files: Files
    head: Checkpoint
    findings: Findings
    on_entries: OnEntries
    start: Frontier = field(default_factory=Frontier)
    marks: frozenset[int] = frozenset()
    roots: dict[int, bytes] = field(default_factory=lambda: {0: EMPTY_ROOT})
    full: Frontier = field(init=False)
    """The tree up to the last full bundle: where a later pass can start."""
    is_gapless: bool = True
    """Whether the entries of every bundle so far were there."""

    def __post_init__(self) -> None:
        """Start at `start`."""
        self.full = self.start

    def run(self, on_progress: Callable[[int, int], None] | None = None) -> bool:
        """Derive the tree up to the head and compare it with tiles and head; False when a hole ended it early."""
        size = self.head.size
        upper = _UpperTiles(self._check_tile, self.start.size)
        frontier = self.start
        marks = sorted(mark for mark in self.marks if self.start.size < mark <= size)
        for index in range(self.start.size // WIDTH, (size + WIDTH - 1) // WIDTH):
            bundle = Tile(None, index, min(WIDTH, size - index * WIDTH))
            leaves = self._leaves(bundle, frontier)
            if leaves is None:
                self._missing_subtree()
                return False
            start = frontier.size
            while marks and marks[0] <= start + bundle.width:
                mark = marks.pop(0)
                self.roots[mark] = frontier.extend(leaves[: mark - start]).root()
            frontier = frontier.extend(leaves, upper.on_node, HEIGHT)
            if bundle.is_full:
                self.full = frontier
            if on_progress is not None:
                on_progress(frontier.size, size)
        upper.finish()
        self.roots[size] = frontier.root()
        if self.roots[size] != self.head.root:
            self.findings.add(
                f"the tree of {size} entries has the root {frontier.root().hex()}, signed is {self.head.root.hex()}",
                CHECKPOINT,
            )
        return True

    def _leaves(self, bundle: Tile, frontier: Frontier) -> list[bytes] | None:
        """Return the leaf hashes of one bundle after checking entries and level-0 tile; None if both are absent."""
        tile = Tile(0, bundle.index, bundle.width)
        hashes = self.findings.attempt(tile.path, lambda: self.read_hashes(tile))
        logged = self.findings.attempt(bundle.path, lambda: self.read_entries(bundle))
        if logged is None:
            self.is_gapless = False
            return hashes
        leaves = [leaf_hash(data) for data in logged]
        if hashes is not None and hashes != leaves:
            return self._blame(bundle, tile, logged, leaves, hashes, frontier)
        self.on_entries(bundle.index * WIDTH, logged, bundle.path)
        return leaves

    def _blame(
        self,
        bundle: Tile,
        tile: Tile,
        logged: list[bytes],
        leaves: list[bytes],
        hashes: list[bytes],
        frontier: Frontier,
    ) -> list[bytes]:
        """Say whether entries or tile were altered, by what is above them; return the leaves to go on with."""
        entries_hold = self._holds(leaves, bundle, frontier)
        tile_holds = self._holds(hashes, bundle, frontier)
        offsets = tiles.bundle_offsets(logged)
        for number, (leaf, stored) in enumerate(zip(leaves, hashes, strict=True)):
            if leaf == stored:
                continue
            index = bundle.index * WIDTH + number
            if not entries_hold:
                self.findings.add(
                    f"entry {index} (byte {offsets[number]}, {len(logged[number])} bytes) is not what was logged: "
                    f"its hash is not hash {number} of {tile.path}",
                    bundle.path,
                )
            if not tile_holds:
                at = number * HASH_SIZE + _first_difference(leaf, stored)
                self.findings.add(
                    f"hash {number} is not that of entry {index}: first difference at byte {at}", tile.path
                )
        if entries_hold:
            self.on_entries(bundle.index * WIDTH, logged, bundle.path)
        return leaves if entries_hold else hashes

    def _holds(self, leaves: list[bytes], bundle: Tile, frontier: Frontier) -> bool:
        """Tell whether these leaves lead to what stands above them: the parent tile's hash, else the signed root."""
        end = bundle.index * WIDTH + bundle.width
        if end == self.head.size and frontier.extend(leaves).root() == self.head.root:
            return True
        if not bundle.is_full:
            return False
        above = bundle.index // WIDTH
        parent = Tile(1, above, tiles.width_at(self.head.size, 1, above))
        stored = self.files.read(parent.path) or b""
        at = bundle.index % WIDTH * HASH_SIZE
        return perfect_root(leaves) == stored[at : at + HASH_SIZE]

    def _missing_subtree(self) -> None:
        """After a hole that cannot be bridged: name the other files that are missing, up to the limit."""
        for tile in chain(tiles.tiles_of(self.head.size), tiles.bundles_of(self.head.size)):
            self.findings.attempt(tile.path, partial(read_tile, self.files, tile))
            if self.findings.omitted_count:
                return

    def _check_tile(self, tile: Tile, expected: "list[bytes | None]") -> None:
        hashes = self.findings.attempt(tile.path, lambda: self.read_hashes(tile))
        if hashes is None:
            return
        for number, (stored, own) in enumerate(zip(hashes, expected, strict=True)):
            if own is not None and stored != own:
                at = number * HASH_SIZE + _first_difference(stored, own)
                self.findings.add(
                    f"hash {number} is not the one derived from below: first difference at byte {at}", tile.path
                )

    def read_hashes(self, tile: Tile) -> list[bytes]:
        """Return the hashes of a tile. Raises VerificationError when it is missing or malformed."""
        return tiles.parse_hashes(tile, read_tile(self.files, tile))

    def read_entries(self, bundle: Tile) -> list[bytes]:
        """Return the entries of a bundle. Raises VerificationError when it is missing or malformed."""
        return tiles.parse_bundle(bundle, read_tile(self.files, bundle))


def read_tile(files: Files, tile: Tile) -> bytes:
    """Return the bytes of a tile or bundle. Raises VerificationError, `incomplete` when it is missing."""
    data = files.read(tile.path)
    if data is None and not tile.is_full:
        # tlog-tiles lets a log delete a partial tile once the full one exists.
        full = files.read(Tile(tile.level, tile.index, WIDTH).path)
        data = None if full is None else prefix_of(full, tile)
    if data is None:
        raise VerificationError("the file is missing", kind="incomplete", where=tile.path)
    return data


def check_strays(paths: Iterable[str], files: Files, size: int, findings: Findings) -> None:
    """Older partial tiles are allowed and must be prefixes of the current ones; nothing else is."""
    for path in sorted(paths):
        try:
            stray = tiles.parse_path(path)
        except VerificationError as error:
            findings.note(error.at(path))
            continue
        cover = Tile(stray.level, stray.index, tiles.width_at(size, stray.level, stray.index))
        if stray.width > cover.width:
            findings.add(f"the file lies beyond the checkpoint's {size} entries", path)
        elif stray.width < cover.width:
            whole = files.read(cover.path)
            if whole is not None and files.read(path) != prefix_of(whole, stray):
                findings.add(f"the file is not the beginning of {cover.path}", path)


def prefix_of(whole: bytes, part: Tile) -> bytes | None:
    """Return the bytes of a partial tile, given those of a wider one; None when it does not have as much."""
    if part.level is not None:
        return whole[: part.width * HASH_SIZE]
    at = 0
    for _ in range(part.width):
        if at + 2 > len(whole):
            return None
        at += 2 + int.from_bytes(whole[at : at + 2], "big")
    return whole[:at]


class _UpperTiles:
    """Collects the hashes of levels 1 and up as subtrees become complete, and hands over each tile once.

    Of a tile that an earlier pass began, the hashes that it saw are None: they were compared then.
    """

    def __init__(self, check: "Callable[[Tile, list[bytes | None]], None]", start: int) -> None:
        self._check = check
        self._done: dict[int, int] = {}
        self._pending: dict[int, list[bytes | None]] = {}
        level = 1
        while start >> (HEIGHT * level):
            self._done[level], known = divmod(start >> (HEIGHT * level), WIDTH)
            self._pending[level] = [None] * known
            level += 1

    def on_node(self, height: int, _index: int, node: bytes) -> None:
        level = height // HEIGHT
        hashes = self._pending.setdefault(level, [])
        hashes.append(node)
        if len(hashes) == WIDTH:
            self._flush(level)

    def finish(self) -> None:
        for level in sorted(self._pending):
            if any(self._pending[level]):
                self._flush(level)

    def _flush(self, level: int) -> None:
        hashes = self._pending[level]
        index = self._done.get(level, 0)
        self._check(Tile(level, index, len(hashes)), hashes)
        self._pending[level] = []
        self._done[level] = index + 1


def _first_difference(left: bytes, right: bytes) -> int:
    return next(i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a != b)
