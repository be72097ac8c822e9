"""Why a plan pauses, and whether it comes back soon, later, or only by a person."""

import pytest

from counterseal.errors import (
    Contained,
    CredentialsUnavailable,
    DecisionInvalid,
    GrantLimit,
    InputInvalid,
    InternalError,
    LedgerUnavailable,
    QueueFull,
    ServiceError,
)
from counterseal_executor.work.attempts import REFUSED_FOR_GOOD, _halt_of


@pytest.mark.parametrize("error", [GrantLimit(), QueueFull()])
def test_too_many_at_once_is_congestion_and_not_an_outage(error: ServiceError) -> None:
    halt = _halt_of(error)
    assert (halt.reason, halt.congested) == ("CREDENTIALS_UNAVAILABLE", True)


def test_a_decision_that_aged_on_the_way_is_congestion_and_not_a_change_of_policy() -> None:
    halt = _halt_of(DecisionInvalid(), aged=True)
    assert (halt.reason, halt.congested) == ("CREDENTIALS_UNAVAILABLE", True)
    assert _halt_of(Contained(), aged=True).reason == "CONTAINED"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CredentialsUnavailable(), "CREDENTIALS_UNAVAILABLE"),
        (LedgerUnavailable(), "LEDGER_UNAVAILABLE"),
        (DecisionInvalid(), "POLICY_CHANGED"),
        (Contained(), "CONTAINED"),
    ],
)
def test_every_other_pause_names_what_it_waits_for_and_grows(error: ServiceError, reason: str) -> None:
    halt = _halt_of(error)
    assert (halt.reason, halt.congested) == (reason, False)


def test_a_ledger_that_fails_inside_does_not_park_a_plan_for_a_person() -> None:
    assert InternalError.reason not in REFUSED_FOR_GOOD
    assert InputInvalid.reason in REFUSED_FOR_GOOD
