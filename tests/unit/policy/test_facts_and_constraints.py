"""Facts come from the bytes that will run; constraints only narrow; settings only tighten production."""

from typing import Any

import pytest

from counterseal.errors import InputInvalid
from counterseal_policy.decisions.assembler import step_facts, totals
from counterseal_policy.decisions.engine import evaluate
from counterseal_policy.decisions.gates import governance
from counterseal_policy.rules.compile import CompiledTool, compile_policy, parse_files
from support.policy import ENGINE, ask, catalogue, compiled, rule_set, step

ALLOW = "  - {id: base, effect: ALLOW, when: 'true'}\n"
FACTS = (
    "num: {amount_minor: {from: 'args:/amount', min: 1, max: 100}}, "
    "text: {currency: {from: 'args:/currency', enum: [EUR, USD]}, name: {from: 'args:/name', max_length: 5}, "
    "city: {from: 'args:/city', unicode: true}, owner: {from: 'observed:/owner/id'}}, "
    "flag: {gift: {from: 'args:/gift'}}, list: {items: {from: 'args:/items'}}"
)


def tool(lines: str = FACTS) -> CompiledTool:
    return compiled(catalogue(lines)).tools["shop.refund@1.0.0"]


def test_facts_are_read_through_the_catalogues_pointers() -> None:
    args = {"amount": 7, "currency": "EUR", "name": "ana", "city": "Köln", "gift": True, "items": ["a", "b"]}
    found = step_facts(tool(), step(args=args, observed={"owner": {"id": "user:ana"}}))
    assert found.num == {"amount_minor": 7}
    assert found.text == {"currency": "EUR", "name": "ana", "city": "Köln", "owner": "user:ana"}
    assert (found.flag, found.list) == ({"gift": True}, {"items": ("a", "b")})


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"amount": None},
        {"amount": {"$ref": {"step": "a", "ptr": "/b"}}},
        {"amount": {"$before": "/0/amount"}},
        {"amount": {"$secret": "x"}},
    ],
    ids=str,
)
def test_nothing_null_and_reserved_objects_leave_a_fact_absent(args: dict[str, Any]) -> None:
    assert step_facts(tool(), step(args=args)).num == {}


@pytest.mark.parametrize(
    "args",
    [
        {"amount": 0},
        {"amount": 101},
        {"amount": 1.5},
        {"amount": "7"},
        {"amount": True},
        {"currency": "GBP"},
        {"currency": 1},
        {"name": "toolong"},
        {"name": "Köln"},
        {"name": "a\x1b"},
        {"city": "a\u0085"},
        {"gift": "true"},
        {"gift": 1},
        {"items": "a"},
        {"items": [1]},
        {"items": ["x"] * 257},
    ],
    ids=str,
)
def test_wrong_type_range_alphabet_or_length_is_invalid_and_no_value_is_told(args: dict[str, Any]) -> None:
    with pytest.raises(InputInvalid) as caught:
        step_facts(tool(), step(args=args))
    assert "toolong" not in caught.value.message
    assert "GBP" not in caught.value.message


def test_observed_facts_come_from_what_was_read_and_never_from_arguments() -> None:
    found = step_facts(tool(), step(args={"owner": {"id": "user:ana"}}, observed={}))
    assert "owner" not in found.text


def test_sums_are_kept_per_unit_and_unknown_when_one_amount_is() -> None:
    one = step_facts(tool(), step(args={"amount": 7, "currency": "EUR"}))
    two = step_facts(tool(), step(args={"amount": 9, "currency": "USD"}))
    none = step_facts(tool(), step(args={"currency": "EUR"}))
    assert totals([(tool(), one), (tool(), one), (tool(), two)]) == {"amount_minor.EUR": 14, "amount_minor.USD": 9}
    assert totals([(tool(), one), (tool(), none)]) == {}


def test_a_sum_beyond_64_bits_is_invalid() -> None:
    wide = tool("num: {n: {from: 'args:/n'}}")
    facts = step_facts(wide, step(args={"n": (1 << 63) - 1}))
    with pytest.raises(InputInvalid):
        totals([(wide, facts), (wide, facts)])


READ = {"effect": "E0", "reversibility": "R0"}


@pytest.mark.parametrize(
    ("constraints", "changes", "kept"),
    [
        ({"read_only": True}, {}, False),
        ({"read_only": True}, READ, True),
        ({"read_only": "yes"}, READ, False),
        ({"forbid_tools": ["shop.refund"]}, {}, False),
        ({"forbid_tools": ["shop.*"]}, {}, False),
        ({"forbid_tools": ["shop.refund@2.*"]}, {}, True),
        ({"forbid_tools": "shop.refund"}, {}, False),
        ({"forbid_targets": ["shop"]}, {}, False),
        ({"forbid_targets": ["other"]}, {}, True),
        ({"max_amount_minor": {"EUR": 10}}, {"args": {"amount": 10, "currency": "EUR"}}, True),
        ({"max_amount_minor": {"EUR": 10}}, {"args": {"amount": 11, "currency": "EUR"}}, False),
        ({"max_amount_minor": {"EUR": 10}}, {"args": {"amount": 1, "currency": "USD"}}, False),
        ({"max_amount_minor": {"EUR": 10}}, {"args": {"currency": "EUR"}}, False),
        ({"max_amount_minor": {"EUR": True}}, {"args": {"amount": 1, "currency": "EUR"}}, False),
        ({"max_amount_minor": 10}, READ, False),
        ({"no_prod_deletes": True}, {}, False),
        ({"no_prod_deletes": True}, READ, True),
        ({"be_nice": True}, READ, False),
        ({}, {}, True),
    ],
    ids=str,
)
def test_a_constraint_that_is_broken_unknown_or_lacks_its_fact_denies(
    constraints: dict[str, Any], changes: dict[str, Any], kept: bool
) -> None:
    policy = compiled(catalogue(FACTS), rule_set(ALLOW))
    answer = evaluate(ask(policy, step(**changes), asked={"constraints": constraints}))
    assert (answer.reason_codes == ("CONSTRAINT_VIOLATED",)) is not kept


def test_an_effect_without_any_declared_amount_is_over_every_maximum() -> None:
    policy = compiled(catalogue("num: {count: {from: 'args:/count'}}"), rule_set(ALLOW))
    asked = {"constraints": {"max_amount_minor": {"EUR": 10}}}
    assert evaluate(ask(policy, step(args={"count": 1}), asked=asked)).reason_codes == ("CONSTRAINT_VIOLATED",)
    assert evaluate(ask(policy, step(**READ, args={"count": 1}), asked=asked)).outcome == "ALLOW"


def test_two_steps_cannot_slip_under_a_maximum_together() -> None:
    policy = compiled(catalogue(FACTS), rule_set(ALLOW))
    half = step(args={"amount": 6, "currency": "EUR"})
    asked = {"constraints": {"max_amount_minor": {"EUR": 10}}}
    assert evaluate(ask(policy, half, asked=asked)).outcome == "ALLOW"
    second = step(id="s2", args=dict(half.args))
    assert evaluate(ask(policy, half, second, asked=asked)).reason_codes == ("CONSTRAINT_VIOLATED",)


def settings(lines: str, scope: str = "platform") -> Any:
    head = f"apiVersion: counterseal/policy.v1\nkind: Settings\nmetadata: {{name: {scope}, scope: {scope}}}\n"
    return compile_policy(parse_files([("s.yaml", (head + lines).encode())]), ENGINE).settings


def test_settings_tighten_production_and_never_loosen_it() -> None:
    loose = governance(settings("confidence_ppm: {C3: 1}\ngates: {prod: {C4: {need: 1}}}"), "prod")
    assert loose.confidence_ppm[3] == 850_000
    assert loose.gates[4] is not None
    assert loose.gates[4].need == 2
    tight = governance(settings("confidence_ppm: {C2: 990000}\ngates: {prod: {C2: {need: 3}}}"), "prod")
    assert tight.confidence_ppm[2] == 990_000
    assert tight.gates[2] is not None
    assert tight.gates[2].need == 3


def test_an_environment_nobody_classified_is_production_and_a_tenant_cannot_say_otherwise() -> None:
    assert governance((), "prod-eu").kind == "prod"
    assert governance(settings("environment_kinds: {prod-eu: sandbox}", "tenant"), "prod-eu").kind == "prod"
    assert governance(settings("environment_kinds: {lab: sandbox}"), "lab").kind == "sandbox"
    assert governance(settings("environment_kinds: {prod: sandbox}"), "prod").kind == "prod"


def test_of_several_stages_the_lowest_holds() -> None:
    both = (*settings("default_stage: 3"), *settings("stages: [{agent: refund-*, stage: 2}]", "tenant"))
    assert governance(both, "prod").stage("refund-bot", "1", "a.b@1.0.0") == 2
    assert governance(both, "prod").stage("other", "1", "a.b@1.0.0") == 3


def test_a_freeze_holds_from_its_start_until_its_end() -> None:
    rules = governance(settings("freezes: [{id: x, from: 2026-12-24T00:00:00Z, until: 2026-12-27T00:00:00Z}]"), "prod")
    start = 1_798_070_400_000
    assert [rules.freeze(t) for t in (start - 1, start, start + 259_200_000 - 1, start + 259_200_000)] == [
        False,
        True,
        True,
        False,
    ]


def test_on_a_draft_amounts_and_sums_that_are_read_at_the_target_wait() -> None:
    lines = "num: {price_minor: {from: 'observed:/price'}}, text: {currency: {from: 'args:/currency'}}"
    rules = ALLOW + "  - {id: sum, effect: DENY, when: 'plan.total[\"price_minor.EUR\"] > 10'}\n"
    policy = compiled(catalogue(lines), rule_set(rules))
    asked = {"constraints": {"max_amount_minor": {"EUR": 100}}}
    blank = step(args={"currency": "EUR"}, observed=None)
    assert evaluate(ask(policy, blank, asked=asked, draft=True)).outcome == "ALLOW"
    read = step(args={"currency": "EUR"}, observed={"price": 11})
    assert evaluate(ask(policy, read, asked=asked)).outcome == "DENY"
    assert evaluate(ask(policy, read, asked={"constraints": {"max_amount_minor": {"EUR": 10}}})).reason_codes == (
        "CONSTRAINT_VIOLATED",
    )
    cheap = step(args={"currency": "EUR"}, observed={"price": 9})
    assert evaluate(ask(policy, cheap, asked=asked)).outcome == "ALLOW"
