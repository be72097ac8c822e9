"""The real process on real PostgreSQL and OpenBao, killed again and again while producers append."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import grpc
import pytest

from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc
from counterseal.embedded.layout import Running, Wanted
from counterseal.embedded.stack import Stack
from counterseal.errors import LedgerUnavailable
from counterseal.ledger import entry as entries
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import leaf_hash, root_of
from counterseal.rpc.ledger_client import Appended, LedgerClient
from counterseal.rpc.tls import Identity, open_channel, server_name
from counterseal.vault import Vault
from counterseal.vault.names import Environment
from counterseal_audit.main import main
from support.entries import changed, received
from support.postgres import open_directory
from support.requirements import requirement

WANTED = Wanted(environment="prod", tenants=("acme",), durable=False)
KILLS = 5
CLIENTS = 8


@asynccontextmanager
async def stack() -> AsyncIterator[Running]:
    with open_directory("counterseal-audit-") as home:
        prepared = Stack(home / "dev", WANTED)
        try:
            yield await prepared.start()
        finally:
            await prepared.stop()


class Process:
    """`counterseal-audit` as its own process."""

    def __init__(self, running: Running) -> None:
        self._command = [sys.executable, "-m", "counterseal_audit", "--config", str(running.configs["audit"])]
        self._log = (running.logs / "audit-test.log").open("ab")
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._child = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)

    def kill(self) -> None:
        assert self._child is not None
        self._child.kill()
        self._child.wait()

    def stop(self) -> int:
        assert self._child is not None
        self._child.send_signal(signal.SIGTERM)
        return self._child.wait(30)

    def close(self) -> None:
        """Leave nothing behind, however the test ended."""
        if self._child is not None and self._child.poll() is None:
            self.kill()
        self._log.close()


async def producer_identity(running: Running) -> Identity:
    """What the executor does at its start: log in, and have a certificate issued."""
    secrets = running.data_dir / "secrets" / "executor"
    role, secret = ((secrets / name).read_text().strip() for name in ("role-id", "secret-id"))
    vault = await Vault.login_approle(running.openbao.address, role, secret, ca_file=running.openbao.ca_file)
    names = Environment("prod")
    uri = f"spiffe://{running.trust_domain}/prod/svc/executor"
    issued = await vault.issue_certificate(names.pki, "svc-executor", server_name("executor", "prod"), uri, "1h")
    roots = await vault.ca_bundle(names.pki)
    vault.close()
    return Identity(issued.cert_pem.encode(), issued.key_pem.encode(), roots.encode(), issued.expire_time_ms)


async def append_until_taken(client: LedgerClient, stream: str, count: int) -> list[Appended]:
    """Append one after the other as an outbox does: the same entry again until it is acknowledged."""
    taken = []
    for seq in range(1, count + 1):
        request = changed(stream=stream, seq=seq)
        while True:
            try:
                taken.append(await client.append_one(request))
                break
            except LedgerUnavailable:
                await asyncio.sleep(0.05)
    return taken


@requirement("ledger:acknowledged-kept")
@pytest.mark.timeout(180)
async def test_no_acknowledged_entry_is_lost_or_repeated_over_sigkills() -> None:
    async with stack() as running, AsyncExitStack() as ending:
        process = Process(running)
        ending.callback(process.close)
        process.start()
        identity = await producer_identity(running)
        channels = [
            open_channel(running.addresses["audit"], identity, server_name("audit", "prod")) for _ in range(CLIENTS)
        ]
        clients = [LedgerClient(channel, timeout_seconds=5) for channel in channels]
        first = await append_until_taken(clients[0], "plan:first", 1)  # the process is up
        work = [asyncio.create_task(append_until_taken(c, f"plan:{n}", 150)) for n, c in enumerate(clients)]
        for round_ in range(KILLS):
            await asyncio.sleep(0.3 + 0.11 * round_)
            process.kill()
            process.start()
        acknowledged = first + [receipt for group in await asyncio.gather(*work) for receipt in group]
        sealed = await clients[0].append_one(received())
        acknowledged.append(sealed)
        await check_checkpoint(running, channels[0], len(acknowledged) + 1)
        for client, channel in zip(clients, channels, strict=True):
            await client.close()
            await channel.close(None)
        assert process.stop() == 0
        logged = await all_entries(running)
    assert len(acknowledged) == CLIENTS * 150 + 2
    assert sorted(receipt.index for receipt in acknowledged) == list(range(1, len(acknowledged) + 1))
    assert all(logged[receipt.index] == receipt.entry for receipt in acknowledged)
    streams: dict[str, list[int]] = {}
    for data in logged:
        parsed = entries.parse(data)
        if parsed.stream:
            streams.setdefault(parsed.stream, []).append(parsed.seq)
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in streams.values())
    assert not any(b"ana@" in data for data in logged)


async def check_checkpoint(running: Running, channel: object, size: int) -> None:
    """The checkpoint that Vault signed covers everything within moments and fits the stored bytes."""
    stub = reader_pb2_grpc.LedgerReaderServiceStub(channel)  # type: ignore[call-overload]
    async with asyncio.timeout(20):
        while True:
            try:
                found = await stub.GetCheckpoint(reader_pb2.GetCheckpointRequest(tenant="acme"), timeout=5)
            except grpc.aio.AioRpcError as error:
                # The process was killed again and again before it could sign its first one.
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
            else:
                if found.size >= size:
                    break
            await asyncio.sleep(0.05)
    checkpoint = open_checkpoint(found.checkpoint, [VerifierKey.parse(found.vkey)])
    assert checkpoint.root == root_of(leaf_hash(data) for data in await all_entries(running))


async def all_entries(running: Running) -> list[bytes]:
    connection = await asyncpg.connect(running.control.dsn("counterseal_audit"))
    try:
        return [row[0] for row in await connection.fetch("SELECT entry FROM ledger_entry ORDER BY idx")]
    finally:
        await connection.close()


def test_the_process_refuses_a_database_that_may_lose_commits(tmp_path: Path) -> None:
    async def run() -> tuple[int, str]:
        async with stack() as running:
            config = running.configs["audit"]
            text = config.read_text().replace("allow_unsafe_database = true", "allow_unsafe_database = false")
            assert "allow_unsafe_database = false" in text
            config.write_text(text)
            command = [sys.executable, "-m", "counterseal_audit", "--config", str(config)]
            ended = await asyncio.create_subprocess_exec(
                *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(os.environ)
            )
            out, _ = await asyncio.wait_for(ended.communicate(), 60)
            assert ended.returncode is not None
            return ended.returncode, out.decode()

    code, out = asyncio.run(run())
    assert code == 2
    assert "fsync is off" in out


def test_the_example_configuration_is_accepted(tmp_path: Path) -> None:
    example = Path(__file__).resolve().parents[3] / "services/audit/config.example.toml"
    assert main(["--config", str(example), "--check-config"]) == 0
    broken = tmp_path / "audit.toml"
    broken.write_text(example.read_text().replace("lease_seconds = 5", "lease_seconds = 0\nlease = 1"))
    assert main(["--config", str(broken), "--check-config"]) == 2
