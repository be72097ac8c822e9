"""The checker finds what it is for: a history that holds, then one lie per rule."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chaos.checker import RULES, check
from chaos.history import (
    Effect,
    History,
    KeptCheckpoint,
    Leftovers,
    Logged,
    PlanEnd,
    Receipt,
    StepEnd,
    attributed,
    grant_of,
)

GOOD, BACK = "sha256:good", "sha256:back"
ALIVE = Leftovers(leases=("l",), logins=("g",), sessions=("g",), grants=("g",))
G1, G2, G4 = (f"0192f000-0000-7000-8000-00000000000{n}" for n in (1, 2, 4))


def logged(index: int, type_: str, digest: str, step: str = "", **data: Any) -> Logged:
    return Logged(index, type_, f"e{index}", 1000 + index, digest, step, data)


def login(grant: str) -> str:
    return f"g-{grant.replace('-', '')}-abcdefgh"


def effect_of(key: str, attempt: str, begin_ms: int, grant: str, **moves: int) -> Effect:
    return Effect(key, attempt, begin_ms, begin_ms + 2, login(grant), moves)


def grant(index: int, type_: str, grant_id: str, attempt: str, purpose: str = "WRITE") -> Logged:
    return logged(index, f"credential.{type_}", GOOD, grant_id=grant_id, attempt_id=attempt, purpose=purpose)


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
        grant(13, "granted", G1, "t1"),
        grant(14, "granted", G2, "t2"),
        grant(15, "granted", G4, "t4"),
        grant(90, "revoked", G1, "t1"),
        grant(91, "revoked", G2, "t2"),
        grant(92, "revoked", G4, "t4"),
    )
    return History(
        receipts=(Receipt(1, "e1"), Receipt(7, "e7")),
        checkpoints=(KeptCheckpoint(5, b"root5"),),
        plans=(
            PlanEnd(
                GOOD,
                "SUCCEEDED",
                "",
                (StepEnd("s1", "KEPT"), StepEnd("s0", "VERIFIED", writes=False)),
                True,
                "SUCCEEDED",
            ),
            PlanEnd(BACK, "ROLLED_BACK", "", (StepEnd("s1", "COMPENSATED"), StepEnd("s2", "NOT_APPLIED")), True),
        ),
        effects=(
            effect_of("k1", "t1", 1015, G1, a=100),
            effect_of("k2", "t2", 1020, G2, a=50, c=1),
            effect_of("k4", "t4", 1030, G4, a=-50, c=-1),
        ),
        entries=entries,
        roots={5: b"root5"},
        leftovers=Leftovers(),
        seen_alive=ALIVE,
        opening={"a": 0, "b": 7, "c": 0},
        closing={"a": 100, "b": 7, "c": 0},
    )


def without(history: History, *indexes: int) -> History:
    return replace(history, entries=tuple(e for e in history.entries if e.index not in indexes))


def plan(history: History, number: int, **changes: Any) -> History:
    plans = list(history.plans)
    plans[number] = replace(plans[number], **changes)
    return replace(history, plans=tuple(plans))


def entry(history: History, index: int, **data: Any) -> History:
    def changed(one: Logged) -> Logged:
        return replace(one, data={**one.data, **data}) if one.index == index else one

    return replace(history, entries=tuple(changed(one) for one in history.entries))


def effect(history: History, *more: Effect) -> History:
    closing = dict(history.closing)
    for one in more:
        for account, amount in one.moves.items():
            closing[account] = closing.get(account, 0) + amount
    return replace(history, effects=(*history.effects, *more), closing=closing)


def first_effect(history: History, **changes: Any) -> History:
    first, *others = history.effects
    return replace(history, effects=(replace(first, **changes), *others))


LIES: list[tuple[str, str, Callable[[History], History]]] = [
    ("an effect without an intent", "intent-first", lambda h: effect(h, effect_of("k9", "t9", 2000, G1, b=1))),
    ("an effect before its intent", "intent-first", lambda h: first_effect(h, begin_ms=1000)),
    ("an effect key twice", "once", lambda h: effect(h, effect_of("k1", "t1", 1016, G1, a=100))),
    ("two transactions of one attempt", "once", lambda h: effect(h, effect_of("k9", "t1", 1016, G1, a=1))),
    (
        "a step applied by two attempts",
        "once",
        lambda h: effect(_second_intent(h), effect_of("k5", "t5", 1100, G1, a=100)),
    ),
    ("an undo twice", "once", lambda h: effect(_second_undo(h), effect_of("k6", "t6", 1100, G4, a=-50))),
    ("a login of no grant", "lent", lambda h: first_effect(h, login="postgres")),
    ("a login of a grant that the ledger does not know", "lent", lambda h: without(h, 13)),
    ("a login that was lent for reading", "lent", lambda h: entry(h, 13, purpose="READ")),
    ("another attempt's login", "lent", lambda h: first_effect(h, login=login(G2))),
    ("a grant that the ledger had after the effect", "lent", lambda h: first_effect(h, begin_ms=1012)),
    ("a commit by a login that was called dead", "lent", lambda h: first_effect(h, end_ms=1091)),
    ("a grant without an end", "deaths-told", lambda h: without(h, 91)),
    ("a grant that ended twice", "deaths-told", lambda h: _again(h, 91)),
    ("one grant id twice", "deaths-told", lambda h: _again(h, 14)),
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
    ("another end than the client was told", "truthful-ends", lambda h: plan(h, 1, told="SUCCEEDED")),
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
    ("no lease seen alive", "nothing-left", lambda h: replace(h, seen_alive=replace(ALIVE, leases=()))),
    ("no login seen alive", "nothing-left", lambda h: replace(h, seen_alive=replace(ALIVE, logins=()))),
    ("no session seen alive", "nothing-left", lambda h: replace(h, seen_alive=replace(ALIVE, sessions=()))),
    ("no grant seen alive", "nothing-left", lambda h: replace(h, seen_alive=replace(ALIVE, grants=()))),
    ("a write past the list of effects", "books-balance", lambda h: replace(h, closing={**h.closing, "b": 8})),
    ("an account from nowhere", "books-balance", lambda h: replace(h, closing={**h.closing, "d": 0})),
    ("an account that is gone", "books-balance", lambda h: replace(h, closing={"a": 100, "c": 0})),
]


def _again(history: History, index: int) -> History:
    (found,) = (one for one in history.entries if one.index == index)
    return replace(history, entries=(*history.entries, replace(found, index=99, event_id="e99")))


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
    history = plan(truth(), 0, state="HALTED", reason_code="IN_DOUBT", steps=(StepEnd("s1", "IN_DOUBT"),), told="")
    history = without(history, 3, 4)
    assert check(history) == []
    gone = replace(history, effects=history.effects[1:], closing={**history.closing, "a": 0})
    assert check(gone) == []


def test_an_effect_without_an_attempt_gets_that_of_its_logins_grant() -> None:
    found = attributed([effect_of("x", "", 1, G2, a=1), effect_of("y", "t9", 1, G2, a=1)], truth().entries)
    assert [one.attempt_id for one in found] == ["t2", "t9"], "what the target was told stays, for a rule to compare"
    stranger = replace(effect_of("x", "", 1, G2, a=1), login="postgres")
    assert attributed([stranger], truth().entries)[0].attempt_id == ""


@pytest.mark.parametrize("name", ["postgres", "g-", "g-short-abcdefgh", "x-" + "0" * 32 + "-a", "g-" + "0" * 32])
def test_only_a_whole_login_names_a_grant(name: str) -> None:
    assert grant_of(name) == ""
    assert grant_of(login(G1)) == G1.replace("-", "")
