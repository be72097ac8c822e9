"""Writing an exported log to disk: only files of the layout, whole ones only, the checkpoint last."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

from counterseal.api.audit.v1 import reader_pb2
from counterseal.errors import LogForked
from counterseal.ledger import tiles
from counterseal.ledger.errors import VerificationError

_ROTATION = re.compile(r"rotation/[1-9][0-9]{0,5}")


async def write_export(parts: AsyncIterator[reader_pb2.ExportLogResponse], directory: Path) -> int:
    """Write the pieces that `Person.export` yields and return how many entries the export covers.

    A file appears whole or not at all, and the checkpoint only when everything under it is there, so an interrupted
    export is an older one or none. Raises LogForked when the service sends a path that no log has.
    """
    size = 0
    path = ""
    content = b""
    checkpoint = b""
    async for part in parts:
        size = size or part.size
        if part.path != path:
            _write(directory, path, content)
            path, content = part.path, b""
        content += part.content
        if path == tiles.CHECKPOINT:
            checkpoint = content
    _write(directory, path, content)
    _replace(directory / tiles.CHECKPOINT, checkpoint)
    return size


def _write(directory: Path, path: str, content: bytes) -> None:
    if path in ("", tiles.CHECKPOINT):
        return
    if not _is_of_layout(path):
        raise LogForked("the service sent a file that no log has", path=path[:128])
    _replace(directory / path, content)


def _is_of_layout(path: str) -> bool:
    """Tell whether a log's export may hold this path: below `predecessor/`, the log before it may be told in full."""
    own = path
    while own.startswith("predecessor/"):
        own = own.removeprefix("predecessor/")
    if own == tiles.VKEY or _ROTATION.fullmatch(own) or (own == tiles.CHECKPOINT and own != path):
        return True
    try:
        tiles.parse_path(own)
    except VerificationError:
        return False
    return True


def _replace(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_bytes(content)
    fresh.replace(file)
