"""Canonical bytes: public vectors, the known digests, and a second implementation of number layout."""

import hashlib
import json
import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.canonical import (
    MAX_SAFE_INTEGER,
    canonical,
    digest,
    format_number,
    media_type,
    pae,
    parse_canonical,
    parse_strict,
    pointer,
)
from counterseal.errors import NotCanonical
from support.requirements import requirement
from support.shared import shared_path

KNOWN = [
    ("plan", b'{"steps":[],"v":1}', "654a8a61b65c487c76b23fe951b7613365b60f564f964890e7f1a6a583688ea0"),
    ("step-intent", b'{"steps":[],"v":1}', "e15d9d15ced1711e034ac6dcb18f51765848ebb70e22cec4eadf0d92885116b1"),
    (
        "plan",
        b'{"args":{"ratio":0.1,"weight_kg":98.7},"v":1}',
        "aac1f459bcb6b826422e36e35e10d9661db898d454fb8615144450d50c8db160",
    ),
    (
        "policy-document",
        b'{"apiVersion":"counterseal/policy.v1","kind":"RuleSet"}',
        "f7bd512d3a5e698677f09fa0d4351614c77ba82f51d17c6a3cc9bbbdd797c8fd",
    ),
]


@pytest.mark.parametrize(("kind", "body", "expected"), KNOWN)
def test_known_digests(kind: str, body: bytes, expected: str) -> None:
    assert parse_canonical(body)
    assert digest(kind, body) == f"sha256:{expected}"


@requirement("canonical:vectors-python")
def test_the_digest_is_what_printf_and_sha256sum_make() -> None:
    text = b'DSSEv1 40 application/vnd.counterseal.plan.v1+json 18 {"steps":[],"v":1}'
    assert pae(media_type("plan"), b'{"steps":[],"v":1}') == text
    assert digest("plan", b'{"steps":[],"v":1}') == "sha256:" + hashlib.sha256(text).hexdigest()


def test_keys_are_sorted_by_utf16_code_units_not_code_points() -> None:
    body = canonical({"args": {"a": 3, "A": 5, "\u20ac": 4, "\ufb33": 2, "\U0001f600": 1}, "v": 1})
    assert digest("plan", body) == "sha256:8460a03d1b9be38891ab9bfb8d3b942a736e83f9d23e6827af0b632774d737ca"


@requirement("canonical:vectors-python")
def test_public_plan_vectors() -> None:
    vectors = json.loads(shared_path("vectors/plan/plan-vectors.json").read_text())
    assert vectors["accept"]
    assert vectors["reject"]
    for case in vectors["accept"]:
        body = bytes.fromhex(case["canonical_hex"])
        assert canonical(parse_canonical(body)) == body
        assert digest("plan", body) == "sha256:" + case["sha256"]
    for case in vectors["reject"]:
        with pytest.raises(NotCanonical):
            parse_canonical(bytes.fromhex(case.get("hex") or case["bytes_hex"]))


@pytest.mark.parametrize(
    ("sent", "made"),
    [
        ("98.70", "98.7"),
        ("1e2", "100"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("1E+2", "100"),
        ("1e21", "1e+21"),
        ("0.0000001", "1e-7"),
    ],
)
def test_what_clients_send_is_brought_to_the_one_spelling(sent: str, made: str) -> None:
    assert canonical(parse_strict(f'{{"n":{sent}}}')) == f'{{"n":{made}}}'.encode()


@pytest.mark.parametrize(
    "sent",
    [
        "9007199254740992",
        "-9007199254740992",
        "1e20",
        "100000000000000000000",
        "1e400",
        "-1e400",
        "NaN",
        "Infinity",
        "9" * 5000,
    ],
)
def test_numbers_that_other_languages_would_read_differently_are_refused_with_their_pointer(sent: str) -> None:
    with pytest.raises(NotCanonical) as caught:
        parse_strict(f'{{"args":{{"n":{sent}}}}}')
    if sent not in ("NaN", "Infinity"):
        assert caught.value.metadata["pointer"] == "/args/n"
        assert "send as a string" in caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"1",
        b'"a"',
        b"null",
        b'{"a":1}\n',
        b' {"a":1}',
        b'{"a": 1}',
        b'{"a":1,}',
        b'{"a":1,"a":1}',
        b'{"b":1,"a":1}',
        b'{"a":"\\u0061"}',
        b'{"a":"\\/"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\u0000"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xff"}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1.0}',
        b'{"a":1e2}',
        b'{"a":-0}',
        b'{"a":01}',
        b'{"a":"\x7f\x1f"}',
    ],
)
def test_bytes_that_only_resemble_canonical_ones_are_refused(data: bytes) -> None:
    with pytest.raises(NotCanonical):
        parse_canonical(data)


def test_depth_is_counted_from_the_top_object_at_zero() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' * depth + b"1" + b"}" * depth

    assert parse_canonical(nested(32))
    with pytest.raises(NotCanonical):
        parse_canonical(nested(33))
    with pytest.raises(NotCanonical):
        parse_strict(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_size_is_counted_in_bytes_of_the_canonical_form() -> None:
    room = (1 << 20) - len(b'{"a":""}')
    assert parse_canonical(b'{"a":"' + b"x" * room + b'"}')
    with pytest.raises(NotCanonical):
        parse_strict(b'{"a":"' + b"x" * (room + 1) + b'"}')
    with pytest.raises(NotCanonical):
        canonical({"a": "\x01" * (room // 6 + 1)})


@pytest.mark.parametrize(
    "value", [{"a": object()}, {1: "a"}, {"a": float("nan")}, {"a": 1 << 53}, {"a": {"b": b"x"}}, ["a"]]
)
def test_values_outside_the_profile_have_no_canonical_bytes(value: Any) -> None:
    with pytest.raises(NotCanonical):
        canonical(value)


def _ecmascript(value: float) -> str:
    """A second implementation of ECMA-262 Number::toString, from decimal digits instead of repr's layout."""
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    stripped = text.rstrip("0")
    assert isinstance(exponent, int)
    exponent += len(text) - len(stripped)
    k, n = len(stripped), len(stripped) + exponent
    minus = "-" if sign else ""
    if k <= n <= 21:
        return minus + stripped + "0" * (n - k)
    if 0 < n <= 21:
        return minus + stripped[:n] + "." + stripped[n:]
    if -6 < n <= 0:
        return minus + "0." + "0" * -n + stripped
    power = f"e{'+' if n > 0 else '-'}{abs(n - 1)}"
    return minus + (stripped if k == 1 else f"{stripped[0]}.{stripped[1:]}") + power


@settings(max_examples=2000)
@given(st.binary(min_size=8, max_size=8))
def test_random_doubles_print_as_ecmascript_prints_them(raw: bytes) -> None:
    (value,) = struct.unpack(">d", raw)
    if value != value or value in (float("inf"), float("-inf")) or value == 0:
        return
    assert format_number(value) == _ecmascript(value)
    assert float(format_number(value)) == value


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
_scalar = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False).filter(
        lambda x: not x.is_integer() or abs(x) < 2**53 or abs(x) >= 1e21
    )
    | _text
)


def _containers(item: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(item, max_size=3) | st.dictionaries(_text, item, max_size=3)


_json = _scalar | _containers(_scalar | _containers(_scalar))


@given(st.dictionaries(_text, _json, max_size=5))
def test_canonical_bytes_are_a_fixed_point_and_independent_of_key_order(document: dict[str, Any]) -> None:
    body = canonical(document)
    assert canonical(parse_canonical(body)) == body
    assert canonical(dict(reversed(list(document.items())))) == body
    assert parse_strict(json.dumps(document)) == parse_canonical(body)


@given(st.dictionaries(st.sampled_from("abc"), _json, min_size=1, max_size=3), st.data())
def test_no_changed_byte_keeps_the_digest(document: dict[str, Any], data: st.DataObject) -> None:
    body = bytearray(canonical(document))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    assert digest("plan", bytes(body)) != digest("plan", canonical(document))


def test_pointers_follow_rfc_6901() -> None:
    document = {"a/b": [{"m~n": 1}], "": 2}
    assert pointer(document, "/a~1b/0/m~0n") == 1
    assert pointer(document, "/") == 2
    assert pointer(document, "") == document
    for missing in ("/x", "/a~1b/1", "/a~1b/00", "/a~1b/-", "a"):
        with pytest.raises(KeyError):
            pointer(document, missing)
