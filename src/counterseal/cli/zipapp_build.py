"""The verifier as one file that needs nothing but Python: our own sources, and none that need somebody else's.

The modules are found by their import statements, so what the verifier gains is in the file by itself. An import inside
a function is followed only where all of it is the standard library's: so commands that call services stay out.
"""

import ast
import io
import sys
import zipfile
from collections.abc import Iterable
from importlib import resources

ROOTS = ("counterseal.cli.verifier", "counterseal.cli.audit", "counterseal.cli.explain")
EPOCH = (1980, 1, 1, 0, 0, 0)
_MAIN = b"""import sys

if sys.version_info < (3, 11):
    sys.exit("the verifier needs Python 3.11 or newer")

from counterseal.cli.verifier import main

sys.exit(main())
"""


class NotStandalone(Exception):
    """A module of the verifier needs something that is not in the standard library."""


def build() -> bytes:
    """Return the zip application; the same sources give the same bytes."""
    out = io.BytesIO(b"#!/usr/bin/env python3\n")
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        add(archive, "__main__.py", _MAIN)
        for name, source in sorted(_sources(ROOTS).items()):
            add(archive, name, source)
    return out.getvalue()


def add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a file with no trace of when and where."""
    info = zipfile.ZipInfo(name, EPOCH)
    info.external_attr = 0o644 << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)


def _sources(roots: Iterable[str]) -> dict[str, bytes]:
    """Return path -> source of the roots and all that they import."""
    found: dict[str, bytes] = {}
    for root in roots:
        found |= _closure(root, found)
    return found


def _closure(module: str, known: dict[str, bytes]) -> dict[str, bytes]:
    """Return the sources of a module, its packages and its imports beyond `known`. Raises NotStandalone."""
    taken = dict(known)
    todo: list[str] = [module]
    later: list[str] = []
    while todo or later:
        if not todo:
            # Whatever a function imports comes as a whole or not at all.
            optional = later.pop()
            try:
                taken |= _closure(optional, taken)
            except NotStandalone:
                continue
            continue
        name = todo.pop()
        for part in _packages(name):
            path, source = _read(part)
            if path in taken:
                continue
            taken[path] = source
            always, sometimes = _imports(source)
            for wanted in always:
                if wanted.partition(".")[0] == "counterseal":
                    todo.append(wanted)
                elif wanted.partition(".")[0] not in sys.stdlib_module_names:
                    raise NotStandalone(f"{part} imports {wanted}")
            later += [wanted for wanted in sometimes if wanted.partition(".")[0] == "counterseal"]
    return {path: source for path, source in taken.items() if path not in known}


def _packages(name: str) -> list[str]:
    """Return a module and the packages around it, outermost first; a name inside a module is that module's."""
    parts = name.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts)) if _exists(parts[: n + 1])]


def _exists(parts: list[str]) -> bool:
    return bool(_files(parts))


def _files(parts: list[str]) -> list[str]:
    base = "/".join(parts[1:])
    candidates = [f"{base}.py", f"{base}/__init__.py"] if base else ["__init__.py"]
    root = resources.files("counterseal")
    return [path for path in candidates if root.joinpath(path).is_file()]


def _read(name: str) -> tuple[str, bytes]:
    (path,) = _files(name.split("."))[:1]
    return f"counterseal/{path}", resources.files("counterseal").joinpath(path).read_bytes()


def _imports(source: bytes) -> tuple[list[str], list[str]]:
    """Return what a module imports when it is loaded, and what its functions import; never what only types need."""
    always: list[str] = []
    sometimes: list[str] = []

    def visit(nodes: Iterable[ast.AST], into: list[str]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                into.extend(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                into.extend(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                visit(node.orelse, into)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                visit(ast.iter_child_nodes(node), sometimes)
            else:
                visit(ast.iter_child_nodes(node), into)

    visit(ast.iter_child_nodes(ast.parse(source)), always)
    return always, sometimes
