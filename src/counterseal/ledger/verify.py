"""Verification of a whole log from its files (C2SP tlog-tiles layout plus a one-line `vkey`).

Everything is derived again from the entry bytes: leaf hashes, every tile at every level, the root under the signed
checkpoint, and what the entries say of themselves. Findings name the file, the entry and the byte. One pass, entries
are not kept; memory grows by one id per entry.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Protocol, TypeVar

from counterseal.ledger import entry as entries
from counterseal.ledger import tiles
from counterseal.ledger.checkpoint import Checkpoint, open_checkpoint
from counterseal.ledger.errors import Kind, VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tiles import CHECKPOINT, HEIGHT, VKEY, WIDTH, Tile
from counterseal.ledger.tree import HASH_SIZE, Frontier, leaf_hash, perfect_root

MAX_FINDINGS = 50

_T = TypeVar("_T")


class Source(Protocol):
    """The files of one log."""

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, None when there is no such file."""

    def paths(self) -> Iterable[str]:
        """Return the paths of all files below `tile/`."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was verified and what does not hold; `findings` is empty when everything does."""

    origin: str
    size: int
    root: bytes
    tenant: str
    environment: str
    findings: tuple[VerificationError, ...]
    omitted_count: int = 0

    @property
    def verdict(self) -> Kind | None:
        """The worst kind of finding: forked, else tampered, else incomplete; None when verified."""
        kinds = {finding.kind for finding in self.findings}
        order: tuple[Kind, ...] = ("forked", "tampered", "incomplete")
        return next((kind for kind in order if kind in kinds), None)


OnEntry = Callable[[int, entries.Entry], None]
"""Takes each entry that is well-formed and hashes to its leaf, with its index, in order."""


def verify_log(source: Source, key: VerifierKey, since: bytes | None = None, on_entry: OnEntry | None = None) -> Report:
    """Verify every byte of a log against the pinned `key` and, where given, a checkpoint note kept from before.

    Never raises for what the files hold: everything that does not hold is a finding. What `on_entry` was given counts
    only if the report has no findings.
    """
    return _Verifier(source, key, on_entry).run(since)


@dataclass(slots=True)
class _Verifier:
    source: Source
    key: VerifierKey
    on_entry: OnEntry | None = None
    findings: list[VerificationError] = field(default_factory=list)
    omitted_count: int = 0
    tenant: str = ""
    environment: str = ""
    event_ids: dict[str, int] = field(default_factory=dict)
    streams: dict[str, int] = field(default_factory=dict)
    is_gapless: bool = True

    def run(self, since: bytes | None) -> Report:
        self._check_vkey()
        head = self._attempt(CHECKPOINT, self._open_head)
        kept = self._attempt("the kept checkpoint", lambda: self._open_kept(since)) if since is not None else None
        if head is None:
            return self._report(Checkpoint(self.key.name, 0, b""))
        if kept is not None and kept.size > head.size:
            self._add(
                f"the log was cut: the kept checkpoint covers {kept.size} entries, this copy only {head.size}",
                CHECKPOINT,
            )
            kept = None
        root = self._walk(head, kept)
        if root != head.root:
            self._add(
                f"the tree of {head.size} entries has the root {root.hex()}, signed is {head.root.hex()}", CHECKPOINT
            )
        self._check_strays(head.size)
        return self._report(head)

    # --- the signed head ---

    def _check_vkey(self) -> None:
        """The file is a convenience beside the log (C2SP knows none): it may be absent, but it must not mislead."""
        data = self.source.read(VKEY)
        if data is not None and data.removesuffix(b"\n") != self.key.vkey.encode():
            self._add("the file does not hold the pinned key", VKEY)

    def _open_head(self) -> Checkpoint:
        data = self.source.read(CHECKPOINT)
        if data is None:
            raise VerificationError("the file is missing", kind="incomplete")
        return open_checkpoint(data, [self.key])

    def _open_kept(self, since: bytes | None) -> Checkpoint:
        return open_checkpoint(since or b"", [self.key])

    # --- the tree ---

    def _walk(self, head: Checkpoint, kept: Checkpoint | None) -> bytes:
        """Recompute the tree from the entries, comparing every tile on the way; return its root."""
        frontier = Frontier()
        upper = _UpperTiles(self._check_tile)
        for bundle in tiles.bundles_of(head.size):
            start = bundle.index * WIDTH
            leaves = self._leaves(bundle, head, frontier)
            if leaves is None:
                self.is_gapless = False
                self._missing_subtree(head.size)
                return head.root
            if kept is not None and start < kept.size <= start + bundle.width:
                root = frontier.extend(leaves[: kept.size - start]).root()
                if root != kept.root:
                    self._add(
                        f"the first {kept.size} entries are not those of the kept checkpoint: two histories of one log",
                        CHECKPOINT,
                        "forked",
                    )
            frontier = frontier.extend(leaves, upper.on_node)
        upper.finish()
        return frontier.root()

    def _leaves(self, bundle: Tile, head: Checkpoint, frontier: Frontier) -> list[bytes] | None:
        """Return the leaf hashes of one bundle after checking entries and level-0 tile; None if both are absent."""
        tile = Tile(0, bundle.index, bundle.width)
        hashes = self._attempt(tile.path, lambda: self._read_hashes(tile))
        logged = self._attempt(bundle.path, lambda: self._read_entries(bundle))
        if logged is None:
            self.is_gapless = False
            return hashes
        leaves = [leaf_hash(data) for data in logged]
        if hashes is not None and hashes != leaves:
            return self._blame(bundle, tile, logged, leaves, hashes, head, frontier)
        self._check_entries(bundle.index * WIDTH, logged, bundle.path)
        return leaves

    def _blame(
        self,
        bundle: Tile,
        tile: Tile,
        logged: list[bytes],
        leaves: list[bytes],
        hashes: list[bytes],
        head: Checkpoint,
        frontier: Frontier,
    ) -> list[bytes]:
        """Say whether entries or tile were altered, by what is above them; return the leaves to go on with."""
        entries_hold = self._holds(leaves, bundle, head, frontier)
        tile_holds = self._holds(hashes, bundle, head, frontier)
        offsets = tiles.bundle_offsets(logged)
        for number, (leaf, stored) in enumerate(zip(leaves, hashes, strict=True)):
            if leaf == stored:
                continue
            index = bundle.index * WIDTH + number
            if not entries_hold:
                self._add(
                    f"entry {index} (byte {offsets[number]}, {len(logged[number])} bytes) is not what was logged: "
                    f"its hash is not hash {number} of {tile.path}",
                    bundle.path,
                )
            if not tile_holds:
                at = number * HASH_SIZE + _first_difference(leaf, stored)
                self._add(f"hash {number} is not that of entry {index}: first difference at byte {at}", tile.path)
        if entries_hold:
            self._check_entries(bundle.index * WIDTH, logged, bundle.path)
        return leaves if entries_hold else hashes

    def _holds(self, leaves: list[bytes], bundle: Tile, head: Checkpoint, frontier: Frontier) -> bool:
        """Tell whether these leaves lead to what stands above them: the parent tile's hash, else the signed root."""
        if (bundle.index * WIDTH) + bundle.width == head.size and frontier.extend(leaves).root() == head.root:
            return True
        if not bundle.is_full:
            return False
        above = bundle.index // WIDTH
        parent = Tile(1, above, tiles.width_at(head.size, 1, above))
        stored = self.source.read(parent.path) or b""
        at = bundle.index % WIDTH * HASH_SIZE
        return perfect_root(leaves) == stored[at : at + HASH_SIZE]

    def _missing_subtree(self, size: int) -> None:
        """After a hole that cannot be bridged: name the other files that are missing, up to the limit."""
        for tile in chain(tiles.tiles_of(size), tiles.bundles_of(size)):
            if self.source.read(tile.path) is None:
                self._add("the file is missing", tile.path, "incomplete")
            if self.omitted_count:
                return

    def _check_tile(self, tile: Tile, expected: list[bytes]) -> None:
        hashes = self._attempt(tile.path, lambda: self._read_hashes(tile))
        if hashes is None:
            return
        for number, (stored, own) in enumerate(zip(hashes, expected, strict=True)):
            if stored != own:
                at = number * HASH_SIZE + _first_difference(stored, own)
                self._add(f"hash {number} is not the one derived from below: first difference at byte {at}", tile.path)

    def _read_hashes(self, tile: Tile) -> list[bytes]:
        return tiles.parse_hashes(tile, self._read(tile))

    def _read_entries(self, bundle: Tile) -> list[bytes]:
        return tiles.parse_bundle(bundle, self._read(bundle))

    def _read(self, tile: Tile) -> bytes:
        data = self.source.read(tile.path)
        if data is None and not tile.is_full:
            # tlog-tiles lets a log delete a partial tile once the full one exists.
            full = self.source.read(Tile(tile.level, tile.index, WIDTH).path)
            data = None if full is None else _prefix(full, tile)
        if data is None:
            raise VerificationError("the file is missing", kind="incomplete", where=tile.path)
        return data

    def _check_strays(self, size: int) -> None:
        """Older partial tiles are allowed and must be prefixes of the current ones; nothing else is."""
        for path in sorted(self.source.paths()):
            try:
                stray = tiles.parse_path(path)
            except VerificationError as error:
                self._note(error.at(path))
                continue
            cover = Tile(stray.level, stray.index, tiles.width_at(size, stray.level, stray.index))
            if stray.width > cover.width:
                self._add(f"the file lies beyond the checkpoint's {size} entries", path)
            elif stray.width < cover.width:
                whole = self.source.read(cover.path)
                if whole is not None and self.source.read(path) != _prefix(whole, stray):
                    self._add(f"the file is not the beginning of {cover.path}", path)

    # --- the entries ---

    def _check_entries(self, start: int, logged: list[bytes], path: str) -> None:
        for number, data in enumerate(logged):
            index = start + number
            where = f"{path}, entry {index}"
            entry = self._attempt(where, partial(entries.parse, data))
            if entry is not None:
                self._check_entry(index, entry, where)
                if self.on_entry is not None:
                    self.on_entry(index, entry)

    def _check_entry(self, index: int, entry: entries.Entry, where: str) -> None:
        if index == 0:
            self.tenant, self.environment = entry.tenant, entry.environment
            if entry.type != entries.GENESIS:
                self._add("the first entry is not log.genesis", where)
            elif entry.data["vkey"] != self.key.vkey:
                self._add("the genesis entry names another key than the pinned one", where)
        elif entry.type == entries.GENESIS:
            self._add("a second log.genesis", where)
        if self.tenant and (entry.tenant, entry.environment) != (self.tenant, self.environment):
            self._add(
                f"the entry is of {entry.tenant}/{entry.environment}, the log of {self.tenant}/{self.environment}",
                where,
            )
        earlier = self.event_ids.setdefault(entry.event_id, index)
        if earlier != index:
            self._add(f"the event id {entry.event_id} is that of entry {earlier}", where)
        if entry.stream and self.is_gapless:
            due = self.streams.get(entry.stream, 0) + 1
            if entry.seq != due:
                self._add(f"{entry.stream} goes on with seq {entry.seq} where {due} is due", where)
            self.streams[entry.stream] = entry.seq

    # --- findings ---

    def _attempt(self, where: str, read: Callable[[], _T]) -> _T | None:
        """Return what `read` returns; turn what it raises into a finding."""
        try:
            return read()
        except VerificationError as error:
            self._note(error.at(where))
            return None

    def _add(self, message: str, where: str, kind: Kind = "tampered") -> None:
        self._note(VerificationError(message, kind=kind, where=where))

    def _note(self, finding: VerificationError) -> None:
        if any((f.where, f.message) == (finding.where, finding.message) for f in self.findings):
            return
        worse = finding.kind != "incomplete" and all(f.kind == "incomplete" for f in self.findings)
        if len(self.findings) < MAX_FINDINGS or worse:  # the verdict never depends on the cut
            self.findings.append(finding)
        else:
            self.omitted_count += 1

    def _report(self, head: Checkpoint) -> Report:
        return Report(
            head.origin,
            head.size,
            head.root,
            self.tenant,
            self.environment,
            tuple(self.findings),
            self.omitted_count,
        )


@dataclass(slots=True)
class _UpperTiles:
    """Collects the hashes of levels 1 and up as subtrees become complete, and hands over each tile once."""

    check: Callable[[Tile, list[bytes]], None]
    pending: dict[int, list[bytes]] = field(default_factory=dict)
    done: dict[int, int] = field(default_factory=dict)

    def on_node(self, height: int, _index: int, node: bytes) -> None:
        level, rest = divmod(height, HEIGHT)
        if rest:
            return
        hashes = self.pending.setdefault(level, [])
        hashes.append(node)
        if len(hashes) == WIDTH:
            self._flush(level)

    def finish(self) -> None:
        for level in sorted(self.pending):
            if self.pending[level]:
                self._flush(level)

    def _flush(self, level: int) -> None:
        hashes = self.pending[level]
        index = self.done.get(level, 0)
        self.check(Tile(level, index, len(hashes)), hashes)
        self.pending[level] = []
        self.done[level] = index + 1


def _first_difference(left: bytes, right: bytes) -> int:
    return next(i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a != b)


def _prefix(whole: bytes, part: Tile) -> bytes | None:
    """Return the bytes of a partial tile, given those of a wider one; None when it does not have as much."""
    if part.level is not None:
        return whole[: part.width * HASH_SIZE]
    at = 0
    for _ in range(part.width):
        if at + 2 > len(whole):
            return None
        at += 2 + int.from_bytes(whole[at : at + 2], "big")
    return whole[:at]
