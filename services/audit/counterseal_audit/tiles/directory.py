"""Files that survive a crash: each appears whole or not at all, and what is published never goes back.

    write: temporary file outside of the layout, fsync, rename; then fsync of every directory that was touched
    checkpoint: the same, after everything that it covers

A crash before the checkpoint leaves files that no checkpoint covers yet; the next run writes them again, with the same
bytes. Blocking: runs on a thread of its own.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tiles import CHECKPOINT, Tile

FRESH = ".new"
"""The one temporary file of a log's directory."""


@dataclass(slots=True)
class LogDirectory:
    """One log's directory, written by one process at a time. Raises OSError when the disk does not take a file."""

    root: Path
    _touched: set[Path] = field(default_factory=set)

    def checkpoint(self) -> bytes | None:
        """Return the published checkpoint, None before the first."""
        return self._read(CHECKPOINT)

    def write_tile(self, tile: Tile, content: bytes) -> None:
        """Write a tile or bundle; a full one that is there must be the same for ever."""
        if tile.is_full and (stored := self._read(tile.path)) is not None:
            if stored != content:
                raise VerificationError(f"{tile.path} is full and would change", kind="forked")
            return
        self.write(tile.path, content)

    def write(self, path: str, content: bytes) -> None:
        """Write one file; it is durable after `settle`."""
        target = self.root / path
        self._make(target.parent)
        fresh = self.root / FRESH
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
        self._touched.add(target.parent)

    def link(self, name: str, target: Path) -> None:
        """Make `name` lead to another log's directory beside this one."""
        self._make(self.root)
        if not (self.root / name).is_symlink():
            (self.root / name).symlink_to(target, target_is_directory=True)
            self._touched.add(self.root)

    def settle(self) -> None:
        """Make every rename so far durable."""
        for folder in self._touched:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        self._touched.clear()

    def publish(self, note: bytes) -> None:
        """Make everything written so far durable, then the checkpoint that covers it."""
        self.settle()
        self.write(CHECKPOINT, note)
        self.settle()

    def drop_partials(self, full: Iterable[Tile]) -> None:
        """Delete the partial forms of tiles that are full now; readers fall back to the full ones."""
        for tile in full:
            shutil.rmtree(self.root / f"{tile.path}.p", ignore_errors=True)

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make(folder.parent)
        folder.mkdir(exist_ok=True)
        self._touched.add(folder.parent)

    def _read(self, path: str) -> bytes | None:
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None
