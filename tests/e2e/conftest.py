"""One running suite for all end-to-end tests; `xdist_group("stack")` keeps them on one worker."""

from collections.abc import Iterator

import pytest

from support.postgres import open_directory
from support.suite import Suite, running_suite


@pytest.fixture(scope="session")
def suite() -> Iterator[Suite]:
    """Environment `prod`, tenants acme and globex, the bank as acme's target, secrets recorded on their way."""
    with open_directory("counterseal-e2e-") as home, running_suite(home) as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is end to end and shares the one stack's worker."""
    for item in items:
        if "tests/e2e/" in item.path.as_posix():
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.xdist_group("stack"))
            item.add_marker(pytest.mark.timeout(300))
