"""Real processes on one log at once: six begin it, and one of two sleeps where it hurts most."""

import asyncio
import contextlib
import re
import signal
import threading
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.embedded.layout import Running
from counterseal.embedded.ports import free_port
from counterseal.errors import CheckpointStale, LedgerUnavailable
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.tree import leaf_hash, root_of
from counterseal.rpc.ledger_client import LedgerClient
from counterseal_audit.checkpoints.store import CheckpointStore
from counterseal_audit.logs.store import LogStore
from support.audit import exported_verifies
from support.audit_process import (
    Process,
    all_entries,
    append_until_taken,
    channel_to,
    producer_identity,
    stack,
)
from support.entries import changed
from support.requirements import requirement
from support.vault_tap import VaultTap

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CHECKPOINTED = ledger_pb2.APPEND_MODE_CHECKPOINTED


async def verified(running: Running, folder: Path) -> list[int]:
    """Wait until everything is signed; check every checkpoint ever stored and `verify log`. Returns their sizes."""
    dsn = running.control.dsn("counterseal_audit").replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(dsn)
    try:
        logged = await all_entries(running)
        log, store = await LogStore(engine).find("acme", "prod"), CheckpointStore(engine)
        assert log is not None
        async with asyncio.timeout(60):
            while (last := await store.latest(log.log_id)) is None or last.size < len(logged):
                await asyncio.sleep(0.1)
        sizes = await store.sizes_after(log.log_id, 0, last.size)
        leaves = [leaf_hash(data) for data in logged]
        for size in sizes:
            stored = (await store.trees(log.log_id, [size])).by_size.get(size)
            assert stored is not None
            assert open_checkpoint(stored.published.note, [log.key]).root == root_of(leaves[:size])
        assert await exported_verifies(engine, log, folder)
        return sizes
    finally:
        await engine.dispose()


@requirement("ledger:acknowledged-kept")
async def test_six_processes_begin_one_log_at_once_and_append_eight_entries_each(tmp_path: Path) -> None:
    async with stack() as running, AsyncExitStack() as ending:
        identity = await producer_identity(running)
        work = []
        for number in range(6):
            process = Process(running, {"COUNTERSEAL_SERVER__LISTEN": f"127.0.0.1:{free_port()}"})
            ending.callback(process.close)
            process.start()
            channel = await ending.enter_async_context(channel_to(process.address, identity))
            client = LedgerClient(channel, timeout_seconds=10)
            ending.push_async_callback(client.close)
            work.append(append_until_taken(client, f"plan:{number}", 8))
        taken = [receipt for group in await asyncio.gather(*work) for receipt in group]
        logged = await all_entries(running)
        assert len(logged) == 1 + 48
        assert sorted(receipt.index for receipt in taken) == list(range(1, 49))
        assert all(logged[receipt.index] == receipt.entry for receipt in taken)
        await verified(running, tmp_path)


class Bed:
    """Puts a process to sleep (SIGSTOP) at its next call of Vault like `path`, and holds that call back."""

    def __init__(self) -> None:
        self.path: str | None = None
        self.process: Process | None = None
        self.asleep, self.go_on = threading.Event(), threading.Event()

    def gate(self, side: str, method: str, path: str) -> None:
        wanted = self.path
        if wanted and side == "before" and method in ("POST", "PUT") and re.search(wanted, path):
            self.path = None
            assert self.process is not None
            self.process.signal(signal.SIGSTOP)
            self.asleep.set()
            self.go_on.wait(60)

    def tuck_in(self, process: Process, path: str) -> None:
        self.asleep.clear()
        self.go_on.clear()
        self.process, self.path = process, path

    def wake(self) -> None:
        assert self.process is not None
        self.process.signal(signal.SIGCONT)
        self.go_on.set()


async def until_signed(client: LedgerClient, stream: str) -> int:
    """Append until it is covered by a checkpoint; return its index."""
    request = changed(stream=stream)
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(CheckpointStale, LedgerUnavailable):
                return (await client.append_one(request, CHECKPOINTED)).index


async def until_asleep(bed: Bed, client: LedgerClient, stream: str) -> None:
    """Ask a process for checkpoints until it sleeps: who is asked needs no lease, but another may be faster."""
    number = 0
    while not bed.asleep.is_set():
        number += 1
        await until_signed(client, f"{stream}-{number}")


@requirement("ledger:zombie-publisher")
async def test_a_publisher_stopped_between_its_check_and_its_signature_signs_nothing_but_a_prefix(
    tmp_path: Path,
) -> None:
    bed = Bed()
    async with stack() as running, AsyncExitStack() as ending:
        tap = VaultTap(running.data_dir / "openbao", bed.gate)
        tap.start()
        ending.callback(tap.stop)
        ending.callback(bed.go_on.set)
        sleeper = Process(running, {"COUNTERSEAL_VAULT__ADDRESS": tap.address})
        other = Process(running, {"COUNTERSEAL_SERVER__LISTEN": f"127.0.0.1:{free_port()}"})
        identity = await producer_identity(running)
        clients = []
        for process in (sleeper, other):
            ending.callback(process.close)
            process.start()
            channel = await ending.enter_async_context(channel_to(process.address, identity))
            clients.append(LedgerClient(channel, timeout_seconds=20))
            ending.push_async_callback(clients[-1].close)
        await append_until_taken(clients[0], "plan:first", 1)
        await append_until_taken(clients[1], "plan:second", 1)
        signed = 0
        for where in (r"/data/ledger/\d+$", r"/transit/prod/sign/log-prod$"):
            bed.tuck_in(sleeper, where)
            first = asyncio.create_task(until_asleep(bed, clients[0], f"plan:{len(where)}-first"))
            assert await asyncio.to_thread(bed.asleep.wait, 60)
            for n in range(3):
                signed = await until_signed(clients[1], f"plan:{len(where)}-{n}")
            bed.wake()
            await first  # it may have been asked just before it fell asleep
            assert await until_signed(clients[0], f"plan:{len(where)}-back") > signed
        sizes = await verified(running, tmp_path)
        assert len(sizes) >= 6
        assert not sleeper.is_dead
