"""`make mutation`: change one thing at a time in the code that verdicts rest on, and see a test fail.

Each mutant runs the unit tests beside its module in a child process; a mutant that no test notices survives. Survivors
that cannot change a verdict are listed in `equivalent.toml` with the reason; any other makes this exit with 1. The
report is docs/evidence/mutation.md. Only tests that live in this repository count: the vectors of ../shared are not
shown to them. With `--resume`, mutants that were killed before (build/mutation/) are not run again as long as their
source is the same: tests are only ever added.
"""

import argparse
import ast
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType

import hypothesis
from tools.mutation import report, runner
from tools.mutation.mutants import Mutant, mutants
from tools.mutation.targets import TARGETS, UNIT

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
REPORT = ROOT / "docs" / "evidence" / "mutation.md"
KILLED = ROOT / "build" / "mutation"
MORE = 4
"""A loop without end is noticed by whoever waits: how often the processor's time of the unchanged source a child has.
Not the clock's time: a slow machine must not pass for a test."""

MEMORY_BYTES = 2 << 30
"""Of a child's address space: such a loop often fills a list."""

PRELOADED = ("hypothesis.strategies", "nacl.signing", "pytest", "asyncio", "zipfile")
"""What tests import and no mutant changes."""


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from a changed tree."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        super().__init__(name, path)
        self._tree = tree

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._tree, self.get_filename(fullname), "exec")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module in its changed form and leaves all others to whoever finds them."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self._name, self._path, self._tree = name, path, tree

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname != self._name:
            return None
        loader = _Loader(fullname, str(self._path), self._tree)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


@dataclass
class Result:
    """What became of the mutants of one source."""

    count: int = 0
    killed: int = 0
    survivors: list[Mutant] = field(default_factory=list)


class Killed:
    """Which mutants of a source an earlier run killed; a file each, so that several may run at once."""

    def __init__(self, path: str, words: Sequence[str], *, resume: bool) -> None:
        said = "\n".join(words).encode()  # another set of changes gives other numbers
        digest = hashlib.sha256((ROOT / path).read_bytes() + said).hexdigest()[:16]
        self._file = KILLED / f"{Path(path).stem}-{digest}"
        KILLED.mkdir(parents=True, exist_ok=True)
        if not resume:
            self._file.unlink(missing_ok=True)
        self._file.touch()

    def numbers(self) -> set[int]:
        """Return the numbers of the mutants that are known to be killed."""
        return {int(line) for line in self._file.read_text().split()}

    def add(self, number: int) -> None:
        """Remember one more."""
        with self._file.open("a") as opened:
            opened.write(f"{number}\n")


def run(path: str, jobs: int, *, resume: bool) -> Result:
    """Run every mutant of one source."""
    name, tests = TARGETS[path]
    files = [str(ROOT / UNIT / test) for test in tests]
    source = (ROOT / path).read_text(encoding="utf-8")
    _, status, used = os.wait4(_start(name, ROOT / path, ast.parse(source), files), 0)
    if status != 0:
        sys.exit(f"{path}: the tests fail without any mutant")
    seconds = 2 + int(MORE * (used.ru_utime + used.ru_stime))
    found = list(enumerate(mutants(source)))
    killed = Killed(path, [mutant.what for _, mutant in found], resume=resume)
    known = killed.numbers()
    queue = [one for one in found if one[0] not in known]
    result = Result(len(found), len(found) - len(queue))
    running: dict[int, tuple[int, Mutant]] = {}
    while queue or running:
        while queue and len(running) < jobs:
            number, mutant = queue.pop(0)
            running[_start(name, ROOT / path, mutant.tree, files, seconds)] = (number, mutant)
        pid, status = os.wait()
        number, mutant = running.pop(pid)
        if os.waitstatus_to_exitcode(status) == 0:
            result.survivors.append(mutant)
            print(f"  survived: {path}:{mutant.line}: {mutant.what}", flush=True)
        else:
            result.killed += 1
            killed.add(number)
    return result


def _start(name: str, path: Path, tree: ast.Module, files: Sequence[str], seconds: int = -1) -> int:
    """Run the tests in a child that sees the changed module; it exits with 0 if none of them fails."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        sys.meta_path.insert(0, _Finder(name, path, tree))
        os.chdir(ROOT)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))  # -1: no limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        runner.run([Path(file) for file in files])
        code = 0
    except BaseException:  # noqa: BLE001 (whatever a mutant raises, the parent is told by the exit code)
        code = 1
    finally:
        os._exit(code)


def main() -> int:
    """Run the chosen sources and write the report."""
    parser = argparse.ArgumentParser(prog="tools.mutation", description=__doc__)
    parser.add_argument("sources", nargs="*", help="default: all; some of them write no report")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    os.environ["COUNTERSEAL_SHARED"] = str(KILLED)  # none of the vectors is there
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    for name in PRELOADED:  # once, before the children
        importlib.import_module(name)
    # No deadline: a slow machine must not pass for a test that noticed. The same examples for every mutant.
    hypothesis.settings.register_profile("mutation", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutation")
    known = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("equivalent", [])
    rows, bad = [], 0
    for path in args.sources or TARGETS:
        result = run(path, args.jobs, resume=args.resume)
        reasons = {one["what"]: one["reason"] for one in known if one["source"] == path}
        row = report.Row(path, result.count, [(one.what, reasons.pop(one.what, "")) for one in result.survivors])
        for what in reasons:  # it was killed, or the line is not there any more: the list must not excuse too much
            print(f"  listed as equivalent, but no survivor: {path}: {what}", flush=True)
        bad += row.unexplained + len(reasons)
        rows.append(row)
        print(f"{path}: {result.count} mutants, {result.killed} killed, {row.unexplained} unexplained", flush=True)
    if not args.sources:
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_text(report.page(rows, resumed=args.resume), encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
