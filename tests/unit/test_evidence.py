"""Evidence pages name tests that exist, commands that exist, and leave out no line of what has to be shown."""

import re
from pathlib import Path

import pytest

from support.requirements import ROOT, names_of, requirement

PAGES = sorted((ROOT / "docs" / "evidence").glob("*.md"))
AUDIT = ROOT / "docs" / "evidence" / "audit.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
LONG = re.compile(r"`(tests/[\w/]+\.py)::(\w+)` \*")


@requirement("proof:promises-name-tests")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    missing = [
        f"{path}::{name}"
        for path, name in TEST.findall(page.read_text())
        if not (ROOT / path).exists() or (name and name not in names_of((ROOT / path).read_text()))
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][a-z0-9-]+)", page.read_text())) <= targets


def test_no_claim_scenario_or_crash_point_is_left_out() -> None:
    text = AUDIT.read_text()
    claims = re.split(r"^### (\d+)\. ", text, flags=re.MULTILINE)
    assert claims[1::2] == [str(number) for number in range(1, 17)]
    assert all(TEST.search(claim) for claim in claims[2::2]), "a claim without a test"
    scenarios = text.partition("## Scenarios")[2].partition("## ")[0]
    assert {int(number) for number in re.findall(r"^\| (\d+) ", scenarios, re.MULTILINE)} == set(range(1, 18))
    points = text.partition("## Crash points")[2].partition("## ")[0]
    words = [
        "enqueue",
        "statement",
        "answer",
        "lease",
        "anchor",
        "signature",
        "tile",
        "row",
        "file",
        "ordered",
        "deleted",
        "erased",
    ]
    assert [word for word in words if word not in points] == []


def test_tests_that_are_said_to_be_long_are() -> None:
    """A star is what a reader goes by who wonders why `make test` did not run it."""
    said = set(LONG.findall(AUDIT.read_text()))
    named = {(path, name) for path, name in TEST.findall(AUDIT.read_text()) if name}
    slow = {(path, name) for path, name in named if is_slow((ROOT / path).read_text(), name)}
    assert said == slow


def is_slow(source: str, name: str) -> bool:
    if re.search(r"^pytestmark = .*mark\.slow", source, re.MULTILINE):
        return True
    decorators = re.search(rf"((?:^@.*\n(?:^[ )].*\n)*)*)^(?:async )?def {name}\(", source, re.MULTILINE)
    return decorators is not None and "@pytest.mark.slow" in decorators[1]  # of the whole test, not of one case
