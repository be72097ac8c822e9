"""Policy files as values: rule sets, tool catalogues, settings and test suites, read from strict YAML.

Every form is closed: a field that nobody reads is an error, since a misspelt `when` must not become a rule that always
holds. Conditions are kept as text here; `compile.py` gives them a meaning. Source: the policy design, sections 3 and 5.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from counterseal.canonical import JsonObject, canonical, digest
from counterseal.documents.fields import NAME_PART, Fields, token
from counterseal.documents.tool import REFERENCE
from counterseal.errors import InputInvalid, NotCanonical
from counterseal_policy.rules import yaml
from counterseal_policy.rules.errors import PolicyFileError, error

API_VERSION = "counterseal/policy.v1"
KINDS = ("RuleSet", "ToolCatalogue", "Settings", "TestSuite")
SCOPES = ("platform", "tenant")
EFFECTS = ("ALLOW", "DENY", "REQUIRE_APPROVAL", "DELEGATE")
DIMENSIONS = ("reversibility", "cost", "compliance", "customer", "breadth")
FACT_KINDS = ("num", "text", "flag", "list")
OBLIGATIONS = ("notification", "step_up", "dry_run_first", "max_grant_ttl", "checkpoint_wait", "review_sample")
MAX_CONDITION = 4096
MAX_TEXT = 4096
MAX_LIST = 256

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1

_CODE = re.compile(r"[A-Z][A-Z0-9_]{2,63}")
_FACT = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SOURCE = re.compile(r"(args|observed):(/[^\x00-\x1f]*)")
_PATTERN = re.compile(r"[a-z0-9_.]*\*?(@[0-9.]*\*?)?")
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_CLASS = re.compile(r"C[0-4]")
_DIGEST_LIKE = re.compile(r"sha256:[0-9a-f.]{1,64}")
MAX_DURATION_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class Approvers:
    """What a rule or gate asks of people. Empty roles mean the default role. Times: milliseconds."""

    need: int
    roles: tuple[str, ...]
    decide_within_ms: int
    valid_for_ms: int


@dataclass(frozen=True, slots=True)
class ObligationSpec:
    """An obligation as a rule states it."""

    type: str
    properties: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `when` is its condition's text; `where` its place in the file, for messages."""

    id: str
    effect: str
    when: str
    severity: str
    code: str | None
    obligations: tuple[ObligationSpec, ...]
    approval: Approvers | None
    safer_alternative: str | None
    where: str


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit on a fact's sum per key and window. `maximum` is by unit; a unit that is not listed is exceeded."""

    id: str
    key: tuple[str, ...]
    amount: str
    unit: str
    window_ms: int
    maximum: Mapping[str, int]
    on_exceed: str
    where: str


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules of one concern. In `shadow` they are recorded and never decide."""

    patterns: tuple[str, ...]
    let: Mapping[str, str]
    rules: tuple[Rule, ...]
    limits: tuple[Limit, ...]
    shadow: bool
    owner: str | None
    tests: str | None


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


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """One file: its identity, its canonical bytes and digest (kind `policy-document`), and what it says."""

    kind: str
    scope: str
    name: str
    file_name: str
    body: bytes
    digest: str
    content: RuleSet | tuple[CatalogueTool, ...] | Settings | Suite


def parse_file(text: bytes, file_name: str) -> PolicyFile:
    """Read one policy file. Raises PolicyFileError."""
    document = yaml.load(text, file_name)
    try:
        return _file(document, file_name, canonical(document))
    except NotCanonical as problem:
        raise PolicyFileError([error(file_name, "SCHEMA", problem.message)]) from None
    except PolicyFileError:
        raise
    except InputInvalid as problem:
        raise PolicyFileError([error(file_name, "SCHEMA", problem.message)]) from None


def matches(pattern: str, reference: str) -> bool:
    """Tell whether `name@version` matches a pattern such as `*`, `payments.*`, `payments.refund@2.*`."""
    name, _, version = reference.partition("@")
    name_pattern, _, version_pattern = pattern.partition("@")
    return _glob(name_pattern, name) and (not version_pattern or _glob(version_pattern, version))


def _glob(pattern: str, text: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def _file(document: JsonObject, file_name: str, body: bytes) -> PolicyFile:
    fields: Fields[Any] = Fields(document, "", InputInvalid)
    fields.one_of("apiVersion", (API_VERSION,))
    kind = fields.one_of("kind", KINDS)
    metadata: Fields[Any] = Fields(fields.raw("metadata"), "/metadata", InputInvalid)
    name = metadata.text("name", most=48, pattern=NAME_PART)
    scope = metadata.one_of("scope", SCOPES)
    content: RuleSet | tuple[CatalogueTool, ...] | Settings | Suite
    if kind == "RuleSet":
        content = _rule_set(fields, metadata, scope, file_name)
    elif kind == "ToolCatalogue":
        content = fields.items("tools", lambda v, w: _tool(v, w, file_name), most=1024)
    elif kind == "Settings":
        content = _settings(fields)
    else:
        content = _suite(fields)
    metadata.done()
    fields.done()
    return PolicyFile(kind, scope, name, file_name, body, digest("policy-document", body), content)


def _rule_set(fields: "Fields[Any]", metadata: "Fields[Any]", scope: str, file_name: str) -> RuleSet:
    match: Fields[Any] = Fields(fields.raw("match"), "/match", InputInvalid)
    patterns = match.texts("tools", most=256, pattern=_PATTERN)
    if not patterns:
        raise match.error("must name at least one tool pattern", "tools")
    match.done()
    let = fields.raw("let", {})
    if not isinstance(let, dict):
        raise fields.error("must be a map", "let")
    for name, text in let.items():
        if not _FACT.fullmatch(name) or not isinstance(text, str) or not 1 <= len(text) <= MAX_CONDITION:
            raise fields.error(f"{name!r} must be a lower-case name with a condition's text", "let")
    rules = fields.items("rules", lambda v, w: _rule(v, w, scope, file_name), most=1024, default=[])
    _unique([rule.id for rule in rules], "/rules")
    limits = fields.items("limits", lambda v, w: _limit(v, w, file_name), most=64, default=[])
    _unique([limit.id for limit in limits], "/limits")
    return RuleSet(
        patterns=patterns,
        let=let,
        rules=rules,
        limits=limits,
        shadow=metadata.one_of("enforcement", ("enforce", "shadow"), "enforce") == "shadow",
        owner=metadata.text("owner", None, most=128),
        tests=fields.text("tests", None, most=200),
    )


def _rule(value: Any, where: str, scope: str, file_name: str) -> Rule:
    fields: Fields[Any] = Fields(value, where, InputInvalid)
    effect = fields.one_of("effect", EFFECTS)
    if effect == "DELEGATE" and scope != "platform":
        raise fields.error("only platform rules may delegate", "effect")
    approval = None
    if effect == "REQUIRE_APPROVAL":
        approval = _approvers(fields.raw("approval"), f"{where}/approval")
    code = None
    if fields.has("reason"):
        reason: Fields[Any] = Fields(fields.raw("reason"), f"{where}/reason", InputInvalid)
        code = reason.text("code", most=64, pattern=_CODE)
        reason.done()
    obligations = fields.items("obligations", _obligation, most=16, default=[])
    if obligations and effect not in ("ALLOW", "REQUIRE_APPROVAL"):
        raise fields.error(f"a {effect} rule has none", "obligations")
    rule = Rule(
        id=fields.text("id", most=64, pattern=NAME_PART),
        effect=effect,
        when=fields.text("when", most=MAX_CONDITION),
        severity=fields.one_of("severity", ("low", "medium", "high"), "medium"),
        code=code,
        obligations=obligations,
        approval=approval,
        safer_alternative=fields.text("safer_alternative", None, most=128, pattern=REFERENCE),
        where=f"{file_name}: {where}",
    )
    fields.text("description", None, most=2000)
    fields.done()
    return rule


def _obligation(value: Any, where: str) -> ObligationSpec:
    fields: Fields[Any] = Fields(value, where, InputInvalid)
    properties = fields.raw("properties", {})
    if not isinstance(properties, dict):
        raise fields.error("must be a map", "properties")
    obligation = ObligationSpec(fields.one_of("type", OBLIGATIONS), properties)
    if obligation.type == "max_grant_ttl":
        inner: Fields[Any] = Fields(properties, f"{where}/properties", InputInvalid)
        inner.integer("seconds", least=1, most=900)
        inner.done()
    fields.done()
    return obligation


def _approvers(value: Any, where: str) -> Approvers:
    fields: Fields[Any] = Fields(value, where, InputInvalid)
    approvers = Approvers(
        need=fields.integer("need", least=1, most=16),
        roles=fields.texts("roles", most=16, pattern=_FACT),
        decide_within_ms=_duration(fields, "decide_within", 3_600_000),
        valid_for_ms=_duration(fields, "valid_for", 3_600_000),
    )
    fields.done()
    return approvers


def _limit(value: Any, where: str, file_name: str) -> Limit:
    fields: Fields[Any] = Fields(value, where, InputInvalid)
    window: Fields[Any] = Fields(fields.raw("window"), f"{where}/window", InputInvalid)
    window_ms = _duration(window, "fixed", None)
    window.done()
    maximum = fields.raw("max")
    if not isinstance(maximum, dict) or not maximum:
        raise fields.error("must be a map of unit to amount", "max")
    for unit, most in maximum.items():
        if isinstance(most, bool) or not isinstance(most, int) or most < 0:
            raise fields.error(f"{unit}: must be an integer, at least 0", "max")
    limit = Limit(
        id=fields.text("id", most=64, pattern=NAME_PART),
        key=fields.texts("key", most=8),
        amount=fields.text("amount", most=MAX_CONDITION),
        unit=fields.text("unit", most=MAX_CONDITION),
        window_ms=window_ms,
        maximum=maximum,
        on_exceed=fields.one_of("on_exceed", ("DENY", "REQUIRE_APPROVAL"), "DENY"),
        where=f"{file_name}: {where}",
    )
    fields.done()
    return limit


def _duration(fields: "Fields[Any]", key: str, default: int | None) -> int:
    if default is not None and not fields.has(key):
        return default
    match = _DURATION.fullmatch(fields.text(key, most=8, pattern=_DURATION))
    assert match is not None  # noqa: S101 (text() has matched the same pattern)
    length = int(match[1]) * _UNIT_MS[match[2]]
    if length > MAX_DURATION_MS:
        raise fields.error("is longer than 30d", key)
    return length


def _tool(value: Any, where: str, file_name: str) -> CatalogueTool:
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
        data_classes=fields.texts("data_classes", most=32, pattern=_FACT),
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
    kind = resource.text("kind", most=64, pattern=_FACT)
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
            if not _FACT.fullmatch(name):
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


def _settings(fields: "Fields[Any]") -> Settings:
    kinds = fields.raw("environment_kinds", {})
    if not isinstance(kinds, dict) or any(kind not in ("prod", "staging", "sandbox") for kind in kinds.values()):
        raise fields.error("must map environments to prod, staging or sandbox", "environment_kinds")
    return Settings(
        kinds=kinds,
        gates=_gates(fields.raw("gates", {})),
        confidence_ppm=_by_class(fields, "confidence_ppm"),
        default_stage=fields.integer("default_stage", None, most=4),
        stages=fields.items("stages", _stage, most=1024, default=[]),
        signed_votes=frozenset(int(item[1]) for item in fields.texts("signed_votes", most=5, pattern=_CLASS)),
        freezes=fields.items("freezes", _freeze, most=256, default=[]),
        sandbox_c4=fields.texts("sandbox_c4", most=256, pattern=_PATTERN),
    )


def _gates(value: Any) -> Mapping[str, Mapping[int, Approvers]]:
    fields: Fields[Any] = Fields(value, "/gates", InputInvalid)
    gates: dict[str, Mapping[int, Approvers]] = {}
    for kind in ("prod", "staging", "sandbox"):
        if fields.has(kind):
            inner: Fields[Any] = Fields(fields.raw(kind), f"/gates/{kind}", InputInvalid)
            gates[kind] = {
                level: _approvers(inner.raw(f"C{level}"), f"/gates/{kind}/C{level}")
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
        tool=fields.text("tool", "*", most=128, pattern=_PATTERN),
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


def _suite(fields: "Fields[Any]") -> Suite:
    base = fields.raw("base")
    if not isinstance(base, dict):
        raise fields.error("must be a map", "base")
    cases = fields.items("cases", _case, most=4096)
    _unique([case.name for case in cases], "/cases")
    return Suite(base, cases)


def _case(value: Any, where: str) -> Case:
    fields: Fields[Any] = Fields(value, where, InputInvalid)
    changes = fields.raw("set", {})
    if not isinstance(changes, dict):
        raise fields.error("must map pointers to values", "set")
    expected_class = fields.text("class", None, most=2, pattern=_CLASS)
    case = Case(
        name=fields.text("name", most=200),
        changes=changes,
        removals=fields.texts("unset", most=64),
        usage=_usage(fields.raw("usage", {}), f"{where}/usage"),
        outcome=fields.one_of("outcome", ("ALLOW", "DENY", "REQUIRE_APPROVAL")),
        action_class=None if expected_class is None else int(expected_class[1]),
        reason=fields.text("reason", None, most=64, pattern=_CODE),
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


def _unique(names: list[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputInvalid(f"{where}: {name!r} occurs twice", pointer=where)
        seen.add(name)
