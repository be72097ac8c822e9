"""PostgreSQL rows as JSON values, exactly or not at all."""

import datetime as dt
import decimal
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from counterseal.canonical import MAX_SAFE_INTEGER, canonical, parse_strict
from counterseal.errors import NotCanonical


class NoJsonForm(Exception):
    """A column's value has no exact JSON form (a float, a big integer, a binary string)."""


def rows_of(records: Sequence[Any], attributes: Sequence[Any]) -> list[dict[str, Any]]:
    """Return result rows as JSON objects.

    integers within 2^53-1, booleans, text, null and json(b) as they are; numeric without fraction as an integer, else
    as exact text; dates and times in ISO 8601; uuid as text. Raises NoJsonForm, naming the column, for anything else.
    """
    names = [attribute.name for attribute in attributes]
    kinds = [attribute.type.name for attribute in attributes]
    if len(set(names)) != len(names):
        raise NoJsonForm("two columns have one name")
    rows = [{name: _value(record[i], kinds[i], name) for i, name in enumerate(names)} for record in records]
    try:
        canonical({"rows": rows})
    except NotCanonical as error:
        raise NoJsonForm(str(error)) from None
    return rows


def first_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the only row, or an empty mapping. Raises NoJsonForm for more than one."""
    if len(rows) > 1:
        raise NoJsonForm("the statement returned more than one row")
    return rows[0] if rows else {}


def _value(value: Any, kind: str, name: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if kind in ("json", "jsonb"):
        return _json(value, name)
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_SAFE_INTEGER:
            raise NoJsonForm(f"column {name}: an integer beyond 2^53-1; cast it to text")
        return value
    if isinstance(value, decimal.Decimal):
        return _decimal(value, name)
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    raise NoJsonForm(f"column {name}: {kind} has no exact JSON form; cast it")


def _json(text: str, name: str) -> Any:
    try:
        return parse_strict('{"v":' + text + "}")["v"]
    except NotCanonical as error:
        raise NoJsonForm(f"column {name}: {error}") from None


def _decimal(value: decimal.Decimal, name: str) -> int | str:
    if not value.is_finite():
        raise NoJsonForm(f"column {name}: not a finite number")
    if value == value.to_integral_value() and abs(value) <= MAX_SAFE_INTEGER:
        return int(value)
    return format(value, "f")
