"""Runs the tests of a file as plain functions: no collection, no plugins, so that a mutant costs little.

Enough of pytest for pure unit tests: parametrize marks, skips, and the examples of hypothesis. A test that wants a
fixture is left out. Cheap tests come first: most mutants die there.
"""

import importlib.util
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from _pytest.outcomes import Skipped


def run(files: Sequence[Path]) -> None:
    """Run every test; the first failure comes out as the exception that it is."""
    tests = [test for file in files for test in _tests(file)]
    for test in sorted(tests, key=lambda test: hasattr(test, "hypothesis")):
        for arguments in _arguments(test):
            try:
                test(**arguments)
            except Skipped:
                continue


def _tests(file: Path) -> list[Callable[..., Any]]:
    spec = importlib.util.spec_from_file_location(f"mutation_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [one for name, one in vars(module).items() if name.startswith("test_") and callable(one)]


def _arguments(test: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Yield the arguments of each call of a test; none when it wants a fixture."""
    axes: list[list[dict[str, Any]]] = []
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "parametrize":
            names, values = mark.args[0], mark.args[1]
            listed = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
            axes.append([_bound(listed, value) for value in values])
    found = [dict(itertools.chain.from_iterable(one.items() for one in point)) for point in itertools.product(*axes)]
    needed = set() if hasattr(test, "hypothesis") else set(inspect.signature(test).parameters)
    return iter([one for one in found if hasattr(test, "hypothesis") or needed == set(one)])


def _bound(names: Sequence[str], value: Any) -> dict[str, Any]:
    values = getattr(value, "values", value) if type(value).__name__ == "ParameterSet" else value
    return {names[0]: values} if len(names) == 1 else dict(zip(names, values, strict=True))
