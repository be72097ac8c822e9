"""`counterseal-audit` as processes of its own, on real PostgreSQL and OpenBao, and a producer to call it as."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import asyncpg
import grpc

from counterseal.embedded.layout import Running, Wanted
from counterseal.embedded.stack import Stack
from counterseal.errors import LedgerUnavailable
from counterseal.rpc.ledger_client import Appended, LedgerClient
from counterseal.rpc.tls import Identity, open_channel, server_name
from counterseal.vault import Vault
from counterseal.vault.names import Environment
from support.entries import changed
from support.postgres import open_directory


@asynccontextmanager
async def stack(tenants: Sequence[str] = ("acme",)) -> AsyncIterator[Running]:
    with open_directory("counterseal-audit-") as home:
        prepared = Stack(home / "dev", Wanted(environment="prod", tenants=tuple(tenants), durable=False))
        try:
            yield await prepared.start()
        finally:
            await prepared.stop()


class Process:
    """One replica. settings: overrides of its configuration, as the environment gives them."""

    def __init__(self, running: Running, settings: Mapping[str, str] | None = None) -> None:
        self._options = ["--config", str(running.configs["audit"])]
        self._settings = dict(settings or {})
        self._log_file = running.logs / "audit-test.log"
        self._log = self._log_file.open("ab")
        self._child: subprocess.Popen[bytes] | None = None
        self.address = self._settings.get("COUNTERSEAL_SERVER__LISTEN", running.addresses["audit"])

    def start(self, settings: Mapping[str, str] | None = None, module: str = "counterseal_audit") -> None:
        environment = {**os.environ, **self._settings, **(settings or {})}
        command = [sys.executable, "-m", module, *self._options]
        self._child = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=environment)

    @property
    def is_dead(self) -> bool:
        return self._child is not None and self._child.poll() is not None

    def check(self) -> None:
        """Fail when it ended and nobody killed it: what waits for its answers would wait for ever."""
        code = self._child.poll() if self._child is not None else None
        if code not in (None, -signal.SIGKILL):
            last = self._log_file.read_text(errors="replace").splitlines()[-5:]
            raise AssertionError(f"the process ended by itself, exit {code}:\n" + "\n".join(last))

    def kill(self) -> None:
        assert self._child is not None
        self._child.kill()
        self._child.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def stop(self) -> int:
        assert self._child is not None
        self._child.send_signal(signal.SIGTERM)
        return self._child.wait(60)

    def close(self) -> None:
        """Leave nothing behind, however the test ended."""
        if self._child is not None and self._child.poll() is None:
            self.kill()
        self._log.close()


async def login(running: Running, service: str = "audit") -> Vault:
    """Log in to Vault as a service does."""
    secrets = running.data_dir / "secrets" / service
    role, secret = ((secrets / name).read_text().strip() for name in ("role-id", "secret-id"))
    return await Vault.login_approle(running.openbao.address, role, secret, ca_file=running.openbao.ca_file)


async def producer_identity(running: Running) -> Identity:
    """What the executor does at its start: log in, and have a certificate issued."""
    vault = await login(running, "executor")
    names = Environment("prod")
    uri = f"spiffe://{running.trust_domain}/prod/svc/executor"
    issued = await vault.issue_certificate(names.pki, "svc-executor", server_name("executor", "prod"), uri, "1h")
    roots = await vault.ca_bundle(names.pki)
    vault.close()
    return Identity(issued.cert_pem.encode(), issued.key_pem.encode(), roots.encode(), issued.expire_time_ms)


def channel_to(address: str, identity: Identity) -> grpc.aio.Channel:
    return open_channel(address, identity, server_name("audit", "prod"))


async def append_until_taken(client: LedgerClient, stream: str, count: int, tenant: str = "acme") -> list[Appended]:
    """Append one after the other as an outbox does: the same entry again until it is acknowledged."""
    taken = []
    for seq in range(1, count + 1):
        request = changed(stream=stream, seq=seq, tenant=tenant)
        while True:
            try:
                taken.append(await client.append_one(request))
                break
            except LedgerUnavailable:
                await asyncio.sleep(0.05)
    return taken


async def all_entries(running: Running, tenant: str = "acme") -> list[bytes]:
    connection = await asyncpg.connect(running.control.dsn("counterseal_audit"))
    try:
        rows = await connection.fetch(
            "SELECT entry FROM ledger_entry JOIN ledger_log USING (log_id) WHERE tenant = $1 ORDER BY shard, idx",
            tenant,
        )
        return [row[0] for row in rows]
    finally:
        await connection.close()
