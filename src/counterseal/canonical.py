"""Canonical bytes and digests of every hashed document (RFC 8785 in a strict profile, DSSE's PAE).

The profile: one JSON object at the top; numbers are finite and written as ECMAScript prints them, those without
fraction and exponent lie within +-(2^53-1); strings are Unicode scalar values without U+0000; no duplicate keys;
nothing deeper than 32 (the top-level object is depth 0); at most 1 MiB; no byte-order mark, no trailing newline.

Standard library only. `json.loads` is used here and nowhere else.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from counterseal.errors import NotCanonical

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_SAFE_INTEGER = (1 << 53) - 1

JsonObject = dict[str, Any]

_KIND = re.compile(r"[a-z]+(-[a-z]+)*")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_NEEDS_ESCAPE = re.compile(r'["\\\x00-\x1f]')


def media_type(kind: str) -> str:
    """Return the media type under which documents of `kind` are hashed, such as `plan` or `step-intent`."""
    if not _KIND.fullmatch(kind):
        raise NotCanonical(f"{kind!r} is not a document kind", where="")
    return f"application/vnd.counterseal.{kind}.v1+json"


def pae(payload_type: str, body: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding of `body` (DSSE v1, protocol.md, "PAE")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)


def digest(kind: str, body: bytes) -> str:
    """Return `sha256:<64 lower-case hex>` over the PAE of `body` as a document of `kind`."""
    return "sha256:" + hashlib.sha256(pae(media_type(kind), body)).hexdigest()


def digest_of(kind: str, document: JsonObject) -> str:
    """Return the digest of a document given as a value: `digest(kind, canonical(document))`."""
    return digest(kind, canonical(document))


def canonical(document: JsonObject) -> bytes:
    """Return the canonical bytes of an object.

    Raises NotCanonical, naming the JSON pointer, when the value lies outside the profile.
    """
    if not isinstance(document, dict):
        raise NotCanonical("the document is not a JSON object", where="")
    out: list[str] = []
    _write(document, out, "", 0)
    body = "".join(out).encode()
    if len(body) > MAX_BYTES:
        raise NotCanonical(f"{len(body)} bytes; at most {MAX_BYTES} are allowed", where="")
    return body


def parse_strict(data: bytes | str) -> JsonObject:
    """Parse one JSON object as clients may send it: any spelling of numbers, any key order and white space.

    Numbers come back as `int` where their value prints without fraction and exponent, else as `float`.
    Raises NotCanonical for anything that has no canonical form: duplicate keys, lone surrogates, U+0000, integers
    beyond 2^53-1 (also as `1e20`), infinities, bad UTF-8, more than 1 MiB, deeper than 32.
    """
    text = _decode(data)
    value = _load(text)
    _check(value, "", 0)
    if not isinstance(value, dict):
        raise NotCanonical("the document is not a JSON object", where="")
    return value


def parse_canonical(data: bytes) -> JsonObject:
    """Parse bytes that claim to be canonical; raises NotCanonical unless `canonical(parse(data)) == data`."""
    document = parse_strict(data)
    expected = canonical(document)
    if expected != data:
        at = next(
            (i for i, (a, b) in enumerate(zip(data, expected, strict=False)) if a != b), min(len(data), len(expected))
        )
        raise NotCanonical(f"the bytes differ from their canonical form at byte {at}", where="")
    return document


def parse_checked(text: str) -> JsonObject:
    """Parse text that somebody has found to be canonical already; what it does with other text is not promised."""
    document: JsonObject = json.loads(text)
    return document


def format_number(value: float) -> str:
    """Return the text that ECMAScript prints for a number (ECMA-262 Number::toString), -0 as `0`.

    `repr` already has the shortest digits; only the layout differs. Raises NotCanonical when not finite.
    """
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise NotCanonical("a number is not finite", where="")
    if value == 0:
        return "0"
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)
    digits = (whole + ("" if fraction == "0" else fraction)).lstrip("0")
    point -= len(whole + ("" if fraction == "0" else fraction)) - len(digits)
    stripped = digits.rstrip("0")
    sign = "-" if value < 0 else ""
    count = len(stripped)
    if count <= point <= 21:
        return sign + stripped + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{stripped[:point]}.{stripped[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{stripped}"
    power = point - 1
    tail = f"e{'+' if power >= 0 else '-'}{abs(power)}"
    return f"{sign}{stripped[0]}{'.' + stripped[1:] if count > 1 else ''}{tail}"


def pointer(document: Any, path: str) -> Any:
    """Resolve a JSON pointer (RFC 6901). Raises KeyError when it points at nothing."""
    if path == "":
        return document
    if not path.startswith("/"):
        raise KeyError(path)
    for raw in path[1:].split("/"):
        token = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict):
            document = document[token]
        elif isinstance(document, list) and re.fullmatch(r"0|[1-9][0-9]*", token) and int(token) < len(document):
            document = document[int(token)]
        else:
            raise KeyError(path)
    return document


def _decode(data: bytes | str) -> str:
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    if len(data) > MAX_BYTES:
        raise NotCanonical(f"{len(data)} bytes; at most {MAX_BYTES} are allowed", where="")
    if data.startswith(b"\xef\xbb\xbf"):
        raise NotCanonical("the bytes start with a byte-order mark", where="")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotCanonical(f"not UTF-8 at byte {error.start}", where="") from None


def _load(text: str) -> Any:
    try:
        return json.loads(
            text, object_pairs_hook=_pairs, parse_int=_integer, parse_float=_real, parse_constant=_constant
        )
    except NotCanonical:
        raise
    except RecursionError:
        raise NotCanonical(f"nested deeper than {MAX_DEPTH}", where="") from None
    except ValueError as error:
        raise NotCanonical(f"not JSON: {error}", where="") from None


def _pairs(pairs: list[tuple[str, Any]]) -> JsonObject:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise NotCanonical(f"the key {key!r} occurs twice in one object", where="")
            seen.add(key)
    return result


class _Unsafe(float):
    """A number outside the profile; kept until its pointer is known, so that the message can name it."""

    literal: str


def _unsafe(literal: str) -> float:
    value = _Unsafe("nan")
    value.literal = literal
    return value


def _integer(literal: str) -> int | float:
    # Length first: int() of a very long literal is quadratic and refuses with ValueError.
    if len(literal) > 17 or abs(int(literal)) > MAX_SAFE_INTEGER:
        return _unsafe(literal)
    return int(literal)


def _real(literal: str) -> int | float:
    value = float(literal)
    if not math.isfinite(value):
        return _unsafe(literal)
    if value.is_integer() and abs(value) < 1e21:
        return int(value) if abs(value) <= MAX_SAFE_INTEGER else _unsafe(literal)
    return value


def _constant(literal: str) -> NoReturn:
    raise NotCanonical(f"{literal} is not JSON", where="")


def _check(value: Any, where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise NotCanonical(f"nested deeper than {MAX_DEPTH}", where=where)
    if isinstance(value, _Unsafe):
        literal = value.literal if len(value.literal) <= 40 else value.literal[:40] + "..."
        raise NotCanonical(f"the number {literal} is not exact in every language; send as a string", where=where)
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, where)
            _check(item, f"{where}/{_token(key)}", depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, f"{where}/{index}", depth + 1)


def _check_text(text: str, where: str) -> None:
    if "\x00" in text:
        raise NotCanonical("a string holds U+0000", where=where)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise NotCanonical("a string holds a lone surrogate", where=where) from None


def _token(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _write(value: Any, out: list[str], where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise NotCanonical(f"nested deeper than {MAX_DEPTH}", where=where)
    if value is None:
        out.append("null")
    elif value is True:
        out.append("true")
    elif value is False:
        out.append("false")
    elif isinstance(value, str):
        _check_text(value, where)
        out.append(_quote(value))
    elif isinstance(value, (int, float)):
        out.append(_number(value, where))
    elif isinstance(value, dict):
        _write_sequence("{", "}", _members(value, where), out, where, depth)
    elif isinstance(value, (list, tuple)):
        _write_sequence("[", "]", (("", str(i), item) for i, item in enumerate(value)), out, where, depth)
    else:
        raise NotCanonical(f"a {type(value).__name__} is not a JSON value", where=where)


def _members(value: JsonObject, where: str) -> Iterator[tuple[str, str, Any]]:
    for key in value:
        if not isinstance(key, str):
            raise NotCanonical("a key is not a string", where=where)
        _check_text(key, where)
    for key in sorted(value, key=_UTF16):
        yield _quote(key) + ":", _token(key), value[key]


_UTF16: Callable[[str], bytes] = lambda key: key.encode("utf-16-be")  # noqa: E731 (RFC 8785 section 3.2.3)


def _write_sequence(
    start: str, end: str, items: Iterator[tuple[str, str, Any]], out: list[str], where: str, depth: int
) -> None:
    out.append(start)
    for index, (prefix, token, item) in enumerate(items):
        if index:
            out.append(",")
        out.append(prefix)
        _write(item, out, f"{where}/{token}", depth + 1)
    out.append(end)


def _number(value: float, where: str) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotCanonical("a number is not finite", where=where)
        if not value.is_integer() or abs(value) >= 1e21:
            return format_number(value)
        value = int(value)
    if abs(value) > MAX_SAFE_INTEGER:
        raise NotCanonical(f"the integer {value} is beyond 2^53-1; send as a string", where=where)
    return str(value)


def _quote(text: str) -> str:
    return '"' + _NEEDS_ESCAPE.sub(lambda m: _ESCAPES.get(m[0]) or f"\\u{ord(m[0]):04x}", text) + '"'
