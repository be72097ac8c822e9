"""What a draft may not ask of this executor; and what containment adopts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.documents.plan import parse_draft
from counterseal.errors import InputInvalid, PlanInvalid
from counterseal_executor.containment.engine import ScopeState, adopt, check_scope, next_stop, tenant_of
from counterseal_executor.plans.lint import lint, scopes_of
from support.documents import draft_document, step_document, tool

TOOLS = {t.reference: t for t in (tool(), tool(name="shop.open", open_world=True), tool(name="shop.pair"))}
KINDS = {"shop": "sim"}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"budgets": {"objects": 1}}, "/budgets"),
        ({"parallelism": 2}, "/parallelism"),
        ({"steps": [step_document(tool="shop.open@1.0.0")]}, "/steps/0/tool"),
        ({"steps": [step_document(tool="shop.gone@1.0.0")]}, "/steps/0/tool"),
        ({"steps": [step_document(args={"charge_id": "a", "amount_minor": 0})]}, "/steps/0/args/amount_minor"),
        (
            {"steps": [step_document(), step_document(id="s2")]},
            "/steps/1/needs",
        ),
    ],
)
def test_a_feature_of_a_later_release_is_refused_by_name_and_pointer(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(PlanInvalid) as caught:
        lint(parse_draft(draft_document(**changes)), TOOLS, KINDS)
    assert caught.value.metadata["pointer"] == where


POST = {"kind": "tool_state", "ref": "state", "value": "refunded"}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"post": [{**POST, "kind": "etag"}]}, "/steps/0/post/0/kind"),
        ({"post": [POST, {**POST, "value": 1}]}, "/steps/0/post/1/ref"),
        ({"post": [{**POST, "ref": f"r{number}"} for number in range(65)]}, "/steps/0/post"),
        ({"post": [POST], "tool": "shop.blind@1.0.0"}, "/steps/0/post"),
        (
            {"undo": {"tool": "shop.pair@1.0.0", "args": {"charge_id": "a", "amount_minor": 1}, "post": [POST]}},
            "/steps/0/undo/post",
        ),
    ],
)
def test_a_postcondition_that_nobody_could_read_back_is_refused(changes: dict[str, Any], where: str) -> None:
    tools = {**TOOLS, "shop.blind@1.0.0": tool(name="shop.blind", pre_kinds=[])}
    with pytest.raises(PlanInvalid) as caught:
        lint(parse_draft(draft_document(steps=[step_document(**changes)])), tools, KINDS)
    assert caught.value.metadata["pointer"] == where
    lint(parse_draft(draft_document(steps=[step_document(post=[POST])])), tools, KINDS)


def test_a_target_that_this_executor_reaches_otherwise_is_refused() -> None:
    with pytest.raises(PlanInvalid, match="not configured"):
        lint(parse_draft(draft_document()), TOOLS, {"shop": "postgres"})


def test_writes_ordered_through_a_step_between_them_are_accepted() -> None:
    steps = [step_document(), step_document(id="m", needs=["s1"]), step_document(id="z", needs=["m"])]
    lint(parse_draft(draft_document(steps=steps)), TOOLS, KINDS)


def test_a_plans_scopes_name_everything_that_can_stop_it() -> None:
    assert scopes_of("acme", "prod", "bot", "r1", {"b", "a"}) == [
        "environment:prod",
        "tenant:acme",
        "request:acme/r1",
        "agent:acme/bot",
        "tool:acme/a",
        "tool:acme/b",
    ]


STATES = st.builds(ScopeState, st.just("tenant:acme"), st.integers(0, 5), st.booleans(), st.just("X"))


@given(st.lists(STATES, max_size=12))
def test_epochs_never_fall_and_at_equal_epochs_stopped_wins(told: list[ScopeState]) -> None:
    known: ScopeState | None = None
    for state in told:
        before = known
        if adopt(known, state):
            known = state
        if before is not None and known is not None:
            assert known.epoch >= before.epoch
            assert known.epoch > before.epoch or known.stopped >= before.stopped


def test_a_halt_without_an_epoch_takes_the_next_one_and_only_once() -> None:
    first = next_stop(None, "tenant:acme", 0, "X")
    assert (first.epoch, first.stopped) == (1, True)
    assert next_stop(first, "tenant:acme", 0, "X").epoch == 1
    lifted = ScopeState("tenant:acme", 4, stopped=False, reason_code="X")
    assert next_stop(lifted, "tenant:acme", 0, "X").epoch == 5


@pytest.mark.parametrize(
    ("scope", "tenant"),
    [
        ("environment:prod", "_system"),
        ("tenant:acme", "acme"),
        ("agent:acme/bot", "acme"),
        ("tool:acme/shop.refund", "acme"),
        ("request:acme/r1", "acme"),
        ("plan:sha256:" + "0" * 64, None),
    ],
)
def test_a_scope_belongs_to_one_log(scope: str, tenant: str | None) -> None:
    check_scope(scope)
    assert tenant_of(scope) == tenant


@pytest.mark.parametrize("scope", ["tenant:acme\n", "tenant:", "agent:acme", "plan:sha256:00", "x:y", "tool:acme/"])
def test_other_text_is_no_scope(scope: str) -> None:
    with pytest.raises(InputInvalid):
        check_scope(scope)
