"""As much of JSON Schema (2020-12) as the shipped schemas use; anything else is an error, not ignored."""

import re
from importlib import resources
from typing import Any

from counterseal.canonical import parse_strict

_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
    "null": type(None),
}
_ABOUT = {"$schema", "$id", "title", "description"}


def load(name: str) -> dict[str, Any]:
    """Return a shipped schema."""
    return parse_strict(resources.files("counterseal.documents").joinpath(f"schemas/{name}.schema.json").read_bytes())


def problems(schema: dict[str, Any], value: Any, where: str = "") -> list[str]:
    """Return what is wrong with a value, empty when it is valid."""
    found: list[str] = []
    for keyword, wanted in schema.items():
        if keyword in _ABOUT:
            continue
        found += _CHECKS[keyword](schema, wanted, value, where)
    return found


def _type(_: Any, wanted: Any, value: Any, where: str) -> list[str]:
    names = wanted if isinstance(wanted, list) else [wanted]
    fits = any(isinstance(value, _TYPES[n]) and not (n == "integer" and isinstance(value, bool)) for n in names)
    return [] if fits else [f"{where}: is not {wanted}"]


def _properties(schema: Any, wanted: Any, value: Any, where: str) -> list[str]:
    if not isinstance(value, dict):
        return []
    return [p for key, inner in wanted.items() if key in value for p in problems(inner, value[key], f"{where}/{key}")]


def _required(_: Any, wanted: Any, value: Any, where: str) -> list[str]:
    return [f"{where}: lacks {key}" for key in wanted if isinstance(value, dict) and key not in value]


def _additional(schema: Any, wanted: Any, value: Any, where: str) -> list[str]:
    extra = [key for key in value if key not in schema.get("properties", {})] if isinstance(value, dict) else []
    if wanted is False:
        return [f"{where}: has {key}" for key in extra]
    return [p for key in extra for p in problems(wanted, value[key], f"{where}/{key}")]


def _items(_: Any, wanted: Any, value: Any, where: str) -> list[str]:
    items = value if isinstance(value, list) else []
    return [p for index, item in enumerate(items) for p in problems(wanted, item, f"{where}/{index}")]


def _holds(test: Any) -> Any:
    return lambda _, wanted, value, where: [] if test(value, wanted) else [f"{where}: breaks {wanted!r}"]


_CHECKS: dict[str, Any] = {
    "type": _type,
    "properties": _properties,
    "required": _required,
    "additionalProperties": _additional,
    "items": _items,
    "const": _holds(lambda value, wanted: type(value) is type(wanted) and value == wanted),
    "enum": _holds(lambda value, wanted: value in wanted),
    "pattern": _holds(lambda value, wanted: not isinstance(value, str) or re.search(wanted, value) is not None),
    "minLength": _holds(lambda value, wanted: not isinstance(value, str) or len(value) >= wanted),
    "maxLength": _holds(lambda value, wanted: not isinstance(value, str) or len(value) <= wanted),
    "minItems": _holds(lambda value, wanted: not isinstance(value, list) or len(value) >= wanted),
    "maxItems": _holds(lambda value, wanted: not isinstance(value, list) or len(value) <= wanted),
    "minimum": _holds(lambda value, wanted: not isinstance(value, int) or value >= wanted),
    "maximum": _holds(lambda value, wanted: not isinstance(value, int) or value <= wanted),
}
