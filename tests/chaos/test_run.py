"""The whole chaos runs as tests: minutes long, so that `make test` leaves them to `make chaos` and `make chaos-tau`.

CI runs short forms of both.
"""

import os
from pathlib import Path

import pytest

from chaos import run, tau
from chaos.schedule import schedule
from counterseal.embedded.layout import SERVICES
from support.requirements import requirement
from support.retail import retail_data

whole_run = pytest.mark.skipif("COUNTERSEAL_CHAOS" not in os.environ, reason="minutes long: make chaos, make chaos-tau")


@whole_run
@pytest.mark.chaos
@pytest.mark.timeout(1200)
@requirement("run:chaos")
def test_sigkills_under_load_leave_a_history_without_contradiction(tmp_path: Path) -> None:
    assert run.main(["--seconds", "60", "--seed", "7", "--each", "2", "--out", str(tmp_path)]) == 0


@whole_run
@pytest.mark.chaos
@pytest.mark.timeout(1800)
@requirement("run:chaos")
def test_sigkills_under_the_retail_workload_leave_every_task_as_its_reference(tmp_path: Path) -> None:
    arguments = ["--data", str(retail_data()), "--seed", "7", "--each", "2", "--out", str(tmp_path)]
    assert tau.main(arguments) == 0


def test_where_nobody_has_the_data_the_run_says_so_and_a_wrong_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COUNTERSEAL_SHARED", str(tmp_path))
    assert tau.main([]) == 0
    assert "skipped" in capsys.readouterr().err
    assert tau.main(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2


def test_a_seed_gives_the_same_kills_again_and_strikes_every_service_equally() -> None:
    kills = schedule(7, 120.0, 10)
    assert kills == schedule(7, 120.0, 10) != schedule(8, 120.0, 10)
    assert all([kill.service for kill in kills].count(service) == 10 for service in SERVICES)
    assert 60 < sum(kill.pause_seconds for kill in kills) < 180
    assert 0 < sum(kill.alone for kill in kills) < len(kills), "some strike while another service is down"
