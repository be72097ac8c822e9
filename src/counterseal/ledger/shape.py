"""One regular expression per event type that accepts canonical entries of it, made from the registry.

The clear part of an entry has no free text, no escapes and a fixed order of keys, so its canonical bytes are a regular
language and one pass in C says what a parser and a schema check say in fifty times as long. An expression may refuse
what is good (a number of sixteen digits): the slow reader decides then. It never accepts what that one refuses; a test
holds the two together.
"""

import re
from collections.abc import Mapping

from counterseal.ledger.fields import (
    MAX_ITEMS,
    WORD,
    Flag,
    Group,
    Kind,
    ListOf,
    Number,
    OneOf,
    Person,
    Text,
)
from counterseal.ledger.registry import EventType

_SAFE_DIGITS = 15
"""Every number of so many digits is below 2^53."""


def expression(header: Group, kind: str, known: EventType) -> re.Pattern[str]:
    """Return the expression for entries of one type.

    Its groups: sd (the inside of `_sd`, still to be checked for its order), environment, event_id, seq, stream, tenant.
    """
    required = {*header.required, *known.needs, "srv"}
    parts: list[str] = []
    for name in sorted(header.fields):
        field = header.fields[name]
        if name == "_sd":
            sealed = "(?P<sd>)"
            if known.sealed:
                digest = _of(field.item) if isinstance(field, ListOf) else ""
                more = f"(?:,{digest}){{0,{len(known.sealed) - 1}}}"
                sealed = _optional(f'"_sd":\\[(?P<sd>{digest}{more})\\],"_sd_alg":{_of(header.fields["_sd_alg"])},')
            parts.append(sealed)
            continue
        if name in {"_sd_alg", "stream"}:
            continue
        if name == "seq":
            seq = f'"seq":(?P<seq>{_positive()}),'
            parts.append(seq if required & {"seq", "stream"} else _optional(seq))
            continue
        value = _header_value(name, field, kind, known)
        one = f'"{name}":{value}' + ("" if name == "v" else ",")
        parts.append(one if name in required else _optional(one))
        if name == "step":
            parts.append(f'(?(seq)"stream":"(?P<stream>{_body(header.fields["stream"])})",|)')
    return re.compile(r"\{" + "".join(parts) + r"\}", re.ASCII)


def _optional(part: str) -> str:
    """Return an expression for a part or nothing; as a branch, whose first letter is looked at before it is tried."""
    return f"(?:{part}|)"


def _header_value(name: str, field: Kind, kind: str, known: EventType) -> str:
    if name == "v":
        return "1"
    if name == "type":
        return f'"{re.escape(kind)}"'
    if name == "data":
        return _of(known.clear)
    if name == "attempt":
        return _positive()
    if name in {"event_id", "tenant", "environment"}:
        return f'"(?P<{name}>{_body(field)})"'
    if name == "srv" and isinstance(field, Group):
        return _group({**field.fields, "producer": OneOf(tuple(sorted(known.producers)))}, field.required)
    return _of(field)


def _of(kind: Kind) -> str:
    """Return an expression for the canonical JSON of values of a kind, without capturing groups."""
    if isinstance(kind, Group):
        return _group(kind.fields, kind.required)
    if isinstance(kind, ListOf):
        item = _of(kind.item)
        return rf"\[{_optional(f'{item}(?:,{item}){{0,{MAX_ITEMS - 1}}}')}\]"
    if isinstance(kind, Number):
        return _number(kind.most)
    if isinstance(kind, Flag):
        return "(?:true|false)"
    return f'"{_body(kind)}"'


def _body(kind: Kind) -> str:
    """Return an expression for what stands between the quotes of a string kind."""
    if isinstance(kind, Text):
        return f"(?:{kind.pattern.pattern.replace('(', '(?:').replace('(?:?', '(?')})"
    if isinstance(kind, OneOf):
        return f"(?:{'|'.join(map(re.escape, kind.values))})"
    if isinstance(kind, Person) and kind.or_word:
        return f"(?!user:|schedule:){WORD.pattern}"
    if isinstance(kind, Person):
        return "p_[a-z2-7]{26}"
    raise TypeError(f"no expression for {type(kind).__name__}")


def _group(fields: Mapping[str, Kind], required: tuple[str, ...]) -> str:
    """Return an expression for an object: keys in order, a comma between any two that are there.

    The commas lie on the far sides of the first key that is always there; without one, each key looks behind itself.
    """
    names = sorted(fields)
    fixed = next((name for name in names if name in required), None)
    parts = []
    for name in names:
        one = f'"{name}":{_of(fields[name])}'
        if fixed is None:
            one = rf"(?:(?<=\{{)|(?<!\{{),){one}"
        elif name < fixed:
            one = f"{one},"
        elif name > fixed:
            one = f",{one}"
        parts.append(one if name in required else _optional(one))
    return r"\{" + "".join(parts) + r"\}"


def _number(most: int) -> str:
    digits = min(len(str(most)) - 1, _SAFE_DIGITS)
    if digits == 0:
        return f"[0-{most}]"
    return f"(?:0|[1-9][0-9]{{0,{digits - 1}}})"


def _positive() -> str:
    return f"[1-9][0-9]{{0,{_SAFE_DIGITS - 1}}}"
