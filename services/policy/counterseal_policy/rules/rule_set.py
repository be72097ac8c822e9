"""Rule sets: rules and limits of one concern. Conditions stay text here; `compile.py` gives them a meaning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from counterseal.documents.fields import NAME_PART, Fields
from counterseal.documents.tool import REFERENCE
from counterseal.errors import InputInvalid
from counterseal_policy.rules.forms import CODE, MAX_CONDITION, NAME, PATTERN, Approvers, approvers, duration, unique

EFFECTS = ("ALLOW", "DENY", "REQUIRE_APPROVAL", "DELEGATE")
OBLIGATIONS = ("notification", "step_up", "dry_run_first", "max_grant_ttl", "checkpoint_wait", "review_sample")


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


def rule_set(fields: "Fields[Any]", metadata: "Fields[Any]", scope: str, file_name: str) -> RuleSet:
    """Read a rule set from its file's fields. Raises InputInvalid."""
    match: Fields[Any] = Fields(fields.raw("match"), "/match", InputInvalid)
    patterns = match.texts("tools", most=256, pattern=PATTERN)
    if not patterns:
        raise match.error("must name at least one tool pattern", "tools")
    match.done()
    let = fields.raw("let", {})
    if not isinstance(let, dict):
        raise fields.error("must be a map", "let")
    for name, text in let.items():
        if not NAME.fullmatch(name) or not isinstance(text, str) or not 1 <= len(text) <= MAX_CONDITION:
            raise fields.error(f"{name!r} must be a lower-case name with a condition's text", "let")
    rules = fields.items("rules", lambda v, w: _rule(v, w, scope, file_name), most=1024, default=[])
    unique([rule.id for rule in rules], "/rules")
    limits = fields.items("limits", lambda v, w: _limit(v, w, file_name), most=64, default=[])
    unique([limit.id for limit in limits], "/limits")
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
        approval = approvers(fields.raw("approval"), f"{where}/approval")
    code = None
    if fields.has("reason"):
        reason: Fields[Any] = Fields(fields.raw("reason"), f"{where}/reason", InputInvalid)
        code = reason.text("code", most=64, pattern=CODE)
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


def _limit(value: Any, where: str, file_name: str) -> Limit:
    fields: Fields[Any] = Fields(value, where, InputInvalid)
    window: Fields[Any] = Fields(fields.raw("window"), f"{where}/window", InputInvalid)
    window_ms = duration(window, "fixed", None)
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
