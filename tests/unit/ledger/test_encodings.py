"""The strict text encodings: each value has one spelling, and every other is refused in our own words."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.ledger.encoding import b64, b64url, parse_b64, parse_b64url, parse_decimal, parse_text
from counterseal.ledger.errors import VerificationError


@given(st.binary(max_size=70))
def test_bytes_survive_both_alphabets(data: bytes) -> None:
    assert b64(data) == base64.b64encode(data).decode()
    assert b64url(data) == base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert parse_b64(b64(data), "it") == data
    assert parse_b64url(b64url(data), "it") == data


def test_each_length_has_its_padding_or_none() -> None:
    for data, padded, bare in (
        (b"", "", ""),
        (b"\xfb", "+w==", "-w"),
        (b"\xfb\xff", "+/8=", "-_8"),
        (b"\xfb\xff\xfe", "+//+", "-__-"),
    ):
        assert (b64(data), b64url(data)) == (padded, bare)
        assert parse_b64(padded, "it") == parse_b64url(bare, "it") == data


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("+w", "it is not base64$"),
        ("+w=", "it is not base64$"),
        ("-w==", "it is not base64$"),
        ("+w==\n", "it is not base64$"),
        ("+ w==", "it is not base64$"),
        ("+!w==", "it is not base64$"),
        ("+w===", "it is not base64$"),
        ("====", "it is not base64$"),
        ("\u00e9w==", "it is not base64$"),
        ("\ud800", "it is not base64$"),
        ("+x==", "it is not canonical base64$"),
        ("+/9=", "it is not canonical base64$"),
    ],
)
def test_another_spelling_of_base64_is_refused(text: str, why: str) -> None:
    with pytest.raises(VerificationError, match=why):
        parse_b64(text, "it")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-", "it is not base64url$"),
        ("-w==", "it is not canonical base64url$"),
        ("+w", "it is not canonical base64url$"),
        ("-w\n", "it is not base64url$"),
        ("-!w", "it is not base64url$"),
        ("-w!!!!", "it is not base64url$"),
        ("\u00e9w", "it is not base64url$"),
        ("\ud800w", "it is not base64url$"),
        ("-x", "it is not canonical base64url$"),
        ("-_9", "it is not canonical base64url$"),
    ],
)
def test_another_spelling_of_base64url_is_refused(text: str, why: str) -> None:
    with pytest.raises(VerificationError, match=why):
        parse_b64url(text, "it")


def test_decimals_reach_to_the_largest_size_of_a_tree() -> None:
    for number in (0, 1, 9, 10, 2**63 - 2, 2**63 - 1):
        assert parse_decimal(str(number), "it") == number
    for text in ("", "00", "01", "-1", "+1", " 1", "1 ", "1\n", "1_0", "0x1", "1.0", "\u0661", str(2**63), "9" * 5000):
        with pytest.raises(VerificationError, match="it is not a decimal number below 2\\^63"):
            parse_decimal(text, "it")


def test_text_is_utf_8_in_which_the_newline_is_the_only_control_character() -> None:
    for code in range(0x20):
        data = b"a" + bytes([code]) + b"b"
        if code == 0x0A:
            assert parse_text(data, "it") == "a\nb"
        else:
            with pytest.raises(VerificationError, match="it holds a control character at character 1"):
                parse_text(data, "it")
    for text in ("", " ", "\x7f", "\u00e9\u2014", "\U0001f512"):
        assert parse_text(text.encode(), "it") == text
    for data in (b"a\xff", b"a\xc0\x80", b"a\xed\xa0\x80", b"a\xe2\x80"):
        with pytest.raises(VerificationError, match="it is not UTF-8 at byte 1"):
            parse_text(data, "it")
