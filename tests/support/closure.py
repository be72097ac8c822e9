"""Finds traces of Rust in installed distributions: who built a wheel, and what its ELF files carry."""

from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

RUST_BUILDERS = ("maturin", "setuptools-rust", "setuptools_rust", "puccinialin")
"""Wheel generators that exist to compile Rust. setuptools-rust names itself setuptools: that is what marks are for."""

RUST_MARKS = (
    b"/rustc/",  # source paths of the standard library in panic messages; they survive strip
    b"rustc version ",  # the .comment section
    b"rust_eh_personality",
    b"rust_begin_unwind",
    b"library/core/src/panicking.rs",
    b"library/std/src/panicking.rs",
    b"RUST_BACKTRACE",  # read by every binary that links std
)
_CHUNK = 1 << 22
_OVERLAP = max(len(mark) for mark in RUST_MARKS) - 1


@dataclass(frozen=True, slots=True)
class Report:
    """What one environment holds: distributions by name, ELF files by path, and the reasons why it is not Rust-free."""

    distributions: dict[str, str]  # name -> Generator of its WHEEL file
    elf_files: tuple[str, ...]
    findings: tuple[str, ...]


def inspect_site(site: Path, ignore: frozenset[str] = frozenset()) -> Report:
    """Read every `*.dist-info/WHEEL` and every ELF file below `site`; distributions named in `ignore` are skipped.

    ignore: names of distributions that belong to the environment and not to us, such as pip.
    """
    distributions: dict[str, str] = {}
    findings: list[str] = []
    for info in sorted(site.glob("*.dist-info")):
        name = _header(info / "METADATA", "Name").lower().replace("_", "-")
        if name in ignore:
            continue
        generator = _header(info / "WHEEL", "Generator")
        distributions[name] = generator
        if any(builder in generator.lower() for builder in RUST_BUILDERS):
            findings.append(f"{name}: built by {generator}")
    elf_files = tuple(elf_files_below(site))
    findings += [f"{path}: carries {mark.decode()!r}" for path in elf_files if (mark := rust_mark(site / path))]
    return Report(distributions, elf_files, tuple(findings))


def elf_files_below(root: Path) -> Iterator[str]:
    """Yield the paths, relative to `root`, of regular files that start with the ELF magic, whatever their names."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield str(path.relative_to(root))


def rust_mark(path: Path) -> bytes | None:
    """Return the first mark of rustc found in a file, or None. Reads in pieces: servers are hundreds of megabytes."""
    tail = b""
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            window = tail + piece
            for mark in RUST_MARKS:
                if mark in window:
                    return mark
            tail = window[-_OVERLAP:]
    return None


def _header(path: Path, name: str) -> str:
    return HeaderParser().parsestr(path.read_text(encoding="utf-8"), headersonly=True).get(name, "")
