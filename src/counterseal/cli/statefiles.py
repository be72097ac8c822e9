"""Small files that survive a crash: written beside, forced to disk, renamed; the folder is forced too."""

import os
from pathlib import Path


def replace_file(file: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Make `file` hold `content`: after a crash at any point it holds that or what it held before, whole."""
    fresh = file.with_name(f".{file.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    fresh.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
