"""The checker finds what it is for: a history that holds, then one lie per rule."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chaos.checker import RULES, check
from chaos.history import Effect, History, KeptCheckpoint, Leftovers, Logged, PlanEnd, Receipt, StepEnd

GOOD, BACK = "sha256:good", "sha256:back"


def logged(index: int, type_: str, digest: str, step: str = "", **data: Any) -> Logged:
    return Logged(index, type_, f"e{index}", 1000 + index, digest, step, data)


def truth() -> History:
    """Return a run with one plan that succeeded, and one whose second step failed and whose first was taken back."""
    entries = (
        logged(0, "plan.committed", GOOD),
        logged(1, "step.intent", GOOD, "s1", attempt_id="t1"),
        logged(2, "step.outcome", GOOD, "s1", attempt_id="t1", outcome="unknown"),
        logged(3, "step.resolved", GOOD, "s1", attempt_id="t1", verdict="applied"),
        logged(4, "plan.ended", GOOD, state="SUCCEEDED"),
        logged(5, "plan.committed", BACK),
        logged(6, "step.intent", BACK, "s1", attempt_id="t2"),
        logged(7, "step.outcome", BACK, "s1", attempt_id="t2", outcome="applied"),
        logged(8, "step.intent", BACK, "s2", attempt_id="t3"),
        logged(9, "step.outcome", BACK, "s2", attempt_id="t3", outcome="not_applied"),
        logged(10, "step.intent", BACK, "s1", attempt_id="t4", undoes="t2"),
        logged(11, "step.outcome", BACK, "s1", attempt_id="t4", outcome="applied"),
        logged(12, "plan.ended", BACK, state="ROLLED_BACK"),
    )
    return History(
        receipts=(Receipt(1, "e1"), Receipt(7, "e7")),
        checkpoints=(KeptCheckpoint(5, b"root5"),),
        plans=(
            PlanEnd(GOOD, "SUCCEEDED", "", (StepEnd("s1", "KEPT"), StepEnd("s0", "VERIFIED", writes=False)), True),
            PlanEnd(BACK, "ROLLED_BACK", "", (StepEnd("s1", "COMPENSATED"), StepEnd("s2", "NOT_APPLIED")), True),
        ),
        effects=(
            Effect("k1", "t1", 1005, "a", 100),
            Effect("k2", "t2", 1010, "a", 50),
            Effect("k4", "t4", 1020, "a", -50),
        ),
        entries=entries,
        roots={5: b"root5"},
        leftovers=Leftovers(),
        opening={"a": 0, "b": 7},
        closing={"a": 100, "b": 7},
    )


def without(history: History, *indexes: int) -> History:
    return replace(history, entries=tuple(e for e in history.entries if e.index not in indexes))


def plan(history: History, number: int, **changes: Any) -> History:
    plans = list(history.plans)
    plans[number] = replace(plans[number], **changes)
    return replace(history, plans=tuple(plans))


def entry(history: History, number: int, **data: Any) -> History:
    entries = list(history.entries)
    entries[number] = replace(entries[number], data={**entries[number].data, **data})
    return replace(history, entries=tuple(entries))


def effect(history: History, *more: Effect) -> History:
    closing = dict(history.closing)
    for one in more:
        closing[one.account] = closing.get(one.account, 0) + one.amount
    return replace(history, effects=(*history.effects, *more), closing=closing)


def early(history: History) -> History:
    first, *others = history.effects
    return replace(history, effects=(replace(first, time_ms=1000), *others))


LIES: list[tuple[str, str, Callable[[History], History]]] = [
    ("an effect without an intent", "intent-first", lambda h: effect(h, Effect("k9", "t9", 2000, "b", 1))),
    ("an effect before its intent", "intent-first", early),
    ("an effect key twice", "once", lambda h: effect(h, Effect("k1", "t1", 1006, "a", 100))),
    ("a step applied by two attempts", "once", lambda h: effect(_second_intent(h), Effect("k5", "t5", 1100, "a", 100))),
    ("an undo twice", "once", lambda h: effect(_second_undo(h), Effect("k6", "t6", 1100, "a", -50))),
    ("a lost acknowledgement", "acknowledged-kept", lambda h: without(h, 7)),
    ("an entry that moved", "acknowledged-kept", lambda h: replace(h, receipts=(Receipt(1, "e2"),))),
    ("a rewritten past", "acknowledged-kept", lambda h: replace(h, roots={5: b"other"})),
    ("a plan committed twice", "one-commit", lambda h: _again(h, 0)),
    ("an acknowledged commit that is not logged", "one-commit", lambda h: without(h, 5)),
    ("an intent without an outcome", "outcomes-told", lambda h: without(h, 9)),
    ("two outcomes of one attempt", "outcomes-told", lambda h: _again(h, 9)),
    ("an outcome without an intent", "outcomes-told", lambda h: without(h, 8)),
    ("applied, but the target has nothing", "outcomes-told", lambda h: entry(h, 9, outcome="applied")),
    ("not applied, but the target has it", "outcomes-told", lambda h: entry(h, 7, outcome="not_applied")),
    ("not sent, but the target has it", "outcomes-told", lambda h: entry(h, 3, verdict="not_sent")),
    ("a read with an effect", "outcomes-told", lambda h: entry(h, 1, effect="E0")),
    ("a plan that never ended", "truthful-ends", lambda h: plan(h, 0, state="RUNNING")),
    (
        "an acknowledged commit back at PROPOSED",
        "truthful-ends",
        lambda h: plan(h, 0, state="PROPOSED", steps=(StepEnd("s1", "KEPT"),)),
    ),
    ("SUCCEEDED without the effect", "truthful-ends", lambda h: replace(h, effects=h.effects[1:])),
    ("ROLLED_BACK with an effect that stands", "truthful-ends", lambda h: replace(h, effects=h.effects[:2])),
    (
        "a doubt behind a definite end",
        "truthful-ends",
        lambda h: plan(h, 0, steps=(StepEnd("s1", "IN_DOUBT"),)),
    ),
    ("a skipped step with an effect", "truthful-ends", lambda h: plan(h, 0, steps=(StepEnd("s1", "SKIPPED"),))),
    ("a reading step with an effect", "truthful-ends", lambda h: plan(h, 0, steps=(StepEnd("s1", "KEPT", False),))),
    ("another end in the ledger", "ends-logged", lambda h: entry(h, 4, state="ROLLED_BACK")),
    ("two ends in the ledger", "ends-logged", lambda h: _again(h, 4)),
    ("an end that is not logged", "ends-logged", lambda h: without(h, 12)),
    ("a live lease", "nothing-left", lambda h: replace(h, leftovers=Leftovers(leases=("l",)))),
    ("a live login", "nothing-left", lambda h: replace(h, leftovers=Leftovers(logins=("g-1",)))),
    ("an open session", "nothing-left", lambda h: replace(h, leftovers=Leftovers(sessions=("g-1",)))),
    ("a grant that is not dead", "nothing-left", lambda h: replace(h, leftovers=Leftovers(grants=("x",)))),
    ("a write past the list of effects", "books-balance", lambda h: replace(h, closing={"a": 100, "b": 8})),
]


def _again(history: History, number: int) -> History:
    copy = replace(history.entries[number], index=99, event_id="e99")
    return replace(history, entries=(*history.entries, copy))


def _second_intent(history: History) -> History:
    return replace(history, entries=(*history.entries, logged(50, "step.intent", GOOD, "s1", attempt_id="t5")))


def _second_undo(history: History) -> History:
    intent = logged(50, "step.intent", BACK, "s1", attempt_id="t6", undoes="t2")
    return replace(history, entries=(*history.entries, intent))


def test_a_history_that_holds_has_no_findings() -> None:
    assert check(truth()) == []


@pytest.mark.parametrize(("rule", "lie"), [pytest.param(rule, lie, id=name) for name, rule, lie in LIES])
def test_every_lie_is_found_by_its_rule(rule: str, lie: Callable[[History], History]) -> None:
    assert [finding for finding in check(lie(truth())) if finding.startswith(f"{rule}:")]


def test_every_rule_has_a_lie() -> None:
    assert {rule for _, rule, _ in LIES} == RULES.keys()


def test_a_read_that_was_applied_leaves_nothing_at_the_target() -> None:
    history = entry(entry(truth(), 8, effect="E0"), 9, outcome="applied")
    assert check(history) == []


def test_a_doubt_that_says_so_may_be_either() -> None:
    history = plan(truth(), 0, state="HALTED", reason_code="IN_DOUBT", steps=(StepEnd("s1", "IN_DOUBT"),))
    history = without(history, 3, 4)
    assert check(history) == []
    gone = replace(history, effects=history.effects[1:], closing={"a": 0, "b": 7})
    assert check(gone) == []
