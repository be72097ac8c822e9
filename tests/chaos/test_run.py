"""The whole chaos run as a test: minutes long, so that `make test` leaves it to `make chaos`, which CI runs too."""

import os
from pathlib import Path

import pytest

from chaos import run
from chaos.schedule import schedule
from counterseal.embedded.layout import SERVICES
from support.requirements import requirement


@pytest.mark.chaos
@pytest.mark.timeout(600)
@requirement("run:chaos")
@pytest.mark.skipif("COUNTERSEAL_CHAOS" not in os.environ, reason="minutes long: make chaos, or COUNTERSEAL_CHAOS=1")
def test_sigkills_under_load_leave_a_history_without_contradiction(tmp_path: Path) -> None:
    assert run.main(["--seconds", "60", "--seed", "7", "--each", "2", "--out", str(tmp_path)]) == 0


def test_a_seed_gives_the_same_kills_again_and_strikes_every_service_equally() -> None:
    kills = schedule(7, 120.0, 10)
    assert kills == schedule(7, 120.0, 10) != schedule(8, 120.0, 10)
    assert all([kill.service for kill in kills].count(service) == 10 for service in SERVICES)
    assert 60 < sum(kill.pause_seconds for kill in kills) < 180
    assert 0 < sum(kill.alone for kill in kills) < len(kills), "some strike while another service is down"
