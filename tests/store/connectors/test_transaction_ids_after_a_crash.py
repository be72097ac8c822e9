"""PostgreSQL gives out again the ids that a crash took back; our marker must not be fooled by one.

The server is really crashed (SIGKILL of a backend makes the postmaster restart everything); the WAL writer is told to
sleep, so that nothing reaches the disk by chance.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from counterseal.embedded.postgres import Cluster, PostgresServer
from counterseal_executor.connectors.base import Credential, Probe, Target, Unknown
from counterseal_executor.connectors.postgres import PostgresConnector
from support.connectors import RecordingFence, attempt, call, tool
from support.postgres import open_directory

SLEEPY = {"wal_writer_delay": "10s", "bgwriter_delay": "10s", "autovacuum": "off"}
CONFIG: Mapping[str, Any] = {
    "execute": {"sql": "UPDATE purse SET coins = coins - 1 RETURNING coins", "rows_min": 1, "rows_max": 1},
    "verify": {"sql": "SELECT true AS ok"},
}


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    with open_directory("counterseal-crash-") as home:
        server = PostgresServer(home / "cluster", settings={"fsync": "off", **SLEEPY})
        try:
            cluster = server.start()
            await run(cluster, "CREATE TABLE purse (coins int); INSERT INTO purse VALUES (100)")
            yield cluster
        finally:
            server.stop()


async def run(cluster: Cluster, sql: str) -> Any:
    connection = await asyncpg.connect(cluster.dsn())
    try:
        if ";" in sql:
            return await connection.execute(sql)
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def crash(cluster: Cluster, backend: int) -> None:
    """Kill one backend, as a crash of the server would, and wait until the server has recovered."""
    os.kill(backend, signal.SIGKILL)
    async with asyncio.timeout(30):
        while True:
            await asyncio.sleep(0.05)
            try:
                if not await run(cluster, "SELECT count(*) FROM pg_stat_activity WHERE pid = " + str(backend)):
                    return
            except (OSError, asyncpg.PostgresError):
                continue


async def test_the_trap_is_real_an_id_that_was_never_flushed_is_handed_out_again(cluster: Cluster) -> None:
    victim = await asyncpg.connect(cluster.dsn())
    await victim.transaction().start()
    xid = await victim.fetchval("SELECT pg_current_xact_id()::text")
    await victim.execute("UPDATE purse SET coins = coins - 1")
    await crash(cluster, victim.get_server_pid())
    victim.terminate()
    # Somebody else's transactions: one of them gets the lost id and commits.
    for _ in range(3):
        await run(cluster, "UPDATE purse SET coins = coins; SELECT 1")
    assert await run(cluster, f"SELECT pg_xact_status('{xid}')") == "committed"
    assert await run(cluster, "SELECT coins FROM purse") == 100


@dataclass(kw_only=True)
class CrashingFence(RecordingFence):
    """Stores the marker, then the target's server crashes: COMMIT is sent into the void."""

    cluster: Cluster

    async def before_commit(self, marker: Mapping[str, Any]) -> None:
        self.markers.append(marker)
        backend = await run(
            self.cluster,
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'counterseal' AND state = 'idle in transaction'",
        )
        await crash(self.cluster, backend)


async def test_a_marker_is_never_taken_for_the_transaction_that_got_its_id_after_a_crash(cluster: Cluster) -> None:
    settings = {"host": cluster.host, "port": cluster.port, "database": "postgres"}
    made = call(tool("postgres", CONFIG), Target("purse", "postgres", settings), {})
    credential = Credential(cluster.user, cluster.password)
    fence = CrashingFence(cluster=cluster)
    answer = await PostgresConnector().execute(made, credential, fence)
    assert isinstance(answer, Unknown)
    for _ in range(3):
        await run(cluster, "UPDATE purse SET coins = coins; SELECT 1")
    assert await run(cluster, "SELECT coins FROM purse") == 100
    assert await PostgresConnector().probe(attempt(made, fence), credential) is Probe.ABSENT
