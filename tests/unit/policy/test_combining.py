"""The combining algorithm: what rises never falls; what cannot be evaluated is as strict as either answer."""

import itertools
from typing import Any

import pytest

from counterseal_policy.decisions.engine import _Answer, _combine, _obligations, evaluate
from counterseal_policy.decisions.outcome import Evaluation
from counterseal_policy.rules.compile import CompiledRule
from counterseal_policy.rules.files import Approvers, ObligationSpec, Rule
from support.policy import DIGEST, ENGINE, NOW, ask, catalogue, compiled, rule_set, step
from support.requirements import requirement

ORDER = ("ALLOW", "REQUIRE_APPROVAL", "DENY")
FACTS = "num: {amount: {from: 'args:/amount'}, absent: {from: 'args:/none'}}, text: {owner: {from: 'observed:/owner'}}"
ALLOW = "  - {id: base, effect: ALLOW, when: 'true'}\n"


def rule(effect: str, scope: str, index: int) -> CompiledRule:
    spec = Rule(
        id=f"r{index}",
        effect=effect,
        when="true",
        severity="medium",
        code=None,
        obligations=(ObligationSpec("notification", {"n": index}),) if effect in ("ALLOW", "REQUIRE_APPROVAL") else (),
        approval=Approvers(1, (f"role{index}",), 1000, 1000) if effect == "REQUIRE_APPROVAL" else None,
        safer_alternative=None,
        where="test",
    )
    return CompiledRule(f"set/r{index}", scope, spec, ENGINE.compile("true"), shadow=False)


@requirement("decision:errors-never-allow")
def test_indeterminate_is_at_least_as_strict_as_true_and_as_false() -> None:
    kinds = [
        ("ALLOW", "platform"),
        ("ALLOW", "tenant"),
        ("REQUIRE_APPROVAL", "platform"),
        ("REQUIRE_APPROVAL", "tenant"),
        ("DENY", "tenant"),
        ("DELEGATE", "platform"),
    ]
    rules = {kind: [rule(*kind, index) for index in range(4)] for kind in kinds}
    question = ask(compiled(catalogue(), rule_set(ALLOW)))
    known: dict[Any, Any] = {}
    comparisons = 0
    for size in range(1, 5):
        for chosen in itertools.combinations_with_replacement(kinds, size):
            group = [rules[kind][index] for index, kind in enumerate(chosen)]
            for verdicts in itertools.product(("TRUE", "FALSE", "INDETERMINATE"), repeat=size):
                known[chosen, verdicts] = _judged(question, list(zip(group, verdicts, strict=True)))
            for verdicts in itertools.product(("TRUE", "FALSE", "INDETERMINATE"), repeat=size):
                for index in [i for i, verdict in enumerate(verdicts) if verdict == "INDETERMINATE"]:
                    for other in ("TRUE", "FALSE"):
                        changed = (*verdicts[:index], other, *verdicts[index + 1 :])
                        _assert_at_least(known[chosen, verdicts], known[chosen, changed])
                        comparisons += 1
    assert comparisons > 20_000


def _judged(question: Any, verdicts: list[tuple[CompiledRule, str]]) -> tuple[int, frozenset[str], frozenset[str]]:
    answer = _Answer()
    _combine(verdicts, answer)
    _obligations(question, verdicts, answer)
    needs = frozenset(need.source for need in answer.requirements)
    return ORDER.index(answer.outcome), needs, frozenset(str(owed) for owed in answer.obligations)


def _assert_at_least(strict: tuple[int, Any, Any], loose: tuple[int, Any, Any]) -> None:
    assert strict[0] >= loose[0]
    assert strict[1] >= loose[1]
    assert strict[2] >= loose[2]


BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "missing fact": ("action.num.absent > 0", {}),
    "missing text": ('action.text.owner == "x"', {}),
    "division by zero": ("1 / action.num.amount > 0", {"amount": 0}),
    "overflow": ("9223372036854775807 + action.num.amount > 0", {"amount": 1}),
    "bad conversion": ("int(action.tool.name) > 0", {}),
    "bad timestamp": ("timestamp(action.tool.name) > now", {}),
    "list out of range": ('subject.roles[50] == "x"', {}),
    "unset scalar": ('resource.id != "x"', {}),
    "$ref instead of a value": ("action.num.amount > 0", {"amount": {"$ref": {"step": "s0", "ptr": "/x"}}}),
    "$sealed instead of a value": ("action.num.amount > 0", {"amount": {"$sealed": DIGEST}}),
    "null": ("action.num.amount > 0", {"amount": None}),
}
INVALID: dict[str, dict[str, Any]] = {
    "wrong type": {"amount": "1"},
    "boolean": {"amount": True},
    "fraction": {"amount": 1.5},
    "exponent": {"amount": 1e22},
    "NUL": {"amount": "1\x00"},
    "lone surrogate": {"amount": "\ud800"},
    "list": {"amount": [1]},
}
FORMS = {
    "ALLOW": "  - {id: r, effect: ALLOW, when: 'WHEN'}\n",
    "DENY": ALLOW + "  - {id: r, effect: DENY, when: 'WHEN'}\n",
    "REQUIRE": "  - {id: r, effect: REQUIRE_APPROVAL, when: 'WHEN', approval: {need: 1, roles: [lead]}}\n",
    "REQUIRE beside ALLOW": ALLOW
    + "  - {id: r, effect: REQUIRE_APPROVAL, when: 'WHEN', approval: {need: 1, roles: [lead]}}\n",
    "obligation": ALLOW + "  - {id: r, effect: ALLOW, when: 'WHEN', obligations: [{type: step_up}]}\n",
}


def outcome(form: str, when: str, args: dict[str, Any]) -> Evaluation:
    policy = compiled(catalogue(FACTS), rule_set(FORMS[form].replace("WHEN", when)))
    assert not policy.errors, policy.errors
    return evaluate(ask(policy, step(args=args)))


def strictness(answer: Evaluation) -> tuple[int, int, int]:
    return ORDER.index(answer.outcome), len(answer.requirements), len(answer.obligations)


@requirement("decision:errors-never-allow")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cause", BROKEN)
def test_a_broken_rule_is_never_less_strict_than_a_working_one(form: str, cause: str) -> None:
    when, args = BROKEN[cause]
    broken = outcome(form, when, args)
    for working in ("true", "false"):
        other = outcome(form, working, {})
        assert ORDER.index(broken.outcome) >= ORDER.index(other.outcome)
        if broken.outcome != "DENY":
            assert strictness(broken) >= strictness(other)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cause", INVALID)
def test_a_value_outside_its_declaration_denies_whatever_the_rules(form: str, cause: str) -> None:
    answer = outcome(form, "true", INVALID[cause])
    assert (answer.outcome, answer.reason_codes) == ("DENY", ("INPUT_INVALID",))


@pytest.mark.parametrize("cause", BROKEN)
def test_a_broken_raise_makes_the_highest_class(cause: str) -> None:
    when, args = BROKEN[cause]
    entry = catalogue(FACTS, extra=f"raise: [{{to: 3, when: '{when}'}}]")
    answer = evaluate(ask(compiled(entry, rule_set(ALLOW)), step(args=args)))
    assert answer.class_level == 4
    assert answer.outcome == "REQUIRE_APPROVAL"
    assert max(need.need for need in answer.requirements) == 2


def test_an_indeterminate_require_is_no_base_so_a_default_deny_is_not_made_approvable() -> None:
    answer = outcome("REQUIRE", "action.num.absent > 0", {})
    assert answer.outcome == "DENY"
    assert set(answer.reason_codes) == {"NO_MATCHING_ALLOW", "RULE_INDETERMINATE"}


def test_a_tenant_cannot_allow_what_the_platform_does_not_carry() -> None:
    policy = compiled(catalogue(), rule_set(ALLOW), floor=b"")
    assert evaluate(ask(policy)).reason_codes == ("NO_MATCHING_ALLOW",)


def test_the_platform_alone_allows_nothing() -> None:
    assert evaluate(ask(compiled(catalogue()))).reason_codes == ("NO_MATCHING_ALLOW",)


def test_a_denial_wins_over_every_allow_and_names_its_own_code() -> None:
    rules = ALLOW + "  - {id: no, effect: DENY, when: 'true', reason: {code: NOT_OWNER}}\n"
    answer = evaluate(ask(compiled(catalogue(), rule_set(rules))))
    assert (answer.outcome, answer.reason_codes, answer.rules) == ("DENY", ("NOT_OWNER",), ("shop/no",))


def test_a_shadow_rule_is_recorded_and_never_decides() -> None:
    noisy = rule_set("  - {id: no, effect: DENY, when: 'true'}\n", name="noisy").replace(
        b"scope: tenant}", b"scope: tenant, enforcement: shadow}"
    )
    answer = evaluate(ask(compiled(catalogue(), rule_set(ALLOW), noisy)))
    assert answer.outcome == "ALLOW"
    assert [verdict.name for verdict in answer.steps[0].verdicts if verdict.shadow] == ["noisy/no"]


def test_every_candidate_rule_is_in_the_record() -> None:
    rules = ALLOW + "  - {id: no, effect: DENY, when: 'false'}\n"
    verdicts = evaluate(ask(compiled(catalogue(), rule_set(rules)))).steps[0].verdicts
    assert {(verdict.name, verdict.verdict) for verdict in verdicts} == {
        ("floor/freeze", "FALSE"),
        ("floor/tenants-decide", "TRUE"),
        ("shop/base", "TRUE"),
        ("shop/no", "FALSE"),
    }


def test_an_obligation_nobody_promised_to_fulfil_denies() -> None:
    rules = "  - {id: a, effect: ALLOW, when: 'true', obligations: [{type: step_up}]}\n"
    policy = compiled(catalogue(), rule_set(rules))
    assert evaluate(ask(policy, supported_obligations=frozenset())).reason_codes == ("OBLIGATION_UNSUPPORTED",)
    assert evaluate(ask(policy, supported_obligations=frozenset({"step_up"}))).outcome == "ALLOW"


def test_of_several_grant_times_the_shortest_holds() -> None:
    rules = "".join(
        f"  - {{id: a{n}, effect: ALLOW, when: 'true', obligations: "
        f"[{{type: max_grant_ttl, properties: {{seconds: {n}}}}}]}}\n"
        for n in (60, 30, 90)
    )
    answer = evaluate(ask(compiled(catalogue(), rule_set(rules))))
    assert [(owed.type, owed.properties) for owed in answer.obligations] == [("max_grant_ttl", {"seconds": 30})]


def test_a_tool_or_digest_outside_the_catalogue_is_unknown() -> None:
    policy = compiled(catalogue(), rule_set(ALLOW))
    for changed in (step(tool="shop.other@1.0.0"), step(tool_digest="sha256:" + "cd" * 32)):
        assert evaluate(ask(policy, changed)).reason_codes == ("UNKNOWN_TOOL",)


def test_without_any_catalogue_nothing_is_decided_by_rules() -> None:
    assert evaluate(ask(compiled())).reason_codes == ("NO_ACTIVE_POLICY",)


def test_the_strictest_step_is_the_plan_and_undo_steps_count() -> None:
    policy = compiled(
        catalogue(),
        catalogue(tool="shop.erase@1.0.0").replace(b"name: shop,", b"name: more,"),
        rule_set("  - {id: a, effect: ALLOW, when: 'action.tool.name == \"shop.refund\"'}\n"),
    )
    erase = step(tool="shop.erase@1.0.0")
    assert evaluate(ask(policy, step())).outcome == "ALLOW"
    assert evaluate(ask(policy, step(), step(id="s2", tool="shop.erase@1.0.0"))).outcome == "DENY"
    undo = step(tool=erase.tool, undo=True)
    assert evaluate(ask(policy, step(), undo)).outcome == "DENY"


def test_on_a_draft_rules_on_observed_facts_wait_and_still_carry() -> None:
    rules = "  - {id: own, effect: ALLOW, when: 'action.text.owner == subject.id'}\n"
    rules += "  - {id: foreign, effect: DENY, when: 'action.text.owner != subject.id', reason: {code: NOT_OWNER}}\n"
    policy = compiled(catalogue(FACTS), rule_set(rules))
    draft = evaluate(ask(policy, step(observed=None), draft=True))
    assert draft.outcome == "ALLOW"
    assert {verdict.verdict for verdict in draft.steps[0].verdicts if verdict.name.startswith("shop/")} == {"WAITING"}
    assert evaluate(ask(policy, step(observed={"owner": "user:bob"}))).reason_codes == ("NOT_OWNER",)
    assert evaluate(ask(policy, step(observed={"owner": "user:ana"}))).outcome == "ALLOW"
    assert evaluate(ask(policy, step(observed={}))).reason_codes == ("RULE_INDETERMINATE",)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"confidence_ppm": 699_999}, "LOW_CONFIDENCE"),
        ({"confidence_ppm": 0}, "LOW_CONFIDENCE"),
        ({"unverified": ("the address",)}, "UNVERIFIED_INPUT"),
        ({"taint": True}, "TAINTED_INPUT"),
        ({"tainted": ("s1",)}, "TAINTED_INPUT"),
    ],
)
def test_uncertainty_asks_a_person_for_steps_with_an_effect_only(changes: dict[str, Any], code: str) -> None:
    policy = compiled(catalogue(), rule_set(ALLOW))
    answer = evaluate(ask(policy, asked=changes))
    assert (answer.outcome, answer.reason_codes) == ("REQUIRE_APPROVAL", (code,))
    reading = step(effect="E0", reversibility="R0")
    assert evaluate(ask(policy, reading, asked=changes)).outcome == "ALLOW"


@pytest.mark.parametrize(
    ("stage", "level", "expected"),
    [
        (0, 0, "DENY"),
        (1, 0, "REQUIRE_APPROVAL"),
        (1, 1, "REQUIRE_APPROVAL"),
        (2, 1, "ALLOW"),
        (2, 2, "REQUIRE_APPROVAL"),
        (3, 2, "ALLOW"),
        (3, 3, "REQUIRE_APPROVAL"),
        (4, 2, "ALLOW"),
    ],
)
def test_the_autonomy_stage_says_which_classes_run_alone(stage: int, level: int, expected: str) -> None:
    impact = f"{{reversibility: {level}, cost: 0, compliance: 0, customer: 0, breadth: 0}}"
    policy = compiled(catalogue(impact=impact), rule_set(ALLOW))
    answer = evaluate(ask(policy, step(reversibility="R1" if level else "R0"), stage=stage))
    assert answer.outcome == expected


def test_a_new_agent_starts_at_the_stage_where_every_effect_is_approved() -> None:
    answer = evaluate(ask(compiled(catalogue(), rule_set(ALLOW), settings=b"")))
    assert (answer.stage, answer.reason_codes) == (1, ("AUTONOMY_STAGE",))


def test_an_irreversible_tool_is_never_below_class_three() -> None:
    low = "{reversibility: 0, cost: 0, compliance: 0, customer: 0, breadth: 0}"
    answer = evaluate(ask(compiled(catalogue(impact=low), rule_set(ALLOW)), step(effect="E4", reversibility="R4")))
    assert (answer.class_level, answer.reason_codes) == (3, ("CLASS_GATE", "AUTONOMY_STAGE"))


def test_the_answer_of_the_same_question_is_the_same() -> None:
    question = ask(compiled(catalogue(FACTS), rule_set(ALLOW)), step(args={"amount": 3}), step(id="s2"))
    assert evaluate(question) == evaluate(question)
    assert question.now_ms == NOW


@pytest.mark.parametrize("args", [{"unit": "EUR"}, {"amount": 1}, {"amount": -1, "unit": "EUR"}])
def test_a_limit_whose_amount_or_unit_is_not_known_denies(args: dict[str, Any]) -> None:
    facts = "num: {amount: {from: 'args:/amount'}}, text: {unit: {from: 'args:/unit'}}"
    limit = (
        "limits: [{id: daily, key: [tenant], amount: action.num.amount, unit: action.text.unit,"
        " window: {fixed: 1d}, max: {EUR: 10}, on_exceed: REQUIRE_APPROVAL}]"
    )
    policy = compiled(catalogue(facts), rule_set(ALLOW, more=limit))
    answer = evaluate(ask(policy, step(args=args)))
    assert (answer.outcome, answer.reason_codes) == ("DENY", ("LIMIT_EXCEEDED",))
    assert evaluate(ask(policy, step(args={"amount": 10, "unit": "EUR"}))).outcome == "ALLOW"
    assert evaluate(ask(policy, step(args={"amount": 11, "unit": "EUR"}))).outcome == "REQUIRE_APPROVAL"
    assert evaluate(ask(policy, step(args={"amount": 1, "unit": "USD"}))).outcome == "REQUIRE_APPROVAL"
