"""The life of a plan and of a step, as data: code, models and the trace check read these two tables and nothing else.

A transition is (state, event) -> state. There is no EXECUTING state: once an intent is durable, the truth is "may or
may not have happened" until an answer, a probe or a person says which. Source: the executor's design, section 3.
"""

from collections.abc import Iterable, Mapping

from counterseal.errors import WrongState

Table = Mapping[str, Mapping[str, str]]


def _table(rows: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = {}
    for state, events, after in rows:
        for event in events.split():
            table.setdefault(state, {})[event] = after
    return table


PLAN: Table = _table(
    [
        ("PROPOSED", "commit", "COMMITTED"),
        ("PROPOSED", "deny refused invalid", "REJECTED"),
        ("PROPOSED", "withdraw supersede", "WITHDRAWN"),
        ("PROPOSED", "expire", "EXPIRED"),
        ("PROPOSED", "trip", "CANCELLED"),
        ("COMMITTED", "claim", "RUNNING"),
        ("COMMITTED", "cancel", "CANCELLED"),
        ("COMMITTED", "trip pause", "HALTED"),
        ("RUNNING", "all_verified", "SUCCEEDED"),
        ("RUNNING", "failed_no_effect", "FAILED_NO_EFFECT"),
        ("RUNNING", "step_failed cancel deadline", "COMPENSATING"),
        ("RUNNING", "in_doubt trip pause", "HALTED"),
        ("RUNNING", "hold", "NEEDS_ATTENTION"),
        ("HALTED", "resume", "RUNNING"),
        ("HALTED", "compensate", "COMPENSATING"),
        ("HALTED", "no_effects", "CANCELLED"),
        ("HALTED", "escalate", "NEEDS_ATTENTION"),
        ("HALTED", "trip", "HALTED"),
        ("COMPENSATING", "all_compensated", "ROLLED_BACK"),
        ("COMPENSATING", "no_effects", "CANCELLED"),
        ("COMPENSATING", "comp_failed irreversible_left comp_in_doubt trip", "NEEDS_ATTENTION"),
        ("NEEDS_ATTENTION", "retry_compensation", "COMPENSATING"),
        ("NEEDS_ATTENTION", "resolve", "RESOLVED"),
        ("NEEDS_ATTENTION", "trip", "NEEDS_ATTENTION"),
    ]
)

STEP: Table = _table(
    [
        ("PENDING", "deps_met", "READY"),
        ("PENDING", "skip", "SKIPPED"),
        ("READY", "intent", "INTENT"),
        ("READY", "skip", "SKIPPED"),
        ("READY", "precondition_failed", "NOT_APPLIED"),
        ("INTENT", "ok", "APPLIED"),
        ("INTENT", "refused", "NOT_APPLIED"),
        ("INTENT", "retryable_refusal not_sent", "READY"),
        ("INTENT", "timeout lease_lost", "IN_DOUBT"),
        ("IN_DOUBT", "probe_applied operator_applied", "APPLIED"),
        ("IN_DOUBT", "probe_absent not_sent", "READY"),
        ("IN_DOUBT", "probe_absent_final operator_absent", "NOT_APPLIED"),
        ("IN_DOUBT", "undo_if_exists", "UNDO_READY"),
        ("IN_DOUBT", "operator_unknown", "RESOLVED"),
        ("APPLIED", "readback_ok", "VERIFIED"),
        ("APPLIED", "readback_bad", "MISAPPLIED"),
        ("APPLIED", "undo", "UNDO_READY"),
        ("APPLIED", "operator", "RESOLVED"),
        ("VERIFIED", "undo", "UNDO_READY"),
        ("VERIFIED", "plan_done irreversible", "KEPT"),
        ("MISAPPLIED", "undo", "UNDO_READY"),
        ("MISAPPLIED", "irreversible", "KEPT"),
        ("MISAPPLIED", "operator", "RESOLVED"),
        ("UNDO_READY", "undo_intent", "UNDO_INTENT"),
        ("UNDO_READY", "guard_failed", "UNDO_FAILED"),
        ("UNDO_INTENT", "ok", "UNDONE_UNVERIFIED"),
        ("UNDO_INTENT", "refused", "UNDO_FAILED"),
        ("UNDO_INTENT", "retryable_refusal not_sent", "UNDO_READY"),
        ("UNDO_INTENT", "timeout lease_lost", "UNDO_IN_DOUBT"),
        ("UNDO_IN_DOUBT", "probe_undone", "UNDONE_UNVERIFIED"),
        ("UNDO_IN_DOUBT", "probe_not_undone not_sent", "UNDO_READY"),
        ("UNDO_IN_DOUBT", "operator", "RESOLVED"),
        ("UNDONE_UNVERIFIED", "readback_ok", "COMPENSATED"),
        ("UNDONE_UNVERIFIED", "readback_bad", "UNDO_FAILED"),
        ("UNDONE_UNVERIFIED", "operator", "RESOLVED"),
        ("UNDO_FAILED", "retry", "UNDO_READY"),
        ("UNDO_FAILED", "operator", "RESOLVED"),
    ]
)

PLAN_START, STEP_START = "PROPOSED", "PENDING"
PLAN_TERMINAL = frozenset(
    {"SUCCEEDED", "ROLLED_BACK", "FAILED_NO_EFFECT", "REJECTED", "EXPIRED", "WITHDRAWN", "CANCELLED", "RESOLVED"}
)
STEP_TERMINAL = frozenset({"SKIPPED", "NOT_APPLIED", "KEPT", "COMPENSATED", "RESOLVED"})

OPEN_STEPS = frozenset({"INTENT", "IN_DOUBT", "UNDO_INTENT", "UNDO_IN_DOUBT"})
"""An effect may stand at the target that nobody has accounted for; recovery drains these even in halted plans."""
STANDING = frozenset({"APPLIED", "VERIFIED", "MISAPPLIED"})
"""The step's effect is known to be at the target."""
SELF_RESUMING = frozenset({"LEDGER_UNAVAILABLE", "CHECKPOINT_STALE", "CREDENTIALS_UNAVAILABLE", "BREAKER_OPEN"})
"""Reasons of HALTED that recovery ends by itself; the others need a lift, a verdict or an operator."""
HALT_REASONS = SELF_RESUMING | {"CONTAINED", "IN_DOUBT", "POLICY_CHANGED", "OPERATOR"}


def after_plan(state: str, event: str) -> str:
    """Return the plan state after an event. Raises WrongState when the table does not permit it."""
    return _after(PLAN, "plan", state, event)


def after_step(state: str, event: str) -> str:
    """Return the step state after an event. Raises WrongState when the table does not permit it."""
    return _after(STEP, "step", state, event)


def _after(table: Table, what: str, state: str, event: str) -> str:
    try:
        return table[state][event]
    except KeyError:
        raise WrongState(f"a {what} in state {state} cannot take '{event}'", state=state, event=event) from None
