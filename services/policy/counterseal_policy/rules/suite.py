"""Test suites: cases over one base input, as `counterseal-policy test` runs them (`suites.py`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from counterseal.canonical import JsonObject
from counterseal.documents.fields import Fields, token
from counterseal.errors import InputInvalid
from counterseal_policy.rules.forms import CLASS, CODE, unique


@dataclass(frozen=True, slots=True)
class Case:
    """One case: changes to the base, and what is expected. Absent expectations are not compared."""

    name: str
    changes: Mapping[str, Any]
    removals: tuple[str, ...]
    usage: Mapping[str, tuple[int, int]]
    outcome: str
    action_class: int | None
    reason: str | None
    rules: tuple[str, ...] | None
    obligations: tuple[str, ...] | None
    need: int | None


@dataclass(frozen=True, slots=True)
class Suite:
    """Cases over one base input."""

    base: JsonObject
    cases: tuple[Case, ...]


def suite(fields: "Fields[Any]") -> Suite:
    """Read a test suite from its file's fields. Raises InputInvalid."""
    base = fields.raw("base")
    if not isinstance(base, dict):
        raise fields.error("must be a map", "base")
    cases = fields.items("cases", _case, most=4096)
    unique([case.name for case in cases], "/cases")
    return Suite(base, cases)


def _case(value: Any, where: str) -> Case:
    fields: Fields[Any] = Fields(value, where, InputInvalid)
    changes = fields.raw("set", {})
    if not isinstance(changes, dict):
        raise fields.error("must map pointers to values", "set")
    expected_class = fields.text("class", None, most=2, pattern=CLASS)
    case = Case(
        name=fields.text("name", most=200),
        changes=changes,
        removals=fields.texts("unset", most=64),
        usage=_usage(fields.raw("usage", {}), f"{where}/usage"),
        outcome=fields.one_of("outcome", ("ALLOW", "DENY", "REQUIRE_APPROVAL")),
        action_class=None if expected_class is None else int(expected_class[1]),
        reason=fields.text("reason", None, most=64, pattern=CODE),
        rules=fields.texts("rules", most=64) if fields.has("rules") else None,
        obligations=fields.texts("obligations", most=64) if fields.has("obligations") else None,
        need=fields.integer("need", None, most=16),
    )
    fields.done()
    return case


def _usage(value: Any, where: str) -> Mapping[str, tuple[int, int]]:
    if not isinstance(value, dict):
        raise InputInvalid(f"{where}: must be a map", pointer=where)
    usage: dict[str, tuple[int, int]] = {}
    for name, item in value.items():
        fields: Fields[Any] = Fields(item, f"{where}/{token(name)}", InputInvalid)
        usage[name] = (fields.integer("settled"), fields.integer("reserved"))
        fields.done()
    return usage
