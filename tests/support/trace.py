"""The trace check: whatever a test did, the recorded events are a path through the two state tables.

An event narrows what state a plan or step can be in; where it says less than the transition (a refusal may be final or
retried), every possibility is kept. At the end the rows must be among what the events allow, and every intent has
exactly one outcome unless it is still open.
"""

from collections import Counter, defaultdict
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.canonical import parse_canonical
from counterseal_executor import database as db
from counterseal_executor.states import OPEN_STEPS, PLAN, STEP

OUTCOMES = {
    "applied": ("ok",),
    "not_applied": ("refused", "retryable_refusal"),
    "not_sent": ("not_sent",),
    "unknown": ("timeout", "lease_lost"),
}
RESOLVED = {
    "applied": ("probe_applied", "operator_applied", "probe_undone", "operator"),
    "not_applied": ("probe_absent", "probe_absent_final", "operator_absent", "probe_not_undone", "operator"),
    "unknown": ("operator_unknown", "operator"),
}


async def check_traces(engine: AsyncEngine) -> int:
    """Check every plan in the database; returns how many there were. Raises AssertionError naming the event."""
    async with db.transaction(engine, db.EVERY_TENANT) as conn:
        plans = await db.rows(conn, "SELECT plan_id, state FROM plan")
        steps = await db.rows(conn, "SELECT plan_id, step_id, state FROM step")
        events = await db.rows(conn, "SELECT plan_id, seq, type, step_id, data FROM event ORDER BY plan_id, seq")
    by_plan: defaultdict[Any, list[Any]] = defaultdict(list)
    for event in events:
        by_plan[event.plan_id].append(event)
    rows = {(step.plan_id, step.step_id): step.state for step in steps}
    for plan in plans:
        mine = by_plan[plan.plan_id]
        assert [event.seq for event in mine] == list(range(1, len(mine) + 1)), "the plan's stream has a gap"
        allowed = _plan_states(mine)
        assert plan.state in allowed, f"the plan is {plan.state}; its events allow {sorted(allowed)}"
        for (plan_id, step_id), state in rows.items():
            if plan_id == plan.plan_id:
                _check_step([event for event in mine if event.step_id == step_id], step_id, state)
    return len(plans)


def _plan_states(events: list[Any]) -> set[str]:
    states = {"PROPOSED"}
    for event in events:
        data = parse_canonical(bytes(event.data))
        if event.type == "plan.committed":
            states = _after(PLAN, states, ("commit",))
        elif event.type == "plan.changed":
            assert data["from_state"] in states, f"{event.seq}: from {data['from_state']}, not {states}"
            assert PLAN[data["from_state"]].get(data["cause"]) == data["to_state"], f"{event.seq}: {data}"
            states = {data["to_state"]}
        elif event.type == "compensation.started":
            states = {after for state in states for after in PLAN.get(state, {}).values() if after == "COMPENSATING"}
        elif event.type == "plan.ended":
            states = {after for state in states for after in PLAN.get(state, {}).values() if after == data["state"]}
        assert states, f"{event.seq}: {event.type} is no transition of the table"
    return states


def _check_step(events: list[Any], step_id: str, row: str) -> None:
    states = {"PENDING"}
    intents: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for event in events:
        data = parse_canonical(bytes(event.data))
        before = states
        if event.type == "step.changed":
            assert data["from_state"] in states, f"{step_id}, {event.seq}: from {data['from_state']}, not {states}"
            assert STEP[data["from_state"]].get(data["cause"]) == data["to_state"], f"{step_id}, {event.seq}: {data}"
            states = {data["to_state"]}
        elif event.type == "step.intent":
            intents[data["attempt_id"]] += 1
            states = _after(STEP, states, ("undo_intent",) if data.get("undoes") else ("intent",))
        elif event.type == "step.outcome":
            outcomes[data["attempt_id"]] += 1
            states = _after(STEP, states, OUTCOMES[data["outcome"]])
        elif event.type == "step.verified":
            states = _after(STEP, states, ("readback_ok",) if data["verdict"] == "ok" else ("readback_bad",))
        elif event.type == "step.resolved":
            states = _after(STEP, states, RESOLVED[data["verdict"]])
        assert states, f"{step_id}, {event.seq}: {event.type} {data} is no transition out of {sorted(before)}"
    assert row in states, f"{step_id} is {row}; its events allow {sorted(states)}"
    missing = intents - outcomes
    assert not outcomes - intents, f"{step_id}: an outcome without an intent, or two of one attempt"
    assert sum(missing.values()) == (1 if row in ("INTENT", "UNDO_INTENT") else 0), f"{step_id}: {missing} is open"
    assert row not in OPEN_STEPS or intents


def _after(table: Any, states: set[str], events: tuple[str, ...]) -> set[str]:
    return {table[state][event] for state in states for event in events if event in table.get(state, {})}
