"""What a worker does next: doubt first, read-backs second, new work last, undo in reverse."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.documents.plan import Undo
from counterseal_executor.plans.rows import PlanRow, StepRow
from counterseal_executor.states import PLAN, STEP
from counterseal_executor.work.engine import WAIT, Action, next_action, undo_args, visible_output
from support.documents import DIGEST, draft_document, plan, step_document

UNDO = {"tool": "shop.restore@1.0.0", "args": {"key": "a"}}
PLAN_DOCUMENT = plan(
    draft_document(
        steps=[
            step_document(id="a", undo=UNDO),
            step_document(id="b", needs=["a"], undo=UNDO),
            step_document(id="c", needs=["b"], on_fail="hold"),
        ]
    )
)


def row(state: str, **changes: Any) -> PlanRow:
    made = PlanRow(
        plan_id=PLAN_DOCUMENT.plan_id,
        tenant="acme",
        plan_digest=PLAN_DOCUMENT.digest,
        body=PLAN_DOCUMENT.body,
        rationale=None,
        idempotency_key="k",
        request_digest=DIGEST,
        subject="user:ana",
        agent="refund-bot",
        agent_version="1",
        request_id="r",
        txn="t",
        scopes=(),
        not_before_ms=None,
        expire_ms=0,
        deadline_seconds=60,
        create_ms=0,
        state=state,
        reason_code="",
        halt_reason="",
        decision=None,
        disclosed=True,
        seq=1,
        open_steps=0,
        committed_ack=True,
        cancel_requested=False,
        commit_ms=0,
        deadline_ms=1000,
        end_ms=None,
        lease_epoch=1,
        tries=0,
        next_try_ms=None,
    )
    return replace(made, **changes)


def steps(a: str, b: str, c: str, effect: str = "E3") -> dict[str, StepRow]:
    return {
        name: StepRow(
            step_id=name,
            position=index,
            tool="shop.refund@1.0.0",
            tool_digest=DIGEST,
            target="shop",
            effect=effect,
            state=state,
            logical_attempt=1,
            undo_logical_attempt=1,
            attempt_count=0,
            current_attempt=None,
            forward_attempt=None,
            reason_code="",
            error_code="",
            output=None,
            intent_event_id=None,
            outcome_event_id=None,
        )
        for index, (name, state) in enumerate((("a", a), ("b", b), ("c", c)))
    }


def act(state: str, a: str, b: str, c: str, *, now: int = 0, stuck: tuple[str, ...] = (), **changes: Any) -> Action:
    return next_action(PLAN_DOCUMENT, row(state, **changes), steps(a, b, c), now, stuck)


P, V = "PENDING", "VERIFIED"


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (act("COMMITTED", P, P, P), Action("move_plan", event="claim")),
        (act("RUNNING", P, P, P), Action("run", "a")),
        (act("RUNNING", "READY", P, P), Action("run", "a")),
        (act("RUNNING", "INTENT", P, P), Action("settle", "a")),
        (act("RUNNING", "APPLIED", P, P), Action("verify", "a")),
        (act("RUNNING", V, P, P), Action("run", "b")),
        (act("RUNNING", V, V, V), Action("move_plan", event="all_verified")),
        (act("RUNNING", "NOT_APPLIED", P, P), Action("move_plan", event="failed_no_effect")),
        (act("RUNNING", V, "NOT_APPLIED", P), Action("move_plan", event="step_failed")),
        (act("RUNNING", V, "MISAPPLIED", P), Action("move_plan", event="step_failed")),
        (act("RUNNING", V, V, "NOT_APPLIED"), Action("move_plan", event="hold")),
        (act("RUNNING", V, P, P, now=1000), Action("move_plan", event="deadline")),
        (act("RUNNING", V, V, V, now=1000), Action("move_plan", event="all_verified")),
        (act("RUNNING", V, P, P, cancel_requested=True), Action("move_plan", event="cancel")),
        (act("RUNNING", V, "INTENT", P, cancel_requested=True), Action("settle", "b")),
        (
            act("RUNNING", V, "IN_DOUBT", P, stuck=("b",)),
            Action("move_plan", event="in_doubt", reason_code="IN_DOUBT"),
        ),
        (act("HALTED", V, "INTENT", P, halt_reason="CONTAINED"), Action("settle", "b")),
        (act("HALTED", V, P, P, halt_reason="CONTAINED"), WAIT),
        (act("HALTED", V, P, P, halt_reason="CONTAINED", cancel_requested=True), WAIT),
        (act("HALTED", V, P, P, halt_reason="POLICY_CHANGED"), WAIT),
        (act("HALTED", V, P, P, halt_reason="LEDGER_UNAVAILABLE"), Action("move_plan", event="resume")),
        (act("HALTED", V, P, P, halt_reason="LEDGER_UNAVAILABLE", next_try_ms=9), WAIT),
        (
            act("HALTED", V, P, P, halt_reason="LEDGER_UNAVAILABLE", next_try_ms=9, now=9),
            Action("move_plan", event="resume"),
        ),
        (act("HALTED", V, P, P, halt_reason="IN_DOUBT"), Action("move_plan", event="resume")),
        (act("HALTED", V, "IN_DOUBT", P, halt_reason="IN_DOUBT", stuck=("b",)), WAIT),
        (
            act("HALTED", V, P, P, halt_reason="OPERATOR", cancel_requested=True),
            Action("move_plan", event="compensate"),
        ),
        (
            act("HALTED", P, P, P, halt_reason="OPERATOR", cancel_requested=True),
            Action("move_plan", event="no_effects"),
        ),
        (act("COMPENSATING", V, V, P), Action("move_step", "c", "skip")),
        (act("COMPENSATING", V, V, "SKIPPED"), Action("move_step", "b", "undo")),
        (act("COMPENSATING", V, "UNDO_READY", "SKIPPED"), Action("undo", "b")),
        (act("COMPENSATING", V, "UNDO_INTENT", "SKIPPED"), Action("settle", "b")),
        (act("COMPENSATING", V, "UNDONE_UNVERIFIED", "SKIPPED"), Action("verify_undo", "b")),
        (act("COMPENSATING", V, "COMPENSATED", "SKIPPED"), Action("move_step", "a", "undo")),
        (act("COMPENSATING", "COMPENSATED", "COMPENSATED", "SKIPPED"), Action("move_plan", event="all_compensated")),
        (act("COMPENSATING", V, "UNDO_FAILED", "SKIPPED"), Action("move_plan", event="comp_failed")),
        (act("COMPENSATING", V, V, "MISAPPLIED"), Action("move_step", "c", "irreversible")),
        (act("COMPENSATING", V, V, "APPLIED"), Action("verify", "c")),
        (
            act("COMPENSATING", "COMPENSATED", "COMPENSATED", "KEPT"),
            Action("move_plan", event="irreversible_left"),
        ),
        (
            act("COMPENSATING", "NOT_APPLIED", "SKIPPED", "SKIPPED"),
            Action("move_plan", event="no_effects"),
        ),
        (act("NEEDS_ATTENTION", V, "UNDO_IN_DOUBT", P), Action("settle", "b")),
        (act("NEEDS_ATTENTION", V, "UNDO_FAILED", P), WAIT),
        (act("SUCCEEDED", "KEPT", "KEPT", "KEPT"), WAIT),
    ],
)
def test_the_next_action_follows_from_the_rows_alone(got: Action, want: Action) -> None:
    assert got == want


STATES = st.sampled_from(sorted({*STEP, "SKIPPED", "NOT_APPLIED", "KEPT", "COMPENSATED", "RESOLVED"}))


@given(st.sampled_from(sorted(PLAN)), STATES, STATES, STATES, st.booleans(), st.sampled_from(["OPERATOR", "IN_DOUBT"]))
def test_whatever_the_rows_the_tables_permit_the_action(
    state: str, a: str, b: str, c: str, cancel: bool, reason: str
) -> None:
    action = act(state, a, b, c, cancel_requested=cancel, halt_reason=reason)
    rows = {"a": a, "b": b, "c": c}
    if action.kind == "move_plan":
        assert action.event in PLAN[state]
    elif action.kind == "move_step":
        assert action.event in STEP[rows[action.step_id]]
    elif action.kind == "run":
        assert rows[action.step_id] in ("PENDING", "READY")
        assert not {"INTENT", "IN_DOUBT"} & set(rows.values())


@given(STATES, STATES, STATES)
def test_an_undo_never_starts_under_a_standing_dependent(a: str, b: str, c: str) -> None:
    action = act("COMPENSATING", a, b, c)
    if action.kind == "undo" or (action.kind == "move_step" and action.event == "undo"):
        later = {"a": (b, c), "b": (c,), "c": ()}[action.step_id]
        assert not {"APPLIED", "VERIFIED", "MISAPPLIED", "UNDO_READY"} & set(later)


def test_undo_arguments_take_values_of_the_before_image() -> None:
    undo = Undo("t@1.0.0", DIGEST, {"rows": [{"$before": "/0/id"}], "all": {"$before": ""}, "x": 1}, (), False)
    assert undo_args(undo, [{"id": 7}]) == {"rows": [7], "all": [{"id": 7}], "x": 1}
    with pytest.raises(KeyError):
        undo_args(undo, [])


def test_what_a_tool_did_not_declare_or_marks_sensitive_is_not_shown() -> None:
    schema = {
        "type": "object",
        "properties": {
            "rows": {
                "type": "array",
                "items": {"type": "object", "properties": {"id": {}, "card": {}}, "additionalProperties": False},
            }
        },
    }
    output = {"rows": [{"id": 1, "card": "4111", "ssn": "1"}], "debug": "dsn=postgres://"}
    assert visible_output(schema, ["/rows/*/card"], output) == {"rows": [{"id": 1, "card": "[redacted]"}]}
