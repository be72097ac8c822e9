"""Policy files mean the same to every reader, or they are refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.canonical import digest
from counterseal_policy.rules.errors import PolicyFileError
from counterseal_policy.rules.files import matches, parse_file
from counterseal_policy.rules.yaml import load


def test_words_that_other_loaders_turn_into_booleans_and_times_stay_text() -> None:
    assert load(b"on: 15:30\noff: yes\ndate: 2026-11-22\nversion: 3.2.1\nbase: 0b\n", "f") == {
        "on": "15:30",
        "off": "yes",
        "date": "2026-11-22",
        "version": "3.2.1",
        "base": "0b",
    }


@pytest.mark.parametrize(
    "text",
    [
        b"a: 1\na: 2",
        b"a: &x 1\nb: *x",
        b"a: &x 1",
        b"a: !!int '1'",
        b"a: ! x",
        b"<<: {a: 1}",
        b"a: 1\n---\nb: 1",
        b"%YAML 1.1\n---\na: 1",
        b"a: 1.5",
        b"a: 1_000",
        b"a: 0x1f",
        b"a: 010",
        b"a: .inf",
        b"a: 1e3",
        b"a: ~",
        b"a:",
        b"a: True",
        b"1: a",
        b"? [x]\n: 1",
        b"- a",
        b"text",
        b"",
        b"# nothing",
        b'a: "\\0"',
        b"a: \xff",
        b"a: [",
        b"a: 9007199254740992",
        b"a: " + b"[" * 40 + b"]" * 40,
        b"a: 1\x07",
    ],
    ids=repr,
)
def test_what_two_readers_could_understand_differently_is_refused(text: bytes) -> None:
    with pytest.raises(PolicyFileError):
        load(text, "f")


@given(st.binary(max_size=200))
def test_whatever_bytes_come_in_only_its_own_error_is_raised(text: bytes) -> None:
    with contextlib.suppress(PolicyFileError):
        load(text, "f")


def test_the_message_names_line_and_column() -> None:
    with pytest.raises(PolicyFileError, match=r"f\.yaml:2:1: .*'a' occurs twice"):
        load(b"a: 1\na: 2", "f.yaml")


def test_the_digest_of_a_document_is_the_published_known_answer() -> None:
    body = b'{"apiVersion":"counterseal/policy.v1","kind":"RuleSet"}'
    assert digest("policy-document", body) == "sha256:f7bd512d3a5e698677f09fa0d4351614c77ba82f51d17c6a3cc9bbbdd797c8fd"


HEAD = b"apiVersion: counterseal/policy.v1\nkind: RuleSet\nmetadata: {name: a, scope: tenant}\nmatch: {tools: ['*']}\n"


@pytest.mark.parametrize(
    "rules",
    [
        b"rules: [{id: a, effect: ALLOW, wen: 'true'}]",
        b"rules: [{id: a, effect: ALLOW}]",
        b"rules: [{id: a, effect: ALLOW, when: true}]",
        b"rules: [{id: a, effect: PERMIT, when: 'true'}]",
        b"rules: [{id: a, effect: DELEGATE, when: 'true'}]",
        b"rules: [{id: a, effect: REQUIRE_APPROVAL, when: 'true'}]",
        b"rules: [{id: a, effect: REQUIRE_APPROVAL, when: 'true', approval: {need: 0}}]",
        b"rules: [{id: a, effect: DENY, when: 'true', obligations: [{type: step_up}]}]",
        b"rules: [{id: a, effect: ALLOW, when: 'true', obligations: [{type: dance}]}]",
        b"rules: [{id: a, effect: ALLOW, when: 'true'}, {id: a, effect: DENY, when: 'true'}]",
        b"rules: [{id: a, effect: DENY, when: 'true', reason: {code: lower}}]",
        b"rules: []\nextra: 1",
    ],
    ids=lambda text: text.decode()[:70],
)
def test_a_misspelt_or_incomplete_rule_is_refused(rules: bytes) -> None:
    with pytest.raises(PolicyFileError):
        parse_file(HEAD + rules, "f.yaml")


@pytest.mark.parametrize(
    ("pattern", "tool", "hit"),
    [
        ("*", "a.b@1.0.0", True),
        ("a.*", "a.b@1.0.0", True),
        ("a.b", "a.b@2.0.0", True),
        ("a.b@*", "a.b@2.0.0", True),
        ("a.b@1.*", "a.b@1.9.0", True),
        ("a.b@1.*", "a.b@2.0.0", False),
        ("a.b", "a.bc@1.0.0", False),
        ("a.b@1.0.0", "a.b@1.0.00", False),
    ],
)
def test_tool_patterns_end_in_a_star_or_match_exactly(pattern: str, tool: str, hit: bool) -> None:
    assert matches(pattern, tool) is hit
