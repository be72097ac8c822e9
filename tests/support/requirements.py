"""Promises have ids, tests name the ids, and both directions are checked by reading sources, not by running them.

`tests/requirements.toml` lists each promise with its source. A test says `@requirement("commit:one-accepted")`; a test
module may say `pytestmark = [requirement("..."), ...]`. `python -m support.requirements` (from `tests/`) writes
`docs/reference/guarantees.md`, which a test holds against this module's output.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
FILE = TESTS / "requirements.toml"
REFERENCE = ROOT / "docs" / "reference" / "guarantees.md"


def requirement(*ids: str) -> pytest.MarkDecorator:
    """Name the promises that a test, a class or a module attacks. Literal ids only: they are read from the source."""
    return pytest.mark.requirement(*ids)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One promise: its id, what is promised, where that is written, and why no test attacks it yet ("" if one does)."""

    id: str
    behaviour: str
    source: str
    deferred: str


@dataclass(frozen=True, slots=True)
class Use:
    """A place that names a promise. test: `tests/store/test_x.py::test_name`, or the module for a `pytestmark`."""

    id: str
    test: str


class RequirementsError(Exception):
    """The file or a use of it is malformed; the text names the place."""


def load(text: str) -> dict[str, Requirement]:
    """Parse requirements.toml. Raises RequirementsError on unknown or missing keys and on ids that occur twice."""
    result: dict[str, Requirement] = {}
    document = tomllib.loads(text)
    if set(document) != {"requirement"}:
        raise RequirementsError(f"unknown tables: {sorted(set(document) - {'requirement'})}")
    for row in document["requirement"]:
        if not {"id", "behaviour", "source"} <= set(row) <= {"id", "behaviour", "source", "deferred"}:
            raise RequirementsError(f"wrong keys in {row}")
        if row.get("deferred") == "" or row["id"] in result:
            raise RequirementsError(f"{row['id']} occurs twice or is deferred without a reason")
        result[row["id"]] = Requirement(row["id"], row["behaviour"], row["source"], row.get("deferred", ""))
    return result


def uses_of(path: str, source: str) -> Iterator[Use]:
    """Yield every promise that one test module names. Raises RequirementsError where an id is not a literal."""
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for decorator in node.decorator_list:
                yield from (Use(id_, f"{path}::{node.name}") for id_ in _ids(path, decorator))
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    for decorator in member.decorator_list:
                        yield from (Use(id_, f"{path}::{node.name}::{member.name}") for id_ in _ids(path, decorator))
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets):
            marks = node.value.elts if isinstance(node.value, (ast.List, ast.Tuple)) else [node.value]
            for mark in marks:
                yield from (Use(id_, path) for id_ in _ids(path, mark))


def names_of(source: str) -> set[str]:
    """Return the names of a module's test functions, those in classes included."""
    functions = (
        node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    return {node.name for node in functions if node.name.startswith("test_")}


def _ids(path: str, node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "requirement":
        for argument in node.args:
            if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                raise RequirementsError(f"{path}:{node.lineno}: ids are literal strings")
            yield argument.value


def all_uses() -> list[Use]:
    """Read every test module of the repository, whether or not this run collects it."""
    modules = sorted(TESTS.rglob("test_*.py"))
    return [use for module in modules for use in uses_of(str(module.relative_to(ROOT)), module.read_text())]


def problems(requirements: Mapping[str, Requirement], uses: list[Use]) -> list[str]:
    """Compare both ways: what tests name exists, what is promised is attacked, what is deferred is not."""
    named = {use.id for use in uses}
    unknown = [
        f"{use.test} names {use.id}, which requirements.toml does not list"
        for use in uses
        if use.id not in requirements
    ]
    missing = [
        f"no test names {item.id}: write one or defer it with a reason"
        for item in requirements.values()
        if not item.deferred and item.id not in named
    ]
    stale = [
        f"{item.id} is deferred, but a test names it: drop the reason"
        for item in requirements.values()
        if item.deferred and item.id in named
    ]
    return unknown + missing + stale


def render(requirements: Mapping[str, Requirement], uses: list[Use]) -> str:
    """Return guarantees.md: every promise with the tests that attack it, or with why there is none yet."""
    lines = [
        "# Guarantees",
        "",
        "Generated from `tests/requirements.toml` by `make guarantees`; do not edit. Each line is a promise and the",
        "tests that try to break it. What has no test is not claimed: it stands below with the reason.",
        "",
        "| promise | source | attacked by |",
        "|---|---|---|",
    ]
    for item in requirements.values():
        if not item.deferred:
            tests = sorted({use.test for use in uses if use.id == item.id})
            lines.append(
                f"| **{item.id}** {item.behaviour} | {item.source} | {'<br>'.join(f'`{test}`' for test in tests)} |"
            )
    open_ones = [item for item in requirements.values() if item.deferred]
    if open_ones:
        lines += ["", "## Not yet claimed", "", "| promise | source | why not yet |", "|---|---|---|"]
        lines += [f"| **{item.id}** {item.behaviour} | {item.source} | {item.deferred} |" for item in open_ones]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the reference; 3 when the two directions do not agree."""
    requirements, uses = load(FILE.read_text()), all_uses()
    found = problems(requirements, uses)
    for problem in found:
        print(problem, file=sys.stderr)  # noqa: T201
    REFERENCE.parent.mkdir(parents=True, exist_ok=True)
    REFERENCE.write_text(render(requirements, uses))
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
