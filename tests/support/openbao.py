"""A real OpenBao server per test process, on the test cluster's storage."""

from collections.abc import Iterator

import pytest

from counterseal.embedded.openbao import OpenBao, OpenBaoServer
from counterseal.embedded.postgres import Cluster
from support.postgres import execute, off_loop, open_directory


@pytest.fixture(scope="session")
def openbao(postgres_cluster: Cluster) -> Iterator[OpenBao]:
    """One running, unsealed server per test process, with its operator's AppRole; nothing is provisioned."""
    off_loop(lambda: execute(postgres_cluster.dsn(), "CREATE DATABASE openbao"))
    with open_directory("counterseal-bao-") as home:
        server = OpenBaoServer(home / "openbao", postgres_cluster.dsn("openbao") + "?sslmode=disable")
        try:
            yield server.start()
        finally:
            server.stop()
