"""The two state tables hold what the design promises of them."""

from collections import deque

import pytest

from counterseal.errors import WrongState
from counterseal_executor import states
from counterseal_executor.states import PLAN, PLAN_START, PLAN_TERMINAL, STEP, STEP_START, STEP_TERMINAL, Table
from support.requirements import requirement


def all_states(table: Table) -> set[str]:
    return set(table) | {after for row in table.values() for after in row.values()}


def reachable(table: Table, start: str, *, without: frozenset[str] = frozenset()) -> set[str]:
    seen, queue = {start}, deque([start])
    while queue:
        for event, after in table.get(queue.popleft(), {}).items():
            if event not in without and after not in seen:
                seen.add(after)
                queue.append(after)
    return seen


@pytest.mark.parametrize(("table", "state_count", "transition_count"), [(PLAN, 14, 35), (STEP, 17, 46)])
def test_the_tables_have_the_size_of_the_design(table: Table, state_count: int, transition_count: int) -> None:
    assert len(all_states(table)) == state_count
    assert sum(len(row) for row in table.values()) == transition_count


@requirement("plan:states-closed")
@pytest.mark.parametrize(
    ("table", "start", "terminal"), [(PLAN, PLAN_START, PLAN_TERMINAL), (STEP, STEP_START, STEP_TERMINAL)]
)
def test_nothing_is_unreachable_and_nothing_is_stuck(table: Table, start: str, terminal: frozenset[str]) -> None:
    assert reachable(table, start) == all_states(table)
    assert all_states(table) - set(table) == terminal
    for state in table:
        assert reachable(table, state) & terminal, state


@requirement("plan:states-closed")
def test_a_trip_is_legal_in_every_live_plan_state_and_never_starts_work() -> None:
    for state, row in PLAN.items():
        assert row.get("trip") in {"CANCELLED", "HALTED", "NEEDS_ATTENTION"}, state


@requirement("plan:states-closed")
def test_nothing_lies_past_the_gate_without_a_commit() -> None:
    assert reachable(PLAN, PLAN_START, without=frozenset({"commit"})) == {
        "PROPOSED",
        "REJECTED",
        "WITHDRAWN",
        "EXPIRED",
        "CANCELLED",
    }


def test_no_effect_is_known_without_an_intent() -> None:
    assert reachable(STEP, STEP_START, without=frozenset({"intent"})) == {"PENDING", "READY", "SKIPPED", "NOT_APPLIED"}


def test_nothing_is_verified_or_compensated_without_a_read_back() -> None:
    got = reachable(STEP, STEP_START, without=frozenset({"readback_ok"}))
    assert not got & {"VERIFIED", "COMPENSATED"}


def test_an_undo_has_its_own_intent() -> None:
    assert not reachable(STEP, "UNDO_READY", without=frozenset({"undo_intent"})) & {"UNDONE_UNVERIFIED", "COMPENSATED"}


@requirement("plan:states-closed")
def test_a_timeout_is_never_a_failure() -> None:
    for row in (STEP["INTENT"], STEP["UNDO_INTENT"]):
        assert row["timeout"].endswith("IN_DOUBT")
        assert row["lease_lost"].endswith("IN_DOUBT")


def test_an_event_that_the_table_lacks_is_refused_with_its_state() -> None:
    assert states.after_plan("PROPOSED", "commit") == "COMMITTED"
    assert states.after_step("READY", "intent") == "INTENT"
    with pytest.raises(WrongState) as caught:
        states.after_plan("SUCCEEDED", "commit")
    assert caught.value.metadata == {"state": "SUCCEEDED", "event": "commit"}
    with pytest.raises(WrongState):
        states.after_step("IN_DOUBT", "ok")
