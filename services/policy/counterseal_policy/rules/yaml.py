"""Strict YAML: text, integers, true, false, null, maps and lists, and nothing that two readers understand differently.

Built on PyYAML's events, never on its constructors. Its own loader reads `on:` as True, `15:30` as 930, `1_000` as a
number, and of two equal keys keeps the last; here the first two are text, numbers that are not plain decimal integers
are refused, and so are duplicate keys, anchors, aliases, tags, merge keys, directives and several documents.
"""

import re
from typing import Any

import yaml

from counterseal.canonical import MAX_BYTES, MAX_SAFE_INTEGER, JsonObject
from counterseal_policy.rules.errors import PolicyFileError, error

MAX_DEPTH = 24

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER_LIKE = re.compile(
    r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?0[xXoObB][0-9a-fA-F_]+|[-+]?\.(inf|Inf|INF)"
    r"|\.(nan|NaN|NAN)"
)
_NULL_LIKE = ("", "~", "Null", "NULL")
_BOOL_LIKE = ("True", "TRUE", "False", "FALSE")


def load(text: bytes, name: str) -> JsonObject:
    """Return the one map of a YAML document as JSON values.

    text: UTF-8, at most 1 MiB. name: the file's, for messages.
    Raises PolicyFileError naming line and column.
    """
    if len(text) > MAX_BYTES:
        raise PolicyFileError([error(name, "YAML", f"{len(text)} bytes; at most {MAX_BYTES} are allowed")])
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise PolicyFileError([error(name, "YAML", f"not UTF-8 at byte {problem.start}")]) from None
    return _Loader(decoded, name).document()


class _Loader:
    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._events = self._parse(text)

    def document(self) -> JsonObject:
        self._expect(yaml.StreamStartEvent)
        start = self._expect(yaml.DocumentStartEvent)
        if start.version is not None or start.tags:
            raise self._error(start, "directives are not allowed")
        value = self._value(self._next(), 0)
        self._expect(yaml.DocumentEndEvent)
        more = self._next()
        if not isinstance(more, yaml.StreamEndEvent):
            raise self._error(more, "one file holds one document")
        if not isinstance(value, dict):
            raise self._error(start, "the document is not a map")
        return value

    def _parse(self, text: str) -> Any:
        try:
            yield from yaml.parse(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as problem:
            mark = getattr(problem, "problem_mark", None)
            what = getattr(problem, "problem", None) or str(problem).splitlines()[0]
            place = f"{self._name}:{mark.line + 1}:{mark.column + 1}" if mark else self._name
            raise PolicyFileError([error(place, "YAML", str(what))]) from None

    def _next(self) -> Any:
        try:
            return next(self._events)
        except StopIteration:  # an empty stream ends before a document starts
            raise PolicyFileError([error(self._name, "YAML", "the document is empty")]) from None

    def _expect(self, kind: type) -> Any:
        event = self._next()
        if not isinstance(event, kind):
            raise self._error(event, "the document is empty")
        return event

    def _error(self, event: Any, message: str) -> PolicyFileError:
        mark = event.start_mark
        return PolicyFileError([error(f"{self._name}:{mark.line + 1}:{mark.column + 1}", "YAML", message)])

    def _value(self, event: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self._error(event, f"nested deeper than {MAX_DEPTH}")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self._error(event, "anchors and aliases are not allowed")
        if getattr(event, "tag", None) is not None:
            raise self._error(event, "tags are not allowed")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(depth)
        return self._map(depth)

    def _list(self, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._value(event, depth + 1))
        return items

    def _map(self, depth: int) -> JsonObject:
        result: JsonObject = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._value(event, depth + 1)
            if not isinstance(key, str):
                raise self._error(event, "a key is not text; quote it")
            if key == "<<":
                raise self._error(event, "merge keys are not allowed")
            if key in result:
                raise self._error(event, f"the key {key!r} occurs twice")
            result[key] = self._value(self._next(), depth + 1)
        return result

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if "\x00" in text:
            raise self._error(event, "a text holds U+0000")
        if not event.implicit[0]:  # quoted or a block: text as it stands
            return text
        if text in ("true", "false"):
            return text == "true"
        if text == "null":
            return None
        if text in _NULL_LIKE or text in _BOOL_LIKE:
            raise self._error(event, f"{text!r} is ambiguous; write null, true, false, or quote it")
        if _INTEGER.fullmatch(text):
            if len(text) > 17 or abs(int(text)) > MAX_SAFE_INTEGER:
                raise self._error(event, f"the integer {text[:40]} is beyond 2^53-1; quote it")
            return int(text)
        if _NUMBER_LIKE.fullmatch(text):
            raise self._error(event, f"{text[:40]!r} is no plain integer; quote it, or use minor units")
        return text
