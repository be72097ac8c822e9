"""The closed subset of JSON Schema in which tools describe input and output.

Keywords: type, properties, required, additionalProperties (must be false), enum, items, minItems, maxItems, minLength,
maxLength, minimum, maximum, pattern, title, description. Anything else is refused when the tool is registered: a
keyword that is silently ignored would be a check that nobody makes. Every object is closed. Validation is linear in
the size of the value.
"""

from collections.abc import Callable, Mapping
from typing import Any

from counterseal.documents.fields import token
from counterseal.documents.pattern import PatternError, compile_pattern
from counterseal.errors import InputInvalid

MAX_DEPTH = 16

_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
}
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
_BELONGS = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "items": "array",
    "minItems": "array",
    "maxItems": "array",
    "minLength": "string",
    "maxLength": "string",
    "pattern": "string",
    "minimum": "number",
    "maximum": "number",
}
_PLAIN = ("type", "enum", "title", "description")


def check_schema(schema: Any, where: str = "") -> None:
    """Refuse a schema outside the subset. Raises InputInvalid with the JSON pointer into the schema."""
    _check(schema, where, 0)


def validate(schema: Mapping[str, Any], value: Any, where: str = "") -> None:
    """Check a value against a schema that `check_schema` accepted.

    Raises InputInvalid naming the JSON pointer of the first offending value. The message never repeats the value.
    """
    types = _types(schema)
    if types and not any(_TYPES[name](value) for name in types):
        raise _error(where, f"must be {' or '.join(types)}")
    if "enum" in schema and not any(_same(value, choice) for choice in schema["enum"]):
        raise _error(where, "is not one of the allowed values")
    if isinstance(value, str):
        _validate_text(schema, value, where)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if "minimum" in schema and value < schema["minimum"]:
            raise _error(where, f"must be at least {schema['minimum']}")
        if "maximum" in schema and value > schema["maximum"]:
            raise _error(where, f"must be at most {schema['maximum']}")
    elif isinstance(value, list):
        _within(schema, len(value), "minItems", "maxItems", "items", where)
        if "items" in schema:
            for index, item in enumerate(value):
                validate(schema["items"], item, f"{where}/{index}")
    elif isinstance(value, dict):
        _validate_object(schema, value, where)


def _validate_text(schema: Mapping[str, Any], value: str, where: str) -> None:
    _within(schema, len(value), "minLength", "maxLength", "characters", where)
    if "pattern" in schema and not compile_pattern(schema["pattern"]).matches(value):
        raise _error(where, f"must match {schema['pattern']}")


def _validate_object(schema: Mapping[str, Any], value: Mapping[str, Any], where: str) -> None:
    properties = schema.get("properties", {})
    for key in schema.get("required", ()):
        if key not in value:
            raise _error(f"{where}/{token(key)}", "is required")
    for key, item in value.items():
        if key not in properties:
            raise _error(f"{where}/{token(key)}", "is not allowed here")
        validate(properties[key], item, f"{where}/{token(key)}")


def _within(schema: Mapping[str, Any], count: int, least: str, most: str, unit: str, where: str) -> None:
    if least in schema and count < schema[least]:
        raise _error(where, f"must have at least {schema[least]} {unit}")
    if most in schema and count > schema[most]:
        raise _error(where, f"must have at most {schema[most]} {unit}")


def _check(schema: Any, where: str, depth: int) -> None:
    if not isinstance(schema, dict):
        raise _error(where, "must be a schema object")
    if depth > MAX_DEPTH:
        raise _error(where, f"is nested deeper than {MAX_DEPTH}")
    types = _types(schema, where)
    for key, value in schema.items():
        at = f"{where}/{token(key)}"
        if key in _PLAIN:
            continue
        owner = _BELONGS.get(key)
        if owner is None:
            raise _error(at, "is not a keyword of the subset")
        if types and owner not in types and not (owner == "number" and "integer" in types):
            raise _error(at, f"does not belong to type {' or '.join(types)}")
        _check_keyword(key, value, at, depth)
    if "object" in types and schema.get("additionalProperties") is not False:
        raise _error(f"{where}/additionalProperties", "must be false: every object is closed")
    if "array" in types and "items" not in schema:
        raise _error(f"{where}/items", "is required")
    for key in schema.get("required", ()):
        if key not in schema.get("properties", {}):
            raise _error(f"{where}/required", f"names {key!r}, which is no property")
    if not types and "enum" not in schema:
        raise _error(f"{where}/type", "is required")
    _check_enum(schema, where)


def _check_enum(schema: Mapping[str, Any], where: str) -> None:
    choices = schema.get("enum")
    if choices is None and "enum" not in schema:
        return
    if not isinstance(choices, list) or not choices or any(isinstance(c, (dict, list)) for c in choices):
        raise _error(f"{where}/enum", "must be a list of scalars, not empty")


def _check_keyword(key: str, value: Any, at: str, depth: int) -> None:
    if key == "properties":
        if not isinstance(value, dict):
            raise _error(at, "must be an object")
        for name, child in value.items():
            _check(child, f"{at}/{token(name)}", depth + 1)
    elif key == "items":
        _check(value, at, depth + 1)
    elif key == "required":
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise _error(at, "must be a list of names")
    elif key in _COUNTS:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _error(at, "must be a count")
    elif key in ("minimum", "maximum"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _error(at, "must be a number")
    elif key == "pattern":
        if not isinstance(value, str):
            raise _error(at, "must be text")
        try:
            compile_pattern(value)
        except PatternError as error:
            raise _error(at, str(error)) from None


def _types(schema: Mapping[str, Any], where: str | None = None) -> list[str]:
    given = schema.get("type")
    if given is None:
        return []
    names = given if isinstance(given, list) else [given]
    if where is not None and (not names or not all(isinstance(n, str) and n in _TYPES for n in names)):
        raise _error(f"{where}/type", f"must be one or more of {', '.join(_TYPES)}")
    return [str(name) for name in names]


def _same(value: Any, choice: Any) -> bool:
    # True == 1 in Python, not in JSON.
    return isinstance(value, bool) == isinstance(choice, bool) and bool(value == choice)


def _error(where: str, message: str) -> InputInvalid:
    return InputInvalid(f"{where or 'the value'}: {message}", pointer=where)
