"""Sealed fields one rule at a time: the form of a disclosure, its salt, its value, and those of one entry together."""

import base64
import hashlib
import json
from typing import Any

import pytest

from counterseal.ledger import disclosure
from counterseal.ledger.disclosure import SALT_BYTES, SD_ALG, Disclosure
from counterseal.ledger.encoding import b64url
from counterseal.ledger.errors import VerificationError

SALT = bytes(range(16))
TEXT = b64url(SALT)


def raw(salt: str = TEXT, name: str = "args", value: str = "1") -> bytes:
    return f'["{salt}","{name}",{value}]'.encode()


def made(name: str, salt: bytes, value: Any = 1) -> str:
    return disclosure.make(name, value, lambda n: (salt * n)[:n])


@pytest.mark.parametrize("value", [None, True, 0, "", "a", [], [1, 2], {}, {"a": {"b": []}}, "\u00e4\n"])
def test_a_disclosure_is_json_of_salt_name_and_value_without_spaces(value: object) -> None:
    asked: list[int] = []

    def randomness(count: int) -> bytes:
        asked.append(count)
        return SALT

    text = disclosure.make("args", value, randomness)
    written = json.dumps([TEXT, "args", value], separators=(",", ":"), ensure_ascii=False).encode()
    assert base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) == written
    assert "=" not in text
    assert asked == [16]
    assert disclosure.parse(text) == Disclosure(TEXT, "args", value)
    assert (SD_ALG, SALT_BYTES) == ("sha-256", 16)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (raw()[1:], "not a JSON array"),
        (raw()[:-1], "not a JSON array"),
        (raw() + b" ", "not a JSON array"),
        (raw().replace(b",", b", "), "not a JSON array"),
        (b" " + raw(), "not a JSON array"),
        (raw(value="1") + b"]", "not strict JSON"),
        (raw(value=""), "not strict JSON"),
        (raw(value="1,2"), "not strict JSON"),
        (raw(value='1,"w":2'), "not a JSON array"),
        (raw(value='1,"v":2'), "not strict JSON"),
        (raw(value="1}"), "not strict JSON"),
        (raw(value="NaN"), "not strict JSON"),
        (raw(value='{"a":1,"a":2}'), "not strict JSON"),
        (raw(value='"x"').replace(b"x", b"\xff"), "not strict JSON"),
        (raw(name=""), "not a JSON array"),
        (raw(name="a" * 65), "not a JSON array"),
        (raw(name="Args"), "not a JSON array"),
        (raw(name="1a"), "not a JSON array"),
        (raw(name="a-b"), "not a JSON array"),
        (raw(name='a\\"'), "not a JSON array"),
        (raw(salt=""), "not a JSON array"),
        (raw(salt="A" * 129), "not a JSON array"),
        (raw(salt=TEXT + "="), "not a JSON array"),
        (raw(salt=b64url(SALT[:15])), "a salt has fewer than 16 bytes"),
        (raw(salt=TEXT[:-1] + "x"), "a salt is not canonical"),
        (raw(salt="A" * 125), "a salt is not base64url"),
    ],
)
def test_whatever_else_is_no_disclosure(data: bytes, why: str) -> None:
    with pytest.raises(VerificationError, match=why):
        disclosure.parse(b64url(data))


def test_the_longest_and_shortest_names_and_salts_are_read() -> None:
    for name in ("a", "a" * 64, "a_0"):
        assert disclosure.parse(b64url(raw(name=name))).name == name
    for length in (16, 17, 96):
        assert disclosure.parse(b64url(raw(salt=b64url(bytes(length))))).salt == b64url(bytes(length))


@pytest.mark.parametrize("text", ["", "!", "\u00e9", "A", TEXT + "=", b64url(raw()) + "\n"])
def test_what_is_no_base64url_is_no_disclosure(text: str) -> None:
    with pytest.raises(VerificationError):
        disclosure.parse(text)


def test_a_digest_is_over_the_text_and_the_order_of_digests_tells_nothing() -> None:
    one, other = made("args", b"a"), made("input", b"b")
    for text in (one, other, ""):
        assert disclosure.digest(text) == b64url(hashlib.sha256(text.encode()).digest())
    assert disclosure.digests([one, other]) == disclosure.digests([other, one])
    assert set(disclosure.digests([one, other])) == {disclosure.digest(one), disclosure.digest(other)}
    assert disclosure.digest("\u00e9") == disclosure.digest("?"), "never raises; nothing that was sealed is not ASCII"


def test_of_one_entry_each_field_occurs_once_under_a_salt_of_its_own() -> None:
    names = ["args", "input", "output"]
    good = [made("args", b"a"), made("input", b"b"), made("output", b"c")]
    assert [one.name for one in disclosure.check(good, names)] == names
    assert disclosure.check([], names) == []
    for bad, why in (
        ([*good, made("colour", b"d")], "'colour' is not a sealed field"),
        ([made("colour", b"d")], "'colour' is not a sealed field"),
        ([*good, made("args", b"d", 2)], "'args' occurs twice"),
        ([*good[:2], made("output", b"a")], "share a salt"),
        ([*good[:2], made("output", b"b")], "share a salt"),
        ([*good, "nonsense"], "a disclosure"),
    ):
        with pytest.raises(VerificationError, match=why):
            disclosure.check(bad, names)
