"""From policy files to one compiled policy: conditions, the index of candidate rules per tool, and every lint."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from counterseal.documents.fields import DIGEST
from counterseal_policy.rules import files as f
from counterseal_policy.rules.condition import Condition, ConditionEngine, ConditionProblem
from counterseal_policy.rules.errors import Finding, PolicyFileError, error, warning

MAX_CANDIDATES = 200
UNPUBLISHABLE = frozenset({"DIGEST_MALFORMED", "LIMIT_NOT_ENFORCED"})
"""Warnings that a lint may let pass while files are being written, and a publication may not."""

_LET = re.compile(r"\blet\.([a-z][a-z0-9_]*)\b")
_STRING = re.compile(r"[rR]?(\"\"\".*?\"\"\"|'''.*?'''|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*')", re.DOTALL)
_AMOUNT = re.compile(r"action\.num\.([a-z][a-z0-9_]*)")
_UNIT = re.compile(r"action\.text\.([a-z][a-z0-9_]*)")
_FACT_PATH = re.compile(r"action\.(num|text|flag|list)\.([^.]+)(\.values)?")


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule with its condition. `name` is `<rule set>/<rule id>`."""

    name: str
    scope: str
    rule: f.Rule
    condition: Condition
    shadow: bool

    @property
    def effect(self) -> str:
        """ALLOW, DENY, REQUIRE_APPROVAL or DELEGATE."""
        return self.rule.effect


@dataclass(frozen=True, slots=True)
class CompiledRaise:
    """A condition that raises the class."""

    to: int
    condition: Condition


@dataclass(frozen=True, slots=True)
class CompiledLimit:
    """A limit with the names of the facts it reads."""

    limit: f.Limit
    amount: str
    unit: str


@dataclass(frozen=True, slots=True)
class CompiledTool:
    """A catalogue entry with everything that can apply to it."""

    entry: f.CatalogueTool
    raises: tuple[CompiledRaise, ...]
    candidates: tuple[CompiledRule, ...]
    limits: tuple[CompiledLimit, ...]

    def waits(self, condition: Condition) -> bool:
        """Tell whether the condition looks at something that is read at the target: on a draft it is not known yet."""
        prefixes = [f"action.{fact.kind}.{fact.name}" for fact in self.entry.facts if fact.observed]
        if self.entry.resource_id is not None and self.entry.resource_id.observed:
            prefixes.append("resource.id")
        return _looks_at(condition, prefixes)

    def sums_wait(self, condition: Condition) -> bool:
        """Tell whether the condition looks at a plan total of this tool that is read at the target."""
        return _looks_at(condition, [f"plan.total.{fact.name}" for fact in self.entry.facts if fact.observed])


def _looks_at(condition: Condition, prefixes: Sequence[str]) -> bool:
    looked_at = condition.expression.reads | condition.expression.guarded
    return any(path == prefix or path.startswith(f"{prefix}.") for path in looked_at for prefix in prefixes)


@dataclass(frozen=True, slots=True)
class Policy:
    """A compiled set of files. `settings` are (scope, settings); `tools` is keyed by `name@version`."""

    files: tuple[f.PolicyFile, ...]
    tools: Mapping[str, CompiledTool]
    settings: tuple[tuple[str, f.Settings], ...]
    suites: tuple[f.PolicyFile, ...]
    findings: tuple[Finding, ...] = field(default=())

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make the files unusable."""
        return tuple(finding for finding in self.findings if finding.is_error)

    @property
    def blockers(self) -> tuple[Finding, ...]:
        """The findings that refuse a publication."""
        return tuple(finding for finding in self.findings if finding.is_error or finding.code in UNPUBLISHABLE)


@dataclass(slots=True)
class _Compiler:
    engine: ConditionEngine
    findings: list[Finding] = field(default_factory=list)

    def condition(self, text: str, let: Mapping[str, str], where: str) -> Condition | None:
        try:
            return self.engine.compile(expand(text, let))
        except ConditionProblem as problem:
            self.findings += [error(f"{where}/when", code, message) for code, message in problem.problems]
        return None


def parse_files(texts: Iterable[tuple[str, bytes]]) -> list[f.PolicyFile]:
    """Read files given as (name, text); raises PolicyFileError with the findings of all of them."""
    parsed: list[f.PolicyFile] = []
    findings: list[Finding] = []
    for name, text in texts:
        try:
            parsed.append(f.parse_file(text, name))
        except PolicyFileError as problem:
            findings += problem.findings
    if findings:
        raise PolicyFileError(findings)
    return parsed


def compile_policy(policy_files: Sequence[f.PolicyFile], engine: ConditionEngine) -> Policy:
    """Compile and lint. Never raises for what authors can get wrong: look at `errors` before using the result."""
    compiler = _Compiler(engine)
    _identities(policy_files, compiler.findings)
    entries = _entries(policy_files, compiler.findings)
    rules: list[tuple[f.RuleSet, list[CompiledRule]]] = []
    limits: list[tuple[f.RuleSet, list[CompiledLimit]]] = []
    for file in policy_files:
        if isinstance(file.content, f.RuleSet):
            rules.append((file.content, _rules(file, file.content, compiler, entries)))
            if not file.content.shadow:
                limits.append((file.content, _limits(file.content, compiler.findings)))
    tools = {
        entry.tool: CompiledTool(
            entry,
            _raises(entry, compiler),
            tuple(rule for rule_set, group in rules if _applies(rule_set, entry.tool) for rule in group),
            tuple(limit for rule_set, group in limits if _applies(rule_set, entry.tool) for limit in group),
        )
        for entry in entries
    }
    for tool in tools.values():
        if len(tool.candidates) > MAX_CANDIDATES:
            where = tool.entry.where
            compiler.findings.append(error(where, "TOO_MANY_RULES", f"more than {MAX_CANDIDATES} candidate rules"))
    return Policy(
        files=tuple(policy_files),
        tools=tools,
        settings=tuple((file.scope, file.content) for file in policy_files if isinstance(file.content, f.Settings)),
        suites=tuple(file for file in policy_files if isinstance(file.content, f.Suite)),
        findings=tuple(compiler.findings),
    )


def expand(text: str, let: Mapping[str, str]) -> str:
    """Paste `let.<name>` in parentheses, outside of text literals. Raises ConditionProblem for an unknown name."""
    out: list[str] = []
    position = 0
    for literal in _STRING.finditer(text):
        out += (_paste(text[position : literal.start()], let), literal[0])
        position = literal.end()
    out.append(_paste(text[position:], let))
    return "".join(out)


def _paste(code: str, let: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in let:
            raise ConditionProblem((("UNKNOWN_LET", f"let.{match[1]} is not defined"),))
        return f"({let[match[1]]})"

    return _LET.sub(value, code)


def _applies(rule_set: f.RuleSet, tool: str) -> bool:
    return any(f.matches(pattern, tool) for pattern in rule_set.patterns)


def _identities(policy_files: Sequence[f.PolicyFile], findings: list[Finding]) -> None:
    seen: dict[tuple[str, str, str], str] = {}
    for file in policy_files:
        key = (file.kind, file.scope, file.name)
        if key in seen:
            message = f"{file.kind} {file.scope}/{file.name} is also in {seen[key]}"
            findings.append(error(file.file_name, "DUPLICATE_DOCUMENT", message))
        seen[key] = file.file_name


def _entries(policy_files: Sequence[f.PolicyFile], findings: list[Finding]) -> list[f.CatalogueTool]:
    entries: dict[str, f.CatalogueTool] = {}
    for file in policy_files:
        if file.kind != "ToolCatalogue" or not isinstance(file.content, tuple):
            continue
        for entry in file.content:
            if entry.tool in entries:
                findings.append(error(entry.where, "DUPLICATE_TOOL", f"{entry.tool} is also in the catalogue above"))
            if not DIGEST.fullmatch(entry.digest):
                message = "no tool has this digest: write all 64 digits; Publish refuses it"
                findings.append(warning(entry.where, "DIGEST_MALFORMED", message))
            entries[entry.tool] = entry
    return list(entries.values())


def _rules(
    file: f.PolicyFile, rule_set: f.RuleSet, compiler: _Compiler, entries: Sequence[f.CatalogueTool]
) -> list[CompiledRule]:
    applicable = [entry for entry in entries if _applies(rule_set, entry.tool)]
    if entries and not applicable:
        compiler.findings.append(warning(f"{file.file_name}: /match", "MATCHES_NOTHING", "no tool matches"))
    compiled: list[CompiledRule] = []
    for rule in rule_set.rules:
        condition = compiler.condition(rule.when, rule_set.let, rule.where)
        if condition is None:
            continue
        _lint_facts(rule.where, condition, applicable, compiler.findings)
        if rule.effect == "ALLOW" and "*" in rule_set.patterns:
            compiler.findings.append(warning(rule.where, "ALLOW_ALL", "an ALLOW rule that matches every tool"))
        compiled.append(CompiledRule(f"{file.name}/{rule.id}", file.scope, rule, condition, rule_set.shadow))
    _lint_guards(compiled, compiler.findings)
    return compiled


def _lint_facts(where: str, condition: Condition, entries: Sequence[f.CatalogueTool], findings: list[Finding]) -> None:
    for path in sorted(condition.expression.reads | condition.expression.guarded):
        match = _FACT_PATH.match(path)
        if match is None:
            continue
        having = [e for e in entries if any(fact.kind == match[1] and fact.name == match[2] for fact in e.facts)]
        if entries and not having:
            findings.append(error(f"{where}/when", "UNKNOWN_FACT", f"no tool declares {match[1]}.{match[2]}"))
        elif path in condition.expression.reads and path not in condition.expression.guarded:
            lacking = [entry.tool for entry in entries if entry not in having]
            if lacking:
                message = f"{match[1]}.{match[2]} is not declared by {lacking[0]}: there the rule is indeterminate"
                findings.append(warning(f"{where}/when", "FACT_NOT_EVERYWHERE", message))


def _lint_guards(compiled: Sequence[CompiledRule], findings: list[Finding]) -> None:
    """has() in front of a DENY or REQUIRE switches it off when the fact is absent: some rule must say what then."""
    strict = [rule for rule in compiled if rule.effect in ("DENY", "REQUIRE_APPROVAL")]
    absence = {path for rule in strict for path in rule.condition.expression.guarded - rule.condition.expression.reads}
    for rule in strict:
        for path in sorted(rule.condition.expression.guarded & rule.condition.expression.reads):
            if path not in absence:
                message = f"has({path}) switches the rule off when the fact is absent, and no rule covers that"
                findings.append(error(f"{rule.rule.where}/when", "GUARDED_WITHOUT_ABSENCE", message))


def _raises(entry: f.CatalogueTool, compiler: _Compiler) -> tuple[CompiledRaise, ...]:
    compiled: list[CompiledRaise] = []
    for item in entry.raises:
        condition = compiler.condition(item.when, {}, item.where)
        if condition is None:
            continue
        if condition.expression.reads & {"action.class_level", "plan.max_class_level"}:
            compiler.findings.append(error(item.where, "CLASS_IN_RAISE", "a raise cannot read the class it makes"))
        _lint_facts(item.where, condition, [entry], compiler.findings)
        compiled.append(CompiledRaise(item.to, condition))
    return tuple(compiled)


def _limits(rule_set: f.RuleSet, findings: list[Finding]) -> list[CompiledLimit]:
    compiled: list[CompiledLimit] = []
    for limit in rule_set.limits:
        amount, unit = _AMOUNT.fullmatch(limit.amount), _UNIT.fullmatch(limit.unit)
        if amount is None or unit is None:
            message = "amount and unit must name facts: action.num.<name>, action.text.<name>"
            findings.append(error(limit.where, "LIMIT_FORM", message))
            continue
        findings.append(
            warning(limit.where, "LIMIT_NOT_ENFORCED", "limits are tested but not enforced yet; Publish refuses them")
        )
        compiled.append(CompiledLimit(limit, amount[1], unit[1]))
    return compiled
