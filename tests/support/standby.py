"""A physical standby of a running cluster: base backup, streaming, cut off, promoted. PostgreSQL's own tools."""

import asyncio
import shutil
import subprocess
from pathlib import Path

import asyncpg

from counterseal.embedded.postgres import FAST, Cluster, PostgresServer
from support.postgres import ServiceDatabase, execute


class Standby:
    """Follows `primary` from `start` on, asynchronously, until it is cut off or promoted."""

    def __init__(self, home: Path, primary: PostgresServer, cluster: Cluster) -> None:
        self._primary = primary
        self._source = cluster
        self._server = PostgresServer(home, settings=FAST)
        self.cluster = cluster

    def start(self) -> None:
        """Take a base backup and follow."""
        server = self._server
        server.home.mkdir(parents=True)
        server._give(server.home, 0o700)
        backup = str(server._binaries() / "pg_basebackup")
        command = [backup, "-D", str(server.home / "data"), "-d", self._source.dsn(), "-R", "-X", "stream"]
        done = server._spawn([*command, "-c", "fast", "--no-sync"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = done.communicate(timeout=120)
        assert done.returncode == 0, output.decode(errors="replace")
        shutil.copyfile(self._primary.home / "password", server.home / "password")
        self.cluster = server.start()

    async def caught_up(self) -> None:
        """Wait until everything that the primary has written by now is replayed here."""
        source = await asyncpg.connect(self._source.dsn())
        here = await asyncpg.connect(self.cluster.dsn())
        wanted = await source.fetchval("SELECT pg_current_wal_flush_lsn()::text")
        async with asyncio.timeout(60):
            while not await here.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", wanted):
                await asyncio.sleep(0.05)
        await source.close()
        await here.close()

    async def cut_off(self) -> None:
        """Hear no more of the primary: what it acknowledges from now on is not here."""
        await execute(self.cluster.dsn(), "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        connection = await asyncpg.connect(self.cluster.dsn())
        async with asyncio.timeout(60):
            while await connection.fetchval("SELECT count(*) FROM pg_stat_wal_receiver"):
                await asyncio.sleep(0.05)
        await connection.close()

    async def promote(self) -> None:
        """Become the primary."""
        await execute(self.cluster.dsn(), "SELECT pg_promote(true, 60)")

    def database(self, of: ServiceDatabase) -> ServiceDatabase:
        """Return the same database on this cluster."""

        def here(dsn: str) -> str:
            return dsn.replace(f":{self._source.port}/", f":{self.cluster.port}/")

        return ServiceDatabase(of.name, here(of.dsn), here(of.owner_dsn), here(of.admin_dsn))

    def stop(self) -> None:
        """End the cluster."""
        self._server.stop()
