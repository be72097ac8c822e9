"""Settings: what an environment's owners tighten."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from counterseal.documents.fields import NAME_PART, Fields
from counterseal.errors import InputInvalid
from counterseal_policy.rules.forms import CLASS, PATTERN, Approvers, approvers


@dataclass(frozen=True, slots=True)
class StageRule:
    """Autonomy stage of the agents, versions and tools that match; `*` matches all."""

    agent: str
    version: str
    tool: str
    stage: int


@dataclass(frozen=True, slots=True)
class Freeze:
    """A change freeze from `from_ms` until `until_ms` (Unix milliseconds)."""

    id: str
    from_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What an environment's owners tighten. Absent values leave the defaults of `gates.py`."""

    kinds: Mapping[str, str]
    gates: Mapping[str, Mapping[int, Approvers]]
    confidence_ppm: Mapping[int, int]
    default_stage: int | None
    stages: tuple[StageRule, ...]
    signed_votes: frozenset[int]
    freezes: tuple[Freeze, ...]
    sandbox_c4: tuple[str, ...]


def settings(fields: "Fields[Any]") -> Settings:
    """Read settings from their file's fields. Raises InputInvalid."""
    kinds = fields.raw("environment_kinds", {})
    if not isinstance(kinds, dict) or any(kind not in ("prod", "staging", "sandbox") for kind in kinds.values()):
        raise fields.error("must map environments to prod, staging or sandbox", "environment_kinds")
    return Settings(
        kinds=kinds,
        gates=_gates(fields.raw("gates", {})),
        confidence_ppm=_by_class(fields, "confidence_ppm"),
        default_stage=fields.integer("default_stage", None, most=4),
        stages=fields.items("stages", _stage, most=1024, default=[]),
        signed_votes=frozenset(int(item[1]) for item in fields.texts("signed_votes", most=5, pattern=CLASS)),
        freezes=fields.items("freezes", _freeze, most=256, default=[]),
        sandbox_c4=fields.texts("sandbox_c4", most=256, pattern=PATTERN),
    )


def _gates(value: Any) -> Mapping[str, Mapping[int, Approvers]]:
    fields: Fields[Any] = Fields(value, "/gates", InputInvalid)
    gates: dict[str, Mapping[int, Approvers]] = {}
    for kind in ("prod", "staging", "sandbox"):
        if fields.has(kind):
            inner: Fields[Any] = Fields(fields.raw(kind), f"/gates/{kind}", InputInvalid)
            gates[kind] = {
                level: approvers(inner.raw(f"C{level}"), f"/gates/{kind}/C{level}")
                for level in range(5)
                if inner.has(f"C{level}")
            }
            inner.done()
    fields.done()
    return gates


def _by_class(fields: "Fields[Any]", key: str) -> Mapping[int, int]:
    inner: Fields[Any] = Fields(fields.raw(key, {}), f"/{key}", InputInvalid)
    values = {level: inner.integer(f"C{level}", most=1_000_000) for level in range(5) if inner.has(f"C{level}")}
    inner.done()
    return values


def _stage(value: Any, where: str) -> StageRule:
    fields: Fields[Any] = Fields(value, where, InputInvalid)
    stage = StageRule(
        agent=fields.text("agent", most=128),
        version=fields.text("version", "*", most=128),
        tool=fields.text("tool", "*", most=128, pattern=PATTERN),
        stage=fields.integer("stage", most=4),
    )
    fields.done()
    return stage


def _freeze(value: Any, where: str) -> Freeze:
    fields: Fields[Any] = Fields(value, where, InputInvalid)
    start, end = fields.time("from"), fields.time("until")
    if start is None or end is None or start >= end:
        raise fields.error("needs `from` and a later `until`")
    freeze = Freeze(fields.text("id", most=64, pattern=NAME_PART), start, end)
    fields.done()
    return freeze
