"""Runs the test suites that stand beside policy files, with the same engine as the server.

Beside the stated expectations: every rule of a suite's scope must have been seen TRUE and FALSE, and each fact is
dropped from each case once, which must never make the answer less strict (`WIDENS_ON_ABSENCE`).
"""

import copy
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from counterseal.canonical import JsonObject, pointer
from counterseal.documents.fields import Fields, time_ms
from counterseal.documents.tool import EFFECTS, REVERSIBILITIES
from counterseal.errors import InputInvalid
from counterseal_policy.decisions.assembler import Request, StepInput
from counterseal_policy.decisions.engine import Question, evaluate
from counterseal_policy.decisions.outcome import ALLOW, DENY, REQUIRE_APPROVAL, Evaluation
from counterseal_policy.rules.compile import Policy
from counterseal_policy.rules.errors import Finding, error
from counterseal_policy.rules.files import Case, PolicyFile, RuleSet, Suite

_STRICTNESS = (ALLOW, REQUIRE_APPROVAL, DENY)
_REVERSIBILITY = ("R0", "R1", "R2", "R4", "R4")
_DIGEST = "sha256:" + "0" * 64


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case: what failed, in words; nothing when it passed."""

    suite: str
    name: str
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every expectation held."""
        return not self.failures


@dataclass(frozen=True, slots=True)
class Report:
    """All cases, and findings that concern no single one."""

    cases: tuple[CaseResult, ...]
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every case passed and nothing was found."""
        return all(case.passed for case in self.cases) and not self.findings


def run_suites(policy: Policy) -> Report:
    """Run every case of every suite."""
    run = run_stepwise(policy)
    while True:
        try:
            next(run)
        except StopIteration as done:
            report: Report = done.value
            return report


def run_stepwise(policy: Policy) -> Generator[None, None, Report]:
    """The same, yielding between cases: a server lets others run meanwhile."""
    results: list[CaseResult] = []
    findings: list[Finding] = []
    seen: dict[str, set[str]] = {}
    for file in policy.suites:
        if not isinstance(file.content, Suite):
            continue
        for case in file.content.cases:
            result, evaluation = _run(policy, file, file.content, case)
            results.append(result)
            for step in evaluation.steps if evaluation else ():
                for verdict in step.verdicts:
                    seen.setdefault(verdict.name, set()).add(verdict.verdict)
            yield
    findings += _uncovered(policy, seen)
    return Report(tuple(results), tuple(findings))


def _run(policy: Policy, file: PolicyFile, suite: Suite, case: Case) -> tuple[CaseResult, Evaluation | None]:
    try:
        document = _changed(suite.base, case)
        question = _question(policy, document, case.usage)
    except (InputInvalid, KeyError) as problem:
        return CaseResult(file.name, case.name, (f"the case cannot be built: {problem}",)), None
    evaluation = evaluate(question)
    failures = [*_compare(case, evaluation), *_widening(policy, document, case, question, evaluation)]
    return CaseResult(file.name, case.name, tuple(failures)), evaluation


def _compare(case: Case, answer: Evaluation) -> Iterator[str]:
    if answer.outcome != case.outcome:
        why = f" ({answer.message})" if answer.message else ""
        yield f"outcome is {answer.outcome} {list(answer.reason_codes)}{why}, expected {case.outcome}"
    if case.action_class is not None and answer.class_level != case.action_class:
        yield f"class is C{answer.class_level}, expected C{case.action_class}"
    if case.reason is not None and case.reason not in answer.reason_codes:
        yield f"reasons are {list(answer.reason_codes)}, expected {case.reason}"
    true = {verdict.name for step in answer.steps for verdict in step.verdicts if verdict.verdict == "TRUE"}
    for rule in case.rules or ():
        if rule not in true:
            yield f"rule {rule} is not TRUE"
    owed = sorted(item.type for item in answer.obligations)
    if case.obligations is not None and owed != sorted(case.obligations):
        yield f"obligations are {owed}, expected {sorted(case.obligations)}"
    need = max((item.need for item in answer.requirements), default=0)
    if case.need is not None and need != case.need:
        yield f"{need} approvals are needed, expected {case.need}"


def _widening(
    policy: Policy, document: JsonObject, case: Case, question: Question, answer: Evaluation
) -> Iterator[str]:
    strictness = _STRICTNESS.index(answer.outcome)
    for index, step in enumerate(question.steps):
        tool = policy.tools.get(step.tool)
        for fact in tool.entry.facts if tool else ():
            source = "args" if fact.source == "args" else "observed"
            dropped = copy.deepcopy(document)
            steps = dropped["steps"] if "steps" in dropped else [dropped["step"]]
            try:
                _remove(steps[index].get(source, {}), fact.pointer)
            except KeyError:
                continue
            other = evaluate(_question(policy, dropped, case.usage))
            if _STRICTNESS.index(other.outcome) < strictness:
                yield f"WIDENS_ON_ABSENCE: without {fact.kind}.{fact.name} the outcome is {other.outcome}"


def _uncovered(policy: Policy, seen: Mapping[str, set[str]]) -> Iterator[Finding]:
    scopes = {file.scope for file in policy.suites}
    for file in policy.files:
        if not isinstance(file.content, RuleSet) or file.scope not in scopes or file.content.shadow:
            continue
        for rule in file.content.rules:
            name = f"{file.name}/{rule.id}"
            missing = [verdict for verdict in ("TRUE", "FALSE") if verdict not in seen.get(name, set())]
            if missing:
                yield error(rule.where, "NOT_COVERED", f"no case makes {name} {' or '.join(missing)}")


def _changed(base: JsonObject, case: Case) -> JsonObject:
    document = copy.deepcopy(base)
    for path, value in case.changes.items():
        parent, _, key = path.rpartition("/")
        holder = pointer(document, parent)
        if isinstance(holder, list):
            holder[int(key)] = value
        else:
            holder[key.replace("~1", "/").replace("~0", "~")] = value
    for path in case.removals:
        _remove(document, path)
    return document


def _remove(document: Any, path: str) -> None:
    parent, _, key = path.rpartition("/")
    holder = pointer(document, parent)
    if not isinstance(holder, dict):
        raise KeyError(path)
    del holder[key.replace("~1", "/").replace("~0", "~")]


def _question(policy: Policy, document: JsonObject, usage: Mapping[str, tuple[int, int]]) -> Question:
    fields: Fields[Any] = Fields(document, "/base", InputInvalid)
    now = time_ms(fields.text("now", most=24))
    if now is None:
        raise fields.error("must be a time such as 2026-11-22T10:00:00Z", "now")
    scope, subject, agent = (_part(fields, name) for name in ("scope", "subject", "agent"))
    claims, request = _part(fields, "claims", optional=True), _part(fields, "request", optional=True)
    steps = [fields.raw("step")] if fields.has("step") else fields.raw("steps")
    asked = Request(
        subject=subject.text("id", most=256),
        subject_roles=subject.texts("roles", most=256),
        agent=agent.text("id", most=128),
        agent_version=agent.text("version", "", most=128),
        agent_owner=agent.text("owner", "", most=256),
        model=agent.text("model", None, most=128),
        tenant=scope.text("tenant", most=64),
        environment=scope.text("environment", most=64),
        constraints=request.raw("constraints", {}),
        confidence_ppm=claims.integer("confidence_ppm", 0, most=1_000_000),
        unverified=claims.texts("unverified", most=256),
        tainted=claims.texts("tainted", most=64),
        taint=request.boolean("taint", False),
    )
    question = Question(
        policy=policy,
        request=asked,
        steps=tuple(_step(policy, step, index) for index, step in enumerate(steps)),
        plan_digest=_DIGEST,
        now_ms=now,
        usage=usage,
        stage=agent.integer("stage", None, most=4),
        freeze=scope.boolean("freeze", None),
    )
    for part in (scope, subject, agent, claims, request, fields):
        part.done()
    return question


def _part(fields: "Fields[Any]", name: str, *, optional: bool = False) -> "Fields[Any]":
    value = fields.raw(name, {}) if optional else fields.raw(name)
    return Fields(value, f"/base/{name}", InputInvalid)


def _step(policy: Policy, value: Any, index: int) -> StepInput:
    fields: Fields[Any] = Fields(value, f"/base/steps/{index}", InputInvalid)
    reference = fields.text("tool", most=128)
    tool = policy.tools.get(reference)
    impact = tool.entry.impact if tool else {"reversibility": 4}
    step = StepInput(
        id=fields.text("id", f"s{index + 1}", most=64),
        tool=reference,
        tool_digest=tool.entry.digest if tool else _DIGEST,
        target=fields.text("target", "target", most=64),
        args=fields.raw("args", {}),
        observed=fields.raw("observed", {}),
        effect=fields.one_of("effect", EFFECTS, "E3" if any(impact.values()) else "E0"),
        reversibility=fields.one_of("reversibility", REVERSIBILITIES, _REVERSIBILITY[impact["reversibility"]]),
        compensable=fields.boolean("compensable", False),
        undo=fields.boolean("undo", False),
    )
    fields.done()
    return step
