"""Random rule sets over the real engine: a missing fact is answered at least as strictly as any value of it."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal_policy.decisions.engine import evaluate
from counterseal_policy.decisions.outcome import Evaluation
from counterseal_policy.rules.compile import Policy
from support.policy import ask, catalogue, compiled, rule_set, step
from support.requirements import requirement

ORDER = ("ALLOW", "REQUIRE_APPROVAL", "DENY")
FACTS = "num: {a: {from: 'args:/a'}, b: {from: 'args:/b'}}, flag: {c: {from: 'args:/c'}}"
ATOMS = st.one_of(
    st.builds(
        "action.num.{} {} {}".format, st.sampled_from("ab"), st.sampled_from(["<=", ">", "==", "!="]), st.integers(0, 3)
    ),
    st.sampled_from(["action.flag.c", "!action.flag.c", "true", "false"]),
)
CONDITIONS = st.one_of(ATOMS, st.builds("({}) && ({})".format, ATOMS, ATOMS))
RULES = st.lists(st.tuples(st.sampled_from(["ALLOW", "DENY", "REQUIRE_APPROVAL"]), CONDITIONS), min_size=1, max_size=5)
VALUES: dict[str, list[Any]] = {"a": [0, 1, 2, 3, 4], "b": [0, 1, 2, 3, 4], "c": [True, False]}


def policy_of(rules: list[tuple[str, str]], raised: str) -> Policy:
    lines = []
    for index, (effect, when) in enumerate(rules):
        extra = f", approval: {{need: {index + 1}, roles: [lead]}}" if effect == "REQUIRE_APPROVAL" else ""
        extra += ", obligations: [{type: step_up}]" if effect == "ALLOW" and index % 2 else ""
        lines.append(f'  - {{id: r{index}, effect: {effect}, when: "{when}"{extra}}}\n')
    entry = catalogue(FACTS, extra=f'raise: [{{to: 3, when: "{raised}"}}]')
    policy = compiled(entry, rule_set("".join(lines)))
    assert not policy.errors, policy.errors
    return policy


def strictness(answer: Evaluation) -> tuple[int, frozenset[str]]:
    return ORDER.index(answer.outcome), frozenset(need.source for need in answer.requirements)


@requirement("decision:errors-never-allow")
@settings(max_examples=60, deadline=None)
@given(
    rules=RULES,
    raised=ATOMS,
    args=st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()}),
    dropped=st.sampled_from("abc"),
)
def test_a_missing_fact_is_at_least_as_strict_as_any_value_of_it(
    rules: list[tuple[str, str]], raised: str, args: dict[str, Any], dropped: str
) -> None:
    policy = policy_of(rules, raised)
    absent = {name: value for name, value in args.items() if name != dropped}
    without = evaluate(ask(policy, step(args=absent)))
    for value in VALUES[dropped]:
        outcome, needs = strictness(evaluate(ask(policy, step(args={**args, dropped: value}))))
        assert strictness(without)[0] >= outcome
        if without.outcome != "DENY" and outcome == strictness(without)[0]:
            rules_asked = {need for need in needs if need.startswith("rule ")}
            assert rules_asked <= strictness(without)[1]


@requirement("decision:errors-never-allow")
@settings(max_examples=60, deadline=None)
@given(rules=RULES, args=st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()}))
def test_a_broken_fact_denies_whatever_the_rules(rules: list[tuple[str, str]], args: dict[str, Any]) -> None:
    policy = policy_of(rules, "false")
    for name, broken in (("a", "1"), ("b", 1.5), ("c", 1)):
        assert evaluate(ask(policy, step(args={**args, name: broken}))).reason_codes == ("INPUT_INVALID",)
