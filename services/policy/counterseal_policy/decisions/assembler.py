"""Facts for the rules, from sources that cannot be argued with: the verified token, the exact bytes, the catalogue.

One pure function per source. A pointer at nothing leaves a fact absent; a value of the wrong type, range or alphabet is
INPUT_INVALID, which denies. Source: the policy design, section 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from counterseal.canonical import pointer
from counterseal.errors import InputInvalid
from counterseal_policy.rules.catalogue import INT64_MAX, INT64_MIN, MAX_LIST, Fact
from counterseal_policy.rules.compile import CompiledTool

_RESERVED = ("$ref", "$secret", "$sealed", "$before")
_ABSENT: Any = object()
CURRENCY = "currency"


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks, for whom, under what: from the token; claims are the agent's word from the plan bytes."""

    subject: str
    subject_roles: tuple[str, ...]
    agent: str
    agent_version: str
    agent_owner: str
    tenant: str
    environment: str
    constraints: Mapping[str, Any]
    model: str | None = None
    confidence_ppm: int = 0
    unverified: tuple[str, ...] = ()
    tainted: tuple[str, ...] = ()
    taint: bool = False

    @property
    def subject_kind(self) -> str:
        """`user` or `schedule`."""
        return self.subject.partition(":")[0]


@dataclass(frozen=True, slots=True)
class StepInput:
    """One tool call as the bytes say it. `observed`: what was read at the target, by name; None on a draft.

    effect, reversibility: of the descriptor whose digest the bytes name. `undo`: it takes the step of that id back.
    """

    id: str
    tool: str
    tool_digest: str
    target: str
    args: Mapping[str, Any]
    observed: Mapping[str, Any] | None
    effect: str
    reversibility: str
    compensable: bool
    undo: bool = False

    @property
    def has_effect(self) -> bool:
        """Whether running it can change anything."""
        return self.effect != "E0"


@dataclass(frozen=True, slots=True)
class Facts:
    """The catalogue's facts of one step; what the bytes do not hold is absent."""

    num: dict[str, int] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    flag: dict[str, bool] = field(default_factory=dict)
    list: dict[str, tuple[str, ...]] = field(default_factory=dict)
    resource_id: str | None = None


def step_facts(tool: CompiledTool, step: StepInput) -> Facts:
    """Read the catalogue's facts from a step's bytes. Raises InputInvalid naming fact and pointer, never a value."""
    num: dict[str, int] = {}
    text: dict[str, str] = {}
    flag: dict[str, bool] = {}
    lists: dict[str, tuple[str, ...]] = {}
    for fact in tool.entry.facts:
        value = _find(fact, step)
        if value is _ABSENT:
            continue
        if fact.kind == "num":
            num[fact.name] = _number(fact, value)
        elif fact.kind == "text":
            text[fact.name] = _text(fact, value)
        elif fact.kind == "flag":
            flag[fact.name] = _flag(fact, value)
        else:
            lists[fact.name] = _list(fact, value)
    resource_id = None
    if tool.entry.resource_id is not None:
        found = _find(tool.entry.resource_id, step)
        resource_id = None if found is _ABSENT else _text(tool.entry.resource_id, found)
    return Facts(num, text, flag, lists, resource_id)


def unit_fact(tool: CompiledTool, fact: Fact) -> str | None:
    """Return the name of the text fact that is a number's unit: as declared, else `currency` for `.._minor`."""
    if fact.unit is not None:
        return fact.unit
    texts = {item.name for item in tool.entry.facts if item.kind == "text"}
    return CURRENCY if fact.name.endswith("_minor") and CURRENCY in texts else None


def totals(steps: Sequence[tuple[CompiledTool, Facts]]) -> dict[str, int]:
    """Sum every number over the forward steps, per unit: `amount_minor.EUR`, or `count` where there is no unit.

    A step that declares the fact and lacks it (or its unit) makes the sum unknown: the total is then absent under
    every unit. Raises InputInvalid when a sum leaves 64 bits.
    """
    sums: dict[str, int] = {}
    unknown: set[str] = set()
    for tool, facts in steps:
        for fact in tool.entry.facts:
            if fact.kind != "num":
                continue
            unit = unit_fact(tool, fact)
            if fact.name not in facts.num or (unit is not None and unit not in facts.text):
                unknown.add(fact.name)
                continue
            key = fact.name if unit is None else f"{fact.name}.{facts.text[unit]}"
            sums[key] = sums.get(key, 0) + facts.num[fact.name]
            if not INT64_MIN <= sums[key] <= INT64_MAX:
                raise InputInvalid(f"the sum of {fact.name} leaves 64 bits")
    return {key: value for key, value in sums.items() if key.partition(".")[0] not in unknown}


def _find(fact: Fact, step: StepInput) -> Any:
    if fact.observed:
        name, _, rest = fact.pointer[1:].partition("/")
        observed = step.observed or {}
        name = name.replace("~1", "/").replace("~0", "~")
        return _walk(observed[name], f"/{rest}" if rest else "") if name in observed else _ABSENT
    return _walk(step.args, fact.pointer)


def _walk(document: Any, path: str) -> Any:
    """Follow the pointer; a reserved object on the way, null and nothing are all absent."""
    at = document
    for part in [None, *path[1:].split("/")] if path else [None]:
        if part is not None:
            try:
                at = pointer(at, f"/{part}")
            except KeyError:
                return _ABSENT
        if isinstance(at, dict) and any(key in at for key in _RESERVED):
            return _ABSENT
    return _ABSENT if at is None else at


def _wrong(fact: Fact, what: str) -> InputInvalid:
    return InputInvalid(f"fact {fact.kind}.{fact.name}: {fact.source}:{fact.pointer} {what}")


def _number(fact: Fact, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(fact, "is not an integer")
    if not fact.least <= value <= fact.most:
        raise _wrong(fact, "is out of range")
    return value


def _text(fact: Fact, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(fact, "is not text")
    if len(value) > fact.max_length:
        raise _wrong(fact, f"is longer than {fact.max_length}")
    if any(ch < " " or "\x7f" <= ch <= "\x9f" for ch in value):
        raise _wrong(fact, "holds control characters")
    if not fact.unicode and not value.isascii():
        raise _wrong(fact, "is not ASCII")
    if fact.enum and value not in fact.enum:
        raise _wrong(fact, "is not one of the listed values")
    return value


def _flag(fact: Fact, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(fact, "is not true or false")
    return value


def _list(fact: Fact, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_LIST:
        raise _wrong(fact, f"is not a list of at most {MAX_LIST} items")
    return tuple(_text(fact, item) for item in value)
