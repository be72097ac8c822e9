"""What the four kinds of policy files have in common: patterns, durations, what is asked of people.

Every form is closed: a field that nobody reads is an error, since a misspelt `when` must not become a rule that always
holds. Source: the policy design, section 3.
"""

import re
from dataclasses import dataclass
from typing import Any

from counterseal.documents.fields import Fields
from counterseal.errors import InputInvalid

MAX_CONDITION = 4096
MAX_DURATION_MS = 30 * 86_400_000

CODE = re.compile(r"[A-Z][A-Z0-9_]{2,63}")
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
PATTERN = re.compile(r"[a-z0-9_.]*\*?(@[0-9.]*\*?)?")
CLASS = re.compile(r"C[0-4]")
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class Approvers:
    """What a rule or gate asks of people. Empty roles mean the default role. Times: milliseconds."""

    need: int
    roles: tuple[str, ...]
    decide_within_ms: int
    valid_for_ms: int


def matches(pattern: str, reference: str) -> bool:
    """Tell whether `name@version` matches a pattern such as `*`, `payments.*`, `payments.refund@2.*`."""
    name, _, version = reference.partition("@")
    name_pattern, _, version_pattern = pattern.partition("@")
    return _glob(name_pattern, name) and (not version_pattern or _glob(version_pattern, version))


def _glob(pattern: str, text: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def approvers(value: Any, where: str) -> Approvers:
    """Read what is asked of people. Raises InputInvalid."""
    fields: Fields[Any] = Fields(value, where, InputInvalid)
    asked = Approvers(
        need=fields.integer("need", least=1, most=16),
        roles=fields.texts("roles", most=16, pattern=NAME),
        decide_within_ms=duration(fields, "decide_within", 3_600_000),
        valid_for_ms=duration(fields, "valid_for", 3_600_000),
    )
    fields.done()
    return asked


def duration(fields: "Fields[Any]", key: str, default: int | None) -> int:
    """Read a duration such as `90m`, in milliseconds; `default` where it may be absent. Raises InputInvalid."""
    if default is not None and not fields.has(key):
        return default
    match = _DURATION.fullmatch(fields.text(key, most=8, pattern=_DURATION))
    assert match is not None  # noqa: S101 (text() has matched the same pattern)
    length = int(match[1]) * _UNIT_MS[match[2]]
    if length > MAX_DURATION_MS:
        raise fields.error("is longer than 30d", key)
    return length


def unique(names: list[str], where: str) -> None:
    """Raise InputInvalid when a name occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputInvalid(f"{where}: {name!r} occurs twice", pointer=where)
        seen.add(name)
