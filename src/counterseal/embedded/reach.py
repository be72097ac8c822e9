"""Places that an unprivileged server process can reach when we run as root.

PostgreSQL refuses to run as root, so a root user's cluster runs as `nobody`. That account cannot enter a directory
below a 0700 parent, such as a clone in root's home; the error it would print (EACCES somewhere in initdb) names
neither the directory nor the cure.
"""

import hashlib
import os
import shutil
import stat
from pathlib import Path

FALLBACK = Path("/var/tmp")  # noqa: S108 (the sticky directory is only the parent; ours below it is 0700)


class Unreachable(RuntimeError):
    """A directory is closed to the account that must use it; the message names it and says what to do."""


def running_as_root() -> bool:
    """Tell whether servers must drop their privileges."""
    return os.geteuid() == 0


def closed_parent(path: Path) -> Path | None:
    """Return the first directory above or at `path` that other accounts cannot enter, or None."""
    for directory in [*reversed(path.resolve().parents), path.resolve()]:
        if directory.exists() and not directory.stat().st_mode & stat.S_IXOTH:
            return directory
    return None


def open_home(wanted: Path) -> Path:
    """Return `wanted`, or, when root's own parent directories hide it from `nobody`, a stable place that is not hidden.

    The place is derived from the wanted path, so that a warm start finds the same cluster again.
    """
    if not running_as_root() or closed_parent(wanted.parent) is None:
        return wanted
    name = hashlib.sha256(os.fsencode(wanted.resolve())).hexdigest()[:16]
    home = FALLBACK / f"counterseal-{name}" / wanted.name
    _own_directory(home.parent)
    blocked = closed_parent(home.parent)
    if blocked is not None:
        raise Unreachable(
            f"PostgreSQL must not run as root, and its stand-in account cannot enter {closed_parent(wanted.parent)} "
            f"or {blocked}: move the data directory, or run as a normal user"
        )
    return home


def reachable_copy(tree: Path, beside: Path) -> Path:
    """Return `tree` itself, or a copy of it below `beside` when other accounts cannot reach it.

    tree: a directory of a wheel whose libraries lie in a sibling `<package>.libs`; both keep their relative places,
    because the binaries find their libraries by `$ORIGIN`.
    """
    if not running_as_root() or closed_parent(tree) is None:
        return tree
    package = tree.parent
    libraries = package.with_name(package.name + ".libs")
    target = beside / package.name / tree.name
    if not target.exists():
        if libraries.exists():
            shutil.copytree(libraries, beside / libraries.name, symlinks=True, dirs_exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(tree, partial, symlinks=True)
        partial.rename(target)
    for directory in (beside, beside / package.name):
        directory.chmod(0o755)
    return target


def _own_directory(path: Path) -> None:
    # Below a world-writable parent somebody else could have made it first: then it is not ours to use.
    path.mkdir(mode=0o711, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise Unreachable(f"{path} belongs to another account: remove it, or move the data directory")
    path.chmod(0o711)
