"""Holds an event against facts of the published OCSF schema (vectors/ocsf-1.3.0-api-activity.json).

Written from the schema's own words: an attribute is one that its class or object has, of its type, from its enum where
it has one; what is required is there; of `at_least_one`, one is.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from counterseal.canonical import parse_strict

FACTS: Mapping[str, Any] = parse_strict(
    (Path(__file__).resolve().parents[1] / "vectors" / "ocsf-1.3.0-api-activity.json").read_bytes()
)
FREE = "object"
"""The type of `unmapped`: an object of which the schema says nothing."""


def problems(event: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with an API Activity."""
    return list(_of(event, FACTS["class"], "event"))


def _of(value: Any, facts: Mapping[str, Any], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: not an object"
        return
    known = facts["attributes"]
    for name, one in known.items():
        if one.get("required") and name not in value:
            yield f"{where}: lacks {name}"
    if facts.get("at_least_one") and not set(facts["at_least_one"]) & set(value):
        yield f"{where}: has none of {', '.join(facts['at_least_one'])}"
    for name, item in value.items():
        if name not in known:
            yield f"{where}: has no attribute {name}"
            continue
        yield from _attribute(item, known[name], f"{where}.{name}")


def _attribute(item: Any, fact: Mapping[str, Any], where: str) -> Iterator[str]:
    if fact.get("array"):
        if not isinstance(item, list):
            yield f"{where}: not an array"
            return
        for n, one in enumerate(item):
            yield from _attribute(one, {**fact, "array": False}, f"{where}[{n}]")
        return
    kind = fact["type"]
    if kind == FREE:
        if not isinstance(item, dict):
            yield f"{where}: not an object"
    elif kind in FACTS["objects"]:
        yield from _of(item, FACTS["objects"][kind], where)
    elif kind == "string_t":
        if not isinstance(item, str):
            yield f"{where}: not a string"
    elif kind in ("integer_t", "long_t", "timestamp_t"):
        bits = 31 if kind == "integer_t" else 63
        if not isinstance(item, int) or isinstance(item, bool) or not -(1 << bits) <= item < 1 << bits:
            yield f"{where}: not a {kind}"
        elif "enum" in fact and item not in fact["enum"]:
            yield f"{where}: {item} is not in its enum"
    else:
        yield f"{where}: the facts say nothing of {kind}"
