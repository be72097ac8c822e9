"""Promises and tests name each other; the published list of guarantees is made from them."""

import pytest

from support.requirements import (
    FILE,
    REFERENCE,
    Requirement,
    RequirementsError,
    Use,
    all_uses,
    load,
    problems,
    render,
    requirement,
    uses_of,
)

LISTED = {
    "a:attacked": Requirement("a:attacked", "A holds.", "I1", ""),
    "b:deferred": Requirement("b:deferred", "B holds.", "I2", "later"),
}
ATTACKED = Use("a:attacked", "tests/unit/test_a.py::test_a")


@requirement("proof:promises-name-tests")
def test_every_promise_is_attacked_or_deferred_and_every_named_promise_is_listed() -> None:
    assert problems(load(FILE.read_text()), all_uses()) == []


@requirement("proof:promises-name-tests")
def test_the_published_guarantees_are_those_of_the_file() -> None:
    assert REFERENCE.read_text() == render(load(FILE.read_text()), all_uses()), "run `make guarantees`"


def test_every_invariant_of_the_architecture_is_in_the_file() -> None:
    sources = " ".join(item.source for item in load(FILE.read_text()).values()).replace(",", " ").split()
    assert {f"I{number}" for number in range(1, 13)} <= set(sources)


def test_every_line_that_the_first_issue_must_show_is_in_the_file() -> None:
    sources = {item.source for item in load(FILE.read_text()).values()}
    for number in range(1, 8):
        assert any(f"issue 2 must-show {number}" in source for source in sources), number


def test_agreeing_files_have_no_problem() -> None:
    assert problems(LISTED, [ATTACKED]) == []


@pytest.mark.parametrize(
    ("uses", "said"),
    [
        ([], "no test names a:attacked"),
        ([ATTACKED, Use("b:deferred", "t")], "b:deferred is deferred, but a test names it"),
        ([ATTACKED, Use("c:invented", "t")], "t names c:invented, which requirements.toml does not list"),
    ],
    ids=["unattacked", "deferral-outlived", "unlisted"],
)
def test_each_way_of_disagreeing_is_reported(uses: list[Use], said: str) -> None:
    (problem,) = problems(LISTED, uses)
    assert said in problem


def test_ids_are_read_from_functions_classes_methods_and_modules_without_running_them() -> None:
    source = """
pytestmark = [pytest.mark.e2e, requirement("m")]
@requirement("f", "g")
async def test_f(): ...
class TestC:
    @requirement("c")
    def test_c(self): ...
"""
    found = {(use.id, use.test) for use in uses_of("t.py", source)}
    assert found == {("m", "t.py"), ("f", "t.py::test_f"), ("g", "t.py::test_f"), ("c", "t.py::TestC::test_c")}


def test_an_id_that_is_not_a_literal_is_refused() -> None:
    with pytest.raises(RequirementsError, match=r"t\.py:1: ids are literal strings"):
        list(uses_of("t.py", "@requirement(NAME)\ndef test_f(): ...\n"))


@pytest.mark.parametrize(
    "text",
    [
        '[[requirement]]\nid = "a"\nbehaviour = "b"\n',
        '[[requirement]]\nid = "a"\nbehaviour = "b"\nsource = "c"\nnote = "d"\n',
        '[[requirement]]\nid = "a"\nbehaviour = "b"\nsource = "c"\ndeferred = ""\n',
        '[[requirement]]\nid = "a"\nbehaviour = "b"\nsource = "c"\n' * 2,
    ],
    ids=["no-source", "unknown-key", "no-reason", "twice"],
)
def test_a_malformed_file_is_refused(text: str) -> None:
    with pytest.raises(RequirementsError):
        load(text)
