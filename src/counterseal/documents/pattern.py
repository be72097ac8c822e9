r"""Text patterns that match in linear time, whatever the input: the `pattern` keyword of tool schemas.

A pattern is a sequence of atoms, matched against the whole text: a literal character, `.`, a class `[a-z0-9_]` or
`[^,]`, or an escape (`\d \w \s` and escaped punctuation), each with an optional `? * + {m} {m,n}`. A leading `^` and
a trailing `$` are allowed and mean nothing. There are no groups, no alternatives and no back-references, so nothing
can backtrack: the matcher moves one set of positions along the text.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

MAX_POSITIONS = 1024

_COUNT = re.compile(r"\{(\d{1,4})(,(\d{1,4})?)?\}")
_DIGITS = frozenset("0123456789")
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_SPACE = frozenset(" \t\n\r\f\v")
_ESCAPES = {"d": _DIGITS, "w": _WORD, "s": _SPACE, "n": frozenset("\n"), "t": frozenset("\t"), "r": frozenset("\r")}
_PUNCTUATION = frozenset("\\.^$*+?()[]{}|/-#@!%&=:;,<>\"'~` _")


class PatternError(ValueError):
    """The text is not a pattern of the subset; the message says at which character."""


@dataclass(frozen=True, slots=True)
class _Set:
    chars: frozenset[str]
    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def holds(self, char: str) -> bool:
        inside = char in self.chars or any(low <= char <= high for low, high in self.ranges)
        return inside != self.negated


_ANY = _Set(frozenset("\n"), (), negated=True)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern: position i takes one character of `sets[i]`; `skip[i]`: optional, `loop[i]`: repeats."""

    sets: tuple[_Set, ...]
    skip: tuple[bool, ...]
    loop: tuple[bool, ...]

    def matches(self, text: str) -> bool:
        """Tell whether the whole text matches; takes len(text) * len(pattern) steps at most."""
        states = self._close({0})
        for char in text:
            after: set[int] = set()
            for at in states:
                if at < len(self.sets) and self.sets[at].holds(char):
                    after.add(at + 1)
                    if self.loop[at]:
                        after.add(at)
            if not after:
                return False
            states = self._close(after)
        return len(self.sets) in states

    def _close(self, states: set[int]) -> set[int]:
        for at in sorted(states):
            while at < len(self.sets) and self.skip[at]:
                at += 1  # noqa: PLW2901 (walks over what may be left out)
                states.add(at)
        return states


@lru_cache(maxsize=1024)
def compile_pattern(source: str) -> Pattern:
    """Return the compiled pattern. Raises PatternError when `source` lies outside the subset or is too long."""
    sets: list[_Set] = []
    skip: list[bool] = []
    loop: list[bool] = []
    at, end = (1 if source.startswith("^") else 0), len(source)
    if source.endswith("$") and not source.endswith("\\$"):
        end -= 1
    while at < end:
        atom, at = _atom(source, at, end)
        least, most, at = _quantifier(source, at, end)
        positions = least if most is None else most
        for index in range(positions):
            sets.append(atom)
            skip.append(index >= least)
            loop.append(False)
        if most is None:
            sets.append(atom)
            skip.append(True)
            loop.append(True)
        if len(sets) > MAX_POSITIONS:
            raise PatternError(f"expands to more than {MAX_POSITIONS} positions")
    return Pattern(tuple(sets), tuple(skip), tuple(loop))


def _atom(source: str, at: int, end: int) -> tuple[_Set, int]:
    char = source[at]
    if char == ".":
        return _ANY, at + 1
    if char == "\\":
        return _Set(_escape(source, at + 1, end), (), negated=False), at + 2
    if char == "[":
        return _class(source, at + 1, end)
    if char in "*+?{}()|]^$":
        raise PatternError(f"{char!r} at {at} is not supported here")
    return _Set(frozenset(char), (), negated=False), at + 1


def _escape(source: str, at: int, end: int) -> frozenset[str]:
    if at >= end:
        raise PatternError("ends in a lone backslash")
    char = source[at]
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char in _PUNCTUATION:
        return frozenset(char)
    raise PatternError(f"the escape \\{char} at {at} is not supported")


def _class(source: str, at: int, end: int) -> tuple[_Set, int]:
    negated = at < end and source[at] == "^"
    if negated:
        at += 1
    chars: set[str] = set()
    ranges: list[tuple[str, str]] = []
    first = at
    while True:
        if at >= end:
            raise PatternError("a class is not closed")
        char = source[at]
        if char == "]":
            if at == first:
                raise PatternError(f"the class at {at} is empty")
            return _Set(frozenset(chars), tuple(ranges), negated), at + 1
        if char == "[":
            raise PatternError(f"'[' at {at} must be escaped")
        if char == "\\":
            chars |= _escape(source, at + 1, end)
            at += 2
        elif at + 2 < end and source[at + 1] == "-" and source[at + 2] not in "]\\[":
            if source[at + 2] < char:
                raise PatternError(f"the range at {at} runs backwards")
            ranges.append((char, source[at + 2]))
            at += 3
        else:
            chars.add(char)
            at += 1


def _quantifier(source: str, at: int, end: int) -> tuple[int, int | None, int]:
    if at >= end or source[at] not in "?*+{":
        return 1, 1, at
    char = source[at]
    if char == "?":
        return 0, 1, at + 1
    if char == "*":
        return 0, None, at + 1
    if char == "+":
        return 1, None, at + 1
    match = _COUNT.match(source, at, end)
    if match is None:
        raise PatternError(f"the count at {at} is not {{m}}, {{m,}} or {{m,n}}")
    least = int(match[1])
    most = least if match[2] is None else (None if match[3] is None else int(match[3]))
    if most is not None and most < max(least, 1):
        raise PatternError(f"the count at {at} is empty")
    if max(least, most or 0) > MAX_POSITIONS:
        raise PatternError(f"expands to more than {MAX_POSITIONS} positions")
    return least, most, match.end()
