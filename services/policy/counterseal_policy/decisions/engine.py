"""The whole combining algorithm: from candidate rules to one outcome that only rises. Pure.

Numbers refer to the policy design, section 4. Containment, approvals, the durable record and the signature (2, 10 to
12) need the outside world and stand in `service.py`; they can only deny, or turn REQUIRE_APPROVAL into ALLOW.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

from counterseal.errors import InputInvalid
from counterseal_policy.decisions.assembler import Facts, Request, StepInput, step_facts, totals
from counterseal_policy.decisions.constraints import violated
from counterseal_policy.decisions.gates import DEFAULT_ROLE, Governance, governance
from counterseal_policy.decisions.outcome import (
    ALLOW,
    DENY,
    REQUIRE_APPROVAL,
    Evaluation,
    Owed,
    Requirement,
    RuleVerdict,
    StepEvaluation,
    denied,
    strictest,
)
from counterseal_policy.rules.compile import CompiledLimit, CompiledRule, CompiledTool, Policy
from counterseal_policy.rules.condition import Condition, RuleInput, Verdict
from counterseal_policy.rules.facts import RuleFacts, Usage
from counterseal_policy.rules.forms import Approvers, matches

SCOPES = ("platform", "tenant")
WAITING = "WAITING"
_REVERSIBILITY_LEVEL = {"R0": 0, "R1": 1, "R2": 2, "R3": 2, "R4": 3}
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: a policy, who asks, the steps (forward ones in order, each followed by its undo), and when.

    draft: facts that are read at the target are not known yet; rules on them wait. usage: (settled, reserved) by limit.
    supported_obligations: None when the caller supports all of them (tests of policy files).
    """

    policy: Policy
    request: Request
    steps: tuple[StepInput, ...]
    plan_digest: str
    now_ms: int
    draft: bool = False
    supported_obligations: frozenset[str] | None = None
    usage: Mapping[str, tuple[int, int]] | None = None
    stage: int | None = None
    freeze: bool | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    step: StepInput
    tool: CompiledTool
    facts: Facts
    stage: int
    others: tuple[CompiledTool, ...]

    def waits(self, condition: Condition) -> bool:
        """Whether a condition looks at what is not read yet, here or in the sums over the plan."""
        return self.tool.waits(condition) or any(tool.sums_wait(condition) for tool in self.others)


def evaluate(question: Question) -> Evaluation:
    """Return the answer. Never raises for what a plan, a token or a policy file can hold."""
    run = evaluate_stepwise(question)
    while True:
        try:
            next(run)
        except StopIteration as done:
            result: Evaluation = done.value
            return result


def evaluate_stepwise(question: Question) -> Generator[None, None, Evaluation]:
    """The same, yielding between steps: the engine holds the interpreter lock, so the caller lets others run."""
    try:
        rules = governance(question.policy.settings, question.request.environment)
        prepared = _prepare(question, rules)
        if isinstance(prepared, Evaluation):
            return prepared
        broken = violated(
            question.request.constraints,
            [(item.step, item.tool, item.facts) for item in prepared],
            rules.kind,
            draft=question.draft,
        )
        total = totals([(item.tool, item.facts) for item in prepared if not item.step.undo])
        base = [_rule_facts(question, rules, prepared, index, total) for index in range(len(prepared))]
        levels = []
        for item, facts in zip(prepared, base, strict=True):
            levels.append(_class(question, item, facts))
            yield
        highest = max(level for level, _ in levels)
        steps = []
        for item, facts, level in zip(prepared, base, levels, strict=True):
            steps.append(_step(question, rules, item, _with_class(facts, level[0], highest), level))
            yield
    except InputInvalid as problem:
        return denied("INPUT_INVALID", problem.message)
    if broken:
        return denied("CONSTRAINT_VIOLATED", f"violated: {', '.join(broken)}", tuple(steps))
    return _plan(question, prepared, steps)


def _prepare(question: Question, rules: Governance) -> "list[_Prepared] | Evaluation":
    """Steps 1 and 2: tools by exact digest, facts from the bytes."""
    if not question.policy.tools:
        return denied("NO_ACTIVE_POLICY", "no tool catalogue is active")
    prepared: list[_Prepared] = []
    tools: list[CompiledTool] = []
    for step in question.steps:
        tool = question.policy.tools.get(step.tool)
        if tool is None or tool.entry.digest != step.tool_digest:
            return denied("UNKNOWN_TOOL", f"{step.tool} with that digest is not in the catalogue")
        tools.append(tool)
    for step, tool in zip(question.steps, tools, strict=True):
        request = question.request
        stage = question.stage
        if stage is None:
            stage = rules.stage(request.agent, request.agent_version, step.tool)
        prepared.append(_Prepared(step, tool, step_facts(tool, step), stage, tuple(tools)))
    return prepared


def _rule_facts(
    question: Question, rules: Governance, prepared: Sequence[_Prepared], index: int, total: Mapping[str, int]
) -> RuleFacts:
    item, request = prepared[index], question.request
    forward = [other.step for other in prepared if not other.step.undo]
    name, _, version = item.step.tool.partition("@")
    freeze = rules.freeze(question.now_ms) if question.freeze is None else question.freeze
    return RuleFacts(
        subject_id=request.subject,
        subject_kind=request.subject_kind,
        subject_roles=request.subject_roles,
        agent_id=request.agent,
        agent_version=request.agent_version,
        agent_owner=request.agent_owner,
        agent_stage=item.stage,
        agent_model=request.model,
        tenant=request.tenant,
        environment=request.environment,
        freeze=freeze,
        tool_name=name,
        tool_version=version,
        tool_effect=item.step.effect,
        tool_reversibility=item.step.reversibility,
        tool_compensable=item.step.compensable,
        class_level=None,
        plan_digest=question.plan_digest,
        step_count=len(forward),
        step_index=next((i for i, step in enumerate(forward) if step.id == item.step.id), 0),
        max_class_level=None,
        tools=tuple(step.tool for step in forward),
        confidence_ppm=request.confidence_ppm,
        unverified=request.unverified,
        tainted=request.tainted,
        taint=request.taint,
        now_ms=question.now_ms,
        num=item.facts.num,
        text=item.facts.text,
        flag=item.facts.flag,
        list=item.facts.list,
        resource_kind=item.tool.entry.resource_kind,
        resource_id=item.facts.resource_id,
        data_classes=item.tool.entry.data_classes,
        total=total,
        usage=_usage(question, item),
    )


def _usage(question: Question, item: _Prepared) -> dict[str, Usage]:
    usage = {}
    for limit in item.tool.limits:
        most = limit.limit.maximum.get(item.facts.text.get(limit.unit, ""))
        if most is not None:
            usage[limit.limit.id] = Usage(*(question.usage or {}).get(limit.limit.id, (0, 0)), most)
    return usage


def _with_class(facts: RuleFacts, level: int, highest: int) -> RuleFacts:
    return replace(facts, class_level=level, max_class_level=highest)


def _class(question: Question, item: _Prepared, facts: RuleFacts) -> tuple[int, str]:
    """Step 3: the class is the highest impact; a `raise` that cannot be evaluated makes it C4."""
    level, source = _REVERSIBILITY_LEVEL[item.step.reversibility], "reversibility of the tool"
    for dimension, value in item.tool.entry.impact.items():
        if value > level:
            level, source = value, dimension
    if not item.tool.raises:
        return level, source
    rule_input = RuleInput(facts)
    for raised in item.tool.raises:
        if question.draft and item.waits(raised.condition):
            continue
        verdict = raised.condition.evaluate(rule_input).verdict
        if verdict is Verdict.INDETERMINATE:
            return 4, "a raise that could not be evaluated"
        if verdict is Verdict.TRUE and raised.to > level:
            level, source = raised.to, "a raise"
    return level, source


def _step(
    question: Question, rules: Governance, item: _Prepared, facts: RuleFacts, classed: tuple[int, str]
) -> StepEvaluation:
    rule_input = RuleInput(facts)
    verdicts = [(rule, *_judge(question, item, rule, rule_input)) for rule in item.tool.candidates]  # step 4
    deciding = [(rule, verdict) for rule, verdict, _ in verdicts if not rule.shadow]
    answer = _Answer()
    _combine(deciding, answer)  # steps 5 and 6
    _floors(question, rules, item, classed[0], answer)  # step 7
    _obligations(question, deciding, answer)  # step 8
    return StepEvaluation(
        id=item.step.id,
        tool=item.step.tool,
        undo=item.step.undo,
        outcome=answer.outcome,
        reason_codes=answer.codes(),
        class_level=classed[0],
        class_source=classed[1],
        stage=item.stage,
        verdicts=tuple(
            RuleVerdict(rule.name, rule.scope, rule.effect, verdict, cause, rule.shadow)
            for rule, verdict, cause in verdicts
        ),
        rules=answer.decisive(),
        requirements=tuple(answer.requirements),
        obligations=tuple(answer.obligations),
        safer_alternative=answer.safer_alternative,
        facts=item.facts,
    )


class _Answer:
    """A step's answer in the making: the outcome only rises."""

    def __init__(self) -> None:
        self.outcome = ALLOW
        self.reasons: list[tuple[str, str]] = []
        self.rules: list[CompiledRule] = []
        self.requirements: list[Requirement] = []
        self.obligations: list[Owed] = []
        self.safer_alternative: str | None = None

    def rise(self, outcome: str, code: str) -> None:
        self.outcome = strictest((self.outcome, outcome))
        if (outcome, code) not in self.reasons:
            self.reasons.append((outcome, code))

    def require(self, source: str, code: str, approvers: Approvers) -> None:
        self.rise(REQUIRE_APPROVAL, code)
        self.requirements.append(
            Requirement(
                source, code, approvers.need, approvers.roles, approvers.decide_within_ms, approvers.valid_for_ms
            )
        )

    def decisive(self) -> tuple[str, ...]:
        """The rules behind the outcome: of a denial those that deny, else all that carry or restrict the step."""
        return tuple(rule.name for rule in self.rules if self.outcome != DENY or rule.effect == "DENY")

    def codes(self) -> tuple[str, ...]:
        """The reasons of the outcome itself: a denial does not list what would have needed an approval."""
        return tuple(code for outcome, code in self.reasons if outcome == self.outcome) or ("ALLOWED_BY_RULE",)


def _judge(question: Question, item: _Prepared, rule: CompiledRule, rule_input: RuleInput) -> tuple[str, str]:
    if question.draft and item.waits(rule.condition):
        return WAITING, "reads facts that are not observed yet"
    result = rule.condition.evaluate(rule_input)
    return result.verdict.value, result.cause


def _combine(verdicts: Sequence[tuple[CompiledRule, str]], answer: _Answer) -> None:
    for rule, verdict in verdicts:
        if rule.effect == "DENY" and verdict == "TRUE":
            answer.rise(DENY, rule.rule.code or "DENIED_BY_RULE")
            _decided_by(rule, answer)
        elif rule.effect == "DENY" and verdict == "INDETERMINATE":
            answer.rise(DENY, "RULE_INDETERMINATE")
            _decided_by(rule, answer)
    if answer.outcome != DENY:
        _bases(verdicts, answer)
    for rule, verdict in verdicts:
        if rule.effect == "REQUIRE_APPROVAL" and verdict in ("TRUE", "INDETERMINATE"):
            assert rule.rule.approval is not None  # noqa: S101 (files.py demands it)
            answer.require(f"rule {rule.name}", rule.rule.code or "APPROVAL_REQUIRED", rule.rule.approval)
            _decided_by(rule, answer)


def _bases(verdicts: Sequence[tuple[CompiledRule, str]], answer: _Answer) -> None:
    """Each scope must carry the step by a rule that is true. An indeterminate REQUIRE is no base: else an error would
    make a default DENY approvable. On a draft a waiting rule counts, since it is judged again after the read.
    """
    for scope in SCOPES:
        mine = [(rule, verdict) for rule, verdict in verdicts if rule.scope == scope and rule.effect != "DENY"]
        bases = [rule for rule, verdict in mine if verdict in ("TRUE", WAITING)]
        if not bases:
            answer.rise(DENY, "NO_MATCHING_ALLOW")
            if any(verdict == "INDETERMINATE" for _, verdict in mine):
                answer.rise(DENY, "RULE_INDETERMINATE")
        for rule in bases:
            _decided_by(rule, answer)


def _decided_by(rule: CompiledRule, answer: _Answer) -> None:
    if rule not in answer.rules:
        answer.rules.append(rule)
    if rule.rule.safer_alternative is not None and answer.safer_alternative is None:
        answer.safer_alternative = rule.rule.safer_alternative


def _floors(question: Question, rules: Governance, item: _Prepared, level: int, answer: _Answer) -> None:
    """Step 7: the class gate, the autonomy stage and uncertainty, whatever the rules say."""
    named = tuple(dict.fromkeys(role for need in answer.requirements for role in need.roles))
    gate = rules.gates[level]
    if gate is not None:
        # Whom the rules name as approvers of this step, the gate accepts too.
        roles = gate.roles or ((DEFAULT_ROLE, *named) if named else ())
        answer.require(
            f"gate C{level}", "CLASS_GATE", Approvers(gate.need, roles, gate.decide_within_ms, gate.valid_for_ms)
        )
    if level == 4 and rules.kind == "sandbox" and not any(matches(p, item.step.tool) for p in rules.sandbox_c4):
        answer.rise(DENY, "CLASS_GATE")
    if not item.step.has_effect:
        return
    floor = Approvers(1, (DEFAULT_ROLE, *named) if named else (), _HOUR_MS, _HOUR_MS)
    if item.stage == 0:
        answer.rise(DENY, "AUTONOMY_STAGE")
    elif item.stage == 1 or level >= item.stage:
        # S1 asks for every effect, S2 from C2 on, S3 from C3, S4 from C4.
        answer.require(f"stage S{item.stage}", "AUTONOMY_STAGE", floor)
    request = question.request
    if request.confidence_ppm < rules.confidence_ppm[level]:
        answer.require("confidence", "LOW_CONFIDENCE", floor)
    if request.unverified:
        answer.require("unverified", "UNVERIFIED_INPUT", floor)
    if request.taint or item.step.id in request.tainted:
        answer.require("taint", "TAINTED_INPUT", floor)


def _obligations(question: Question, verdicts: Sequence[tuple[CompiledRule, str]], answer: _Answer) -> None:
    """Step 8: an indeterminate rule's obligations count too."""
    ttl: int | None = None
    for rule, verdict in verdicts:
        if rule.effect not in ("ALLOW", "REQUIRE_APPROVAL") or verdict not in ("TRUE", "INDETERMINATE"):
            continue
        for spec in rule.rule.obligations:
            supported = question.supported_obligations
            if supported is not None and spec.type not in supported:
                answer.rise(DENY, "OBLIGATION_UNSUPPORTED")
            owed = Owed(spec.type, spec.properties)
            if spec.type == "max_grant_ttl":
                seconds = int(spec.properties["seconds"])
                ttl = seconds if ttl is None else min(ttl, seconds)
            elif owed not in answer.obligations:
                answer.obligations.append(owed)
    if ttl is not None:
        answer.obligations.append(Owed("max_grant_ttl", {"seconds": ttl}))


def _plan(question: Question, prepared: Sequence[_Prepared], steps: Sequence[StepEvaluation]) -> Evaluation:
    """The strictest over the plan, then step 9: limits over the sum of the plan."""
    reasons = [(step.outcome, code) for step in steps for code in step.reason_codes]
    requirements = [need for step in steps for need in step.requirements]
    for limit, exceeded in [] if question.draft else _exceeded(question, prepared):
        reasons.append((exceeded, "LIMIT_EXCEEDED"))
        if exceeded == REQUIRE_APPROVAL:
            source = f"limit {limit.limit.id}"
            requirements.append(Requirement(source, "LIMIT_EXCEEDED", 1, (), _HOUR_MS, _HOUR_MS))
    outcome = strictest(level for level, _ in reasons)
    return Evaluation(
        outcome=outcome,
        reason_codes=tuple(dict.fromkeys(code for level, code in reasons if level == outcome)),
        steps=tuple(steps),
        class_level=max(step.class_level for step in steps),
        stage=min(step.stage for step in steps),
        rules=tuple(dict.fromkeys(rule for step in steps for rule in step.rules)),
        requirements=_merge(requirements),
        obligations=_distinct([owed for step in steps for owed in step.obligations]),
        safer_alternative=next((step.safer_alternative for step in steps if step.safer_alternative), None),
    )


def _merge(requirements: Sequence[Requirement]) -> tuple[Requirement, ...]:
    """Each requirement once: equal source and roles merge to the higher need and the shorter times."""
    merged: dict[tuple[str, tuple[str, ...]], Requirement] = {}
    for item in requirements:
        key = (item.source, item.roles)
        other = merged.get(key, item)
        merged[key] = Requirement(
            item.source,
            item.reason,
            max(item.need, other.need),
            item.roles,
            min(item.decide_within_ms, other.decide_within_ms),
            min(item.valid_for_ms, other.valid_for_ms),
        )
    return tuple(merged.values())


def _distinct(items: Sequence[Owed]) -> tuple[Owed, ...]:
    found: list[Owed] = []
    for item in items:
        if item not in found:
            found.append(item)
    return tuple(found)


def _exceeded(question: Question, prepared: Sequence[_Prepared]) -> list[tuple[CompiledLimit, str]]:
    """Sum per limit over the plan; an absent amount or unit denies, a unit without a maximum is exceeded."""
    found: dict[str, tuple[CompiledLimit, str]] = {}
    sums: dict[tuple[str, str], int] = {}
    for item in prepared:
        if item.step.undo:
            continue
        for limit in item.tool.limits:
            answer = _one_limit(question, item, limit, sums)
            before = found.get(limit.limit.id, (limit, ""))[1]
            if answer:
                found[limit.limit.id] = (limit, strictest((before or ALLOW, answer)))
    return list(found.values())


def _one_limit(question: Question, item: _Prepared, limit: CompiledLimit, sums: dict[tuple[str, str], int]) -> str:
    amount, unit = item.facts.num.get(limit.amount), item.facts.text.get(limit.unit)
    if amount is None or unit is None or amount < 0:
        return DENY
    key = (limit.limit.id, unit)
    sums[key] = sums.get(key, 0) + amount
    most = limit.limit.maximum.get(unit)
    settled, reserved = (question.usage or {}).get(limit.limit.id, (0, 0))
    return limit.limit.on_exceed if most is None or settled + reserved + sums[key] > most else ""
