"""Tool catalogues: what policy knows about each version of each tool, and which of its values are facts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from counterseal.documents.fields import Fields, token
from counterseal.documents.tool import REFERENCE
from counterseal.errors import InputInvalid
from counterseal_policy.rules.forms import MAX_CONDITION, NAME

DIMENSIONS = ("reversibility", "cost", "compliance", "customer", "breadth")
FACT_KINDS = ("num", "text", "flag", "list")
MAX_TEXT = 4096
MAX_LIST = 256

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1

_SOURCE = re.compile(r"(args|observed):(/[^\x00-\x1f]*)")
_DIGEST_LIKE = re.compile(r"sha256:[0-9a-f.]{1,64}")


@dataclass(frozen=True, slots=True)
class Raise:
    """Raises the action class to `to` when the condition holds or cannot be evaluated."""

    to: int
    when: str
    where: str


@dataclass(frozen=True, slots=True)
class Fact:
    """Where a fact comes from and what it may be. `unit` names the text fact that is a number's unit."""

    kind: str
    name: str
    source: str
    pointer: str
    least: int = INT64_MIN
    most: int = INT64_MAX
    enum: tuple[str, ...] = ()
    unicode: bool = False
    max_length: int = 1024
    unit: str | None = None

    @property
    def observed(self) -> bool:
        """Whether the value is read at the target, so that it is not known on a draft."""
        return self.source == "observed"


@dataclass(frozen=True, slots=True)
class CatalogueTool:
    """What policy knows about one version of one tool. `digest` is the executor's `tool_digest`."""

    tool: str
    digest: str
    impact: Mapping[str, int]
    raises: tuple[Raise, ...]
    resource_kind: str | None
    resource_id: Fact | None
    data_classes: tuple[str, ...]
    deletes: bool | None
    facts: tuple[Fact, ...]
    where: str


def tool_of(value: Any, where: str, file_name: str) -> CatalogueTool:
    """Read one tool of a catalogue. Raises InputInvalid."""
    fields: Fields[Any] = Fields(value, where, InputInvalid)
    impact: Fields[Any] = Fields(fields.raw("impact"), f"{where}/impact", InputInvalid)
    levels = {dimension: impact.integer(dimension, most=4) for dimension in DIMENSIONS}
    impact.done()
    kind, resource_id = _resource(fields, where)
    tool = CatalogueTool(
        tool=fields.text("tool", most=128, pattern=REFERENCE),
        digest=fields.text("digest", most=71, pattern=_DIGEST_LIKE),
        impact=levels,
        raises=fields.items("raise", lambda v, w: _raise(v, w, file_name), most=16, default=[]),
        resource_kind=kind,
        resource_id=resource_id,
        data_classes=fields.texts("data_classes", most=32, pattern=NAME),
        deletes=fields.boolean("deletes", None),
        facts=_facts(fields.raw("facts", {}), f"{where}/facts"),
        where=f"{file_name}: {where}",
    )
    fields.done()
    return tool


def _resource(fields: "Fields[Any]", where: str) -> tuple[str | None, Fact | None]:
    if not fields.has("resource"):
        return None, None
    resource: Fields[Any] = Fields(fields.raw("resource"), f"{where}/resource", InputInvalid)
    kind = resource.text("kind", most=64, pattern=NAME)
    source, pointer = _source(resource, "id")
    resource.done()
    return kind, Fact("text", "id", source, pointer, max_length=256)


def _raise(value: Any, where: str, file_name: str) -> Raise:
    fields: Fields[Any] = Fields(value, where, InputInvalid)
    result = Raise(
        fields.integer("to", least=1, most=4), fields.text("when", most=MAX_CONDITION), f"{file_name}: {where}"
    )
    fields.done()
    return result


def _source(fields: "Fields[Any]", key: str) -> tuple[str, str]:
    match = _SOURCE.fullmatch(fields.text(key, most=256, pattern=_SOURCE))
    assert match is not None  # noqa: S101 (text() has matched the same pattern)
    return match[1], match[2]


def _facts(value: Any, where: str) -> tuple[Fact, ...]:
    groups: Fields[Any] = Fields(value, where, InputInvalid)
    facts: list[Fact] = []
    for kind in FACT_KINDS:
        group = groups.raw(kind, {})
        if not isinstance(group, dict):
            raise groups.error("must be a map", kind)
        for name, spec in group.items():
            if not NAME.fullmatch(name):
                raise groups.error(f"{name!r} must be a lower-case name", kind)
            facts.append(_fact(kind, name, spec, f"{where}/{kind}/{token(name)}"))
    groups.done()
    texts = {fact.name for fact in facts if fact.kind == "text"}
    for fact in facts:
        if fact.unit is not None and fact.unit not in texts:
            raise InputInvalid(f"{where}/num/{fact.name}/unit: no text fact is named {fact.unit!r}", pointer=where)
    return tuple(facts)


def _fact(kind: str, name: str, value: Any, where: str) -> Fact:
    fields: Fields[Any] = Fields(value, where, InputInvalid)
    source, pointer = _source(fields, "from")
    num, text = kind == "num", kind in ("text", "list")
    fact = Fact(
        kind=kind,
        name=name,
        source=source,
        pointer=pointer,
        least=fields.integer("min", INT64_MIN, least=INT64_MIN) if num else INT64_MIN,
        most=fields.integer("max", INT64_MAX, least=INT64_MIN) if num else INT64_MAX,
        enum=fields.texts("enum", most=MAX_LIST) if text else (),
        unicode=fields.boolean("unicode", False) if text else False,
        max_length=fields.integer("max_length", 1024, least=1, most=MAX_TEXT) if text else 1024,
        unit=fields.text("unit", None, most=64) if num else None,
    )
    fields.done()
    return fact
