"""The exit code of every state that a plan can be in."""

import pytest

from counterseal.api.common.v1 import decision_pb2
from counterseal.api.executor.v1 import plan_pb2
from counterseal.cli import exits
from counterseal.cli.views import plan_exit
from counterseal_executor.states import PLAN, PLAN_TERMINAL

EXPECTED = {
    "SUCCEEDED": exits.OK,
    "ROLLED_BACK": exits.REFUSED,
    "FAILED_NO_EFFECT": exits.REFUSED,
    "CANCELLED": exits.REFUSED,
    "WITHDRAWN": exits.REFUSED,
    "EXPIRED": exits.REFUSED,
    "RESOLVED": exits.REFUSED,
    "HALTED": exits.REFUSED,
    "REJECTED": exits.DENIED,
    "NEEDS_ATTENTION": exits.IN_DOUBT,
    "PROPOSED": exits.OK,
    "COMMITTED": exits.OK,
    "RUNNING": exits.OK,
    "COMPENSATING": exits.OK,
}


@pytest.mark.parametrize("state", sorted({*PLAN, *PLAN_TERMINAL}))
def test_a_plan_that_did_not_do_what_it_was_to_do_never_exits_with_zero(state: str) -> None:
    plan = plan_pb2.Plan(state=state)
    plan.decision.outcome = decision_pb2.DECISION_OUTCOME_ALLOW
    assert plan_exit(plan) == EXPECTED[state]


def test_a_step_in_doubt_is_said_before_anything_else() -> None:
    plan = plan_pb2.Plan(state="HALTED", steps=[plan_pb2.Step(id="s1", state="IN_DOUBT")])
    assert plan_exit(plan) == exits.IN_DOUBT
