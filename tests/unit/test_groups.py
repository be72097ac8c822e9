"""What shares one set of servers shares one test process."""

import os

import pytest


@pytest.mark.xdist_group("together")
def test_the_scheduler_is_told_of_groups(request: pytest.FixtureRequest) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("one process: nothing to group")
    assert request.node.nodeid.endswith("@together"), (
        "pytest and xdist do not fit: every process starts servers of its own"
    )
