"""Request constraints (`tctx.constraints`): what the caller acting for the user forbids for one request.

    read_only, no_prod_deletes   booleans; true forbids
    max_amount_minor             currency -> integer minor units
    forbid_tools, forbid_targets lists of names

Pure. Constraints only narrow: a later Exchange may add one or make one tighter; unknown keys are refused.
"""

import re
from collections.abc import Mapping
from typing import Any

from counterseal.canonical import JsonObject, parse_canonical
from counterseal.errors import InputInvalid, NotCanonical

MAX_ITEMS = 64
_FLAGS = ("read_only", "no_prod_deletes")
_LISTS = ("forbid_tools", "forbid_targets")
_UNIT = re.compile(r"[A-Z]{3,8}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")


def read(body: bytes) -> JsonObject:
    """Read canonical constraint bytes; empty bytes are no constraints. Raises InputInvalid naming the key."""
    if not body:
        return {}
    try:
        document = parse_canonical(body)
    except NotCanonical as error:
        raise InputInvalid(f"constraints: {error.message}") from None
    for key, value in document.items():
        _check(key, value)
    return document


def narrow(present: Mapping[str, Any], added: Mapping[str, Any]) -> JsonObject:
    """Return both together: the stricter of each. Nothing of `present` is dropped or loosened."""
    result: JsonObject = dict(present)
    for key, value in added.items():
        if key in _FLAGS:
            result[key] = bool(result.get(key)) or value
        elif key in _LISTS:
            result[key] = sorted({*result.get(key, []), *value})
        else:
            amounts = dict(result.get(key, {}))
            for unit, limit in value.items():
                amounts[unit] = min(limit, amounts.get(unit, limit))
            result[key] = amounts
    return result


def _check(key: str, value: Any) -> None:
    if key in _FLAGS:
        good = isinstance(value, bool)
    elif key in _LISTS:
        good = isinstance(value, list) and len(value) <= MAX_ITEMS
        good = good and all(isinstance(item, str) and _NAME.fullmatch(item) for item in value)
    elif key == "max_amount_minor":
        good = isinstance(value, dict) and len(value) <= MAX_ITEMS
        good = good and all(_UNIT.fullmatch(unit) and type(n) is int and n >= 0 for unit, n in value.items())
    else:
        raise InputInvalid(f"constraints: {key[:40]!r} is not a constraint that is known", field="constraints")
    if not good:
        raise InputInvalid(f"constraints: {key} has the wrong form", field="constraints")
