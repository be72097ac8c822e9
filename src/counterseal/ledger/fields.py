"""The kinds of value that the clear part of an entry may hold: none of them is free text.

A kind checks one JSON value and knows nothing of entries. Strings are ASCII from closed alphabets, so that no name,
address or sentence can slip into bytes that are never erased.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from counterseal.canonical import MAX_SAFE_INTEGER

WORD = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
REASON = re.compile(r"[A-Z][A-Z0-9_]{1,63}")
PSEUDONYM = re.compile(r"p_[a-z2-7]{26}")
VKEY = re.compile(r"[A-Za-z0-9_.:/-]{1,128}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44}")
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
HEX = re.compile(r"([0-9a-f]{2}){1,64}")
MAX_ITEMS = 256

Rename = Callable[[str], str]
"""Replaces a person's identifier by the tenant's pseudonym."""

_NOT_WORD = re.compile(r"[^A-Za-z0-9_.:/-]")


def word(text: str) -> str:
    """Return `text` fit for a clear field: characters outside the alphabet become `_`, the rest is cut at 128.

    For producers that are handed names by others (a model's, a tool's): the exact text belongs in a sealed field.
    """
    return _NOT_WORD.sub("_", text)[:128]


class Kind(Protocol):
    """What a clear field may hold."""

    def problem(self, value: Any) -> str:
        """Return what is wrong with `value`, or an empty string."""

    def rename(self, value: Any, person: Rename, /) -> Any:
        """Return the value with every person in it replaced; the value is as a producer sent it."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string that matches one pattern."""

    pattern: re.Pattern[str]
    name: str

    def problem(self, value: Any) -> str:
        """Return what is wrong with `value`, or an empty string."""
        return "" if isinstance(value, str) and self.pattern.fullmatch(value) else f"is not {self.name}"

    def rename(self, value: Any, _person: Rename, /) -> Any:
        """Return the value: it names nobody."""
        return value


@dataclass(frozen=True, slots=True)
class OneOf:
    """A string from a closed set."""

    values: tuple[str, ...]

    def problem(self, value: Any) -> str:
        """Return what is wrong with `value`, or an empty string."""
        return "" if isinstance(value, str) and value in self.values else f"is none of {', '.join(self.values)}"

    def rename(self, value: Any, _person: Rename, /) -> Any:
        """Return the value: it names nobody."""
        return value


@dataclass(frozen=True, slots=True)
class Number:
    """An integer between 0 and `most`."""

    most: int = MAX_SAFE_INTEGER

    def problem(self, value: Any) -> str:
        """Return what is wrong with `value`, or an empty string."""
        good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= self.most
        return "" if good else f"is not an integer from 0 to {self.most}"

    def rename(self, value: Any, _person: Rename, /) -> Any:
        """Return the value: it names nobody."""
        return value


@dataclass(frozen=True, slots=True)
class Flag:
    """A boolean."""

    def problem(self, value: Any) -> str:
        """Return what is wrong with `value`, or an empty string."""
        return "" if isinstance(value, bool) else "is not a boolean"

    def rename(self, value: Any, _person: Rename, /) -> Any:
        """Return the value: it names nobody."""
        return value


@dataclass(frozen=True, slots=True)
class Person:
    """A person, as a pseudonym; with `or_word` something else than a person (`breaker:..`, a SPIFFE id) too."""

    or_word: bool = False

    def problem(self, value: Any) -> str:
        """Return what is wrong with `value`, or an empty string."""
        if isinstance(value, str) and (PSEUDONYM.fullmatch(value) or (self.or_word and WORD.fullmatch(value))):
            return "" if not is_person(value) else "names a person in clear"
        return "is not a pseudonym"

    def rename(self, value: Any, person: Rename, /) -> Any:
        """Return the pseudonym of the person that the producer named."""
        if not isinstance(value, str) or PSEUDONYM.fullmatch(value) or (self.or_word and not is_person(value)):
            return value
        return person(value)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of at most 256 values of one kind."""

    item: Kind

    def problem(self, value: Any) -> str:
        """Return what is wrong with `value`, or an empty string."""
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            return f"is not a list of at most {MAX_ITEMS}"
        return next((f"[{i}] {why}" for i, item in enumerate(value) if (why := self.item.problem(item))), "")

    def rename(self, value: Any, person: Rename, /) -> Any:
        """Return the list with every person in it replaced."""
        return [self.item.rename(item, person) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A value that is checked elsewhere."""

    def problem(self, _value: Any) -> str:
        """Return an empty string."""
        return ""

    def rename(self, value: Any, _person: Rename, /) -> Any:
        """Return the value."""
        return value


@dataclass(frozen=True, slots=True)
class Group:
    """An object with a closed set of fields; those in `optional` may be absent."""

    fields: Mapping[str, Kind]
    optional: frozenset[str] = field(default_factory=frozenset)
    required: tuple[str, ...] = field(init=False)
    with_people: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Work out once what every check needs."""
        object.__setattr__(self, "required", tuple(name for name in self.fields if name not in self.optional))
        object.__setattr__(self, "with_people", tuple(n for n, kind in self.fields.items() if names_people(kind)))

    def problem(self, value: Any) -> str:
        """Return what is wrong with `value`, or an empty string."""
        if not isinstance(value, dict):
            return "is not an object"
        fields = self.fields
        for name, item in value.items():
            kind = fields.get(name)
            if kind is None:
                return f"has no field {name!r}"
            if why := kind.problem(item):
                return f".{name} {why}"
        for name in self.required:
            if name not in value:
                return f"lacks {name!r}"
        return ""

    def rename(self, value: Any, person: Rename, /) -> Any:
        """Return the object with every person in it replaced."""
        if not self.with_people or not isinstance(value, dict):
            return value
        renamed = {name: self.fields[name].rename(value[name], person) for name in self.with_people if name in value}
        return {**value, **renamed}


def names_people(kind: Kind) -> bool:
    """Tell whether values of a kind can name a person."""
    if isinstance(kind, ListOf):
        return names_people(kind.item)
    return isinstance(kind, Person) or (isinstance(kind, Group) and bool(kind.with_people))


def is_person(text: str) -> bool:
    """Tell whether an actor's identifier names a person or a schedule, by its prefix (credentials' `sub`)."""
    return text.startswith(("user:", "schedule:"))


def group(optional: str = "", /, **fields: Kind) -> Group:
    """Return a group; `optional` lists the names that may be absent, separated by spaces."""
    names = frozenset(optional.split())
    unknown = names - fields.keys()
    if unknown:
        raise ValueError(f"optional names without a field: {sorted(unknown)}")
    return Group(fields, names)
