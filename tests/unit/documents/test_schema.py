import contextlib
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.documents.pattern import PatternError, compile_pattern
from counterseal.documents.schema import check_schema, validate
from counterseal.errors import InputInvalid

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "order_id": {"type": "string", "pattern": "^#W\\d{7}$"},
        "item_ids": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
        "reason": {"type": "string", "enum": ["no longer needed", "ordered by mistake"]},
        "note": {"type": ["string", "null"], "maxLength": 5},
        "cents": {"type": "integer", "minimum": 1, "maximum": 10},
    },
    "required": ["order_id"],
    "additionalProperties": False,
}


def test_a_value_of_the_schema_is_accepted() -> None:
    check_schema(ORDER)
    validate(
        ORDER, {"order_id": "#W1234567", "item_ids": ["a"], "reason": "ordered by mistake", "note": None, "cents": 10}
    )


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({}, "/order_id"),
        ({"order_id": 7}, "/order_id"),
        ({"order_id": "#W123456"}, "/order_id"),
        ({"order_id": "#W1234567\n"}, "/order_id"),
        ({"order_id": "#W1234567", "extra": 1}, "/extra"),
        ({"order_id": "#W1234567", "item_ids": []}, "/item_ids"),
        ({"order_id": "#W1234567", "item_ids": ["a", 1]}, "/item_ids/1"),
        ({"order_id": "#W1234567", "reason": "other"}, "/reason"),
        ({"order_id": "#W1234567", "note": "123456"}, "/note"),
        ({"order_id": "#W1234567", "cents": 0}, "/cents"),
        ({"order_id": "#W1234567", "cents": 11}, "/cents"),
        ({"order_id": "#W1234567", "cents": True}, "/cents"),
        ({"order_id": "#W1234567", "cents": 1.5}, "/cents"),
        ([], ""),
    ],
)
def test_the_first_offending_value_is_named_by_pointer(value: Any, where: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        validate(ORDER, value)
    assert caught.value.metadata["pointer"] == where


def test_a_boolean_never_passes_for_the_number_that_python_thinks_it_is() -> None:
    with pytest.raises(InputInvalid):
        validate({"enum": [1]}, True)
    validate({"enum": [True]}, True)


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"type": "object", "properties": {}}, "/additionalProperties"),
        ({"type": "string", "format": "email"}, "/format"),
        ({"type": "string", "minimum": 1}, "/minimum"),
        ({"type": "text"}, "/type"),
        ({}, "/type"),
        ({"type": "array"}, "/items"),
        ({"type": "array", "items": {"anyOf": []}}, "/items/anyOf"),
        ({"type": "string", "pattern": "(a+)+"}, "/pattern"),
        ({"type": "object", "properties": {}, "required": ["x"], "additionalProperties": False}, "/required"),
        ({"type": "string", "enum": []}, "/enum"),
        ("string", ""),
    ],
)
def test_a_keyword_that_nobody_would_check_is_refused_at_registration(schema: Any, where: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        check_schema(schema)
    assert caught.value.metadata["pointer"] == where


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("abc", ["abc"], ["ab", "abcd", "xabc"]),
        ("^#W\\d{7}$", ["#W0000000"], ["#W000000", "#W00000000", " #W0000000"]),
        ("[a-z_]+@[^@ ]*", ["a_b@", "a@x.y"], ["@", "a@ ", "A@b"]),
        ("a?b*c{2,3}", ["cc", "abbccc"], ["c", "cccc", "aacc"]),
        ("a{2,}", ["aa", "aaaaaa"], ["a"]),
        (".", ["x", "é"], ["", "\n", "xx"]),
        ("\\.\\*[\\]\\-]", [".*]", ".*-"], ["..]"]),
        ("", [""], ["x"]),
    ],
)
def test_a_pattern_matches_the_whole_text(pattern: str, good: list[str], bad: list[str]) -> None:
    compiled = compile_pattern(pattern)
    assert [text for text in good if not compiled.matches(text)] == []
    assert [text for text in bad if compiled.matches(text)] == []


@pytest.mark.parametrize(
    "pattern", ["(a)", "a|b", "a**", "[", "[]", "[z-a]", "\\1", "\\", "a{0}", "a{3,2}", "a{9999}", "*a"]
)
def test_what_could_backtrack_or_explode_is_no_pattern(pattern: str) -> None:
    with pytest.raises(PatternError):
        compile_pattern(pattern)


def test_a_pattern_that_kills_backtracking_engines_stays_linear() -> None:
    compiled = compile_pattern("a*a*a*a*a*a*a*a*a*a*b")
    start = time.perf_counter()
    assert not compiled.matches("a" * 20_000)
    assert time.perf_counter() - start < 5


@given(st.text(alphabet="ab[]\\.*+?{}()|^$-,0", max_size=12), st.text(alphabet="ab0-,", max_size=8))
def test_whatever_the_pattern_only_a_pattern_error_comes_out(pattern: str, text: str) -> None:
    with contextlib.suppress(PatternError):
        compile_pattern(pattern).matches(text)
