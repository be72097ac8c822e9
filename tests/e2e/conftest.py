"""One running suite for the end-to-end tests that ask for it; `xdist_group("stack")` keeps them on one worker."""

from collections.abc import Iterator

import pytest

from support.postgres import open_directory
from support.suite import Suite, running_suite


@pytest.fixture(scope="package")
def suite() -> Iterator[Suite]:
    """Environment `prod`, tenants acme and globex, the bank as acme's target, secrets recorded on their way."""
    with open_directory("counterseal-e2e-") as home, running_suite(home) as running:
        yield running


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder; what shares the one stack shares its worker."""
    # The scan for secrets looks at what all the others left behind.
    items.sort(key=lambda item: item.path.name == "test_no_secret_leaks.py")
    for item in items:
        if "tests/e2e/" not in item.path.as_posix():
            continue
        item.add_marker(pytest.mark.e2e)
        if "suite" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("stack"))
            item.add_marker(pytest.mark.timeout(300))
