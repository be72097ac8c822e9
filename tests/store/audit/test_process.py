"""The real process on real PostgreSQL and OpenBao, killed again and again while producers append."""

import asyncio
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc
from counterseal.embedded.layout import Running
from counterseal.embedded.ports import free_port
from counterseal.ledger import entry as entries
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import leaf_hash, root_of
from counterseal.rpc.ledger_client import LedgerClient
from counterseal_audit.main import main
from support.audit_process import (
    Process,
    all_entries,
    append_until_taken,
    channel_to,
    producer_identity,
    stack,
)
from support.entries import received
from support.requirements import requirement

KILLS = 6
CLIENTS = 9
REPLICAS = 3


@pytest.mark.slow
@requirement("ledger:acknowledged-kept")
@pytest.mark.timeout(300)
async def test_no_acknowledged_entry_is_lost_or_repeated_over_sigkills_of_three_replicas() -> None:
    async with stack() as running, AsyncExitStack() as ending:
        listens = [f"127.0.0.1:{free_port()}" for _ in range(REPLICAS)]
        replicas = [Process(running, {"COUNTERSEAL_SERVER__LISTEN": listen}) for listen in listens]
        for process in replicas:
            ending.callback(process.close)
            process.start()
        identity = await producer_identity(running)
        channels = [channel_to(replicas[n % REPLICAS].address, identity) for n in range(CLIENTS)]
        clients = [LedgerClient(channel, timeout_seconds=5) for channel in channels]
        first = [r for n, c in enumerate(clients) for r in await append_until_taken(c, f"plan:first-{n}", 1)]
        work = [asyncio.create_task(append_until_taken(c, f"plan:{n}", 100)) for n, c in enumerate(clients)]
        for round_ in range(KILLS):
            await asyncio.sleep(0.3 + 0.11 * round_)
            replicas[round_ % REPLICAS].kill()
            replicas[round_ % REPLICAS].start()
        acknowledged = first + [receipt for group in await asyncio.gather(*work) for receipt in group]
        sealed = await clients[0].append_one(received())
        acknowledged.append(sealed)
        await check_checkpoint(running, channels[0], len(acknowledged) + 1)
        for client, channel in zip(clients, channels, strict=True):
            await client.close()
            await channel.close(None)
        assert [process.stop() for process in replicas] == [0] * REPLICAS
        logged = await all_entries(running)
    assert len(acknowledged) == CLIENTS * 101 + 1
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


@pytest.mark.slow
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
