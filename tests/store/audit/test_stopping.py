"""A replica that is told to stop does so in bounded time, also when neither of its stores answers any more."""

import asyncio
import threading
import time
from contextlib import AsyncExitStack

import asyncpg
import pytest

from counterseal.rpc.ledger_client import LedgerClient
from support.audit_process import Process, append_until_taken, channel_to, producer_identity, stack
from support.pg_proxy import Line, proxy
from support.requirements import requirement
from support.vault_tap import VaultTap

TENANTS = [f"tenant-{n}" for n in range(12)]  # more logs than connections: each of the pool is open


@requirement("service:stops")
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_replica_signs_what_it_took_and_gives_up_its_leases_before_it_ends() -> None:
    async with stack() as running, AsyncExitStack() as ending:
        process = Process(running, {"COUNTERSEAL_AUDIT__CHECKPOINT_INTERVAL_MS": "60000"})
        ending.callback(process.close)
        process.start()
        channel = await ending.enter_async_context(channel_to(process.address, await producer_identity(running)))
        client = LedgerClient(channel, timeout_seconds=5)
        await append_until_taken(client, "plan:1", 1)
        await asyncio.sleep(1)  # the first round has signed and taken the lease; the next is a minute away
        await append_until_taken(client, "plan:2", 20)
        await client.close()
        assert await asyncio.to_thread(process.stop) == 0
        database = await asyncpg.connect(running.control.dsn("counterseal_audit"))
        size = await database.fetchval("SELECT size FROM ledger_head")
        assert size == 22
        assert await database.fetchval("SELECT max(size) FROM ledger_checkpoint") == size
        assert not await database.fetchval("SELECT count(*) FROM ledger_bucket WHERE lease_until > now()")
        await database.close()


@requirement("service:stops")
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_with_database_and_vault_silent_a_replica_ends_within_its_bounds() -> None:
    """Nothing is refused and no connection breaks: messages just do not arrive, as behind a firewall that forgot us."""
    silent, thaw = threading.Event(), threading.Event()
    forever = asyncio.Event()

    def vault(_side: str, _method: str, _path: str) -> None:
        if silent.is_set():
            thaw.wait(200)

    async def hold(_side: str, _number: int) -> None:
        if silent.is_set():
            await forever.wait()

    async with stack(TENANTS) as running, AsyncExitStack() as ending:
        tap = VaultTap(running.data_dir / "openbao", vault)
        tap.start()
        ending.callback(tap.stop)
        ending.callback(thaw.set)
        port = await ending.enter_async_context(proxy(running.control.host, running.control.port, Line(hold=hold)))
        settings = {"COUNTERSEAL_VAULT__ADDRESS": tap.address, "COUNTERSEAL_DATABASE__PORT": str(port)}
        process = Process(running, settings)
        ending.callback(process.close)
        process.start()
        channel = await ending.enter_async_context(channel_to(process.address, await producer_identity(running)))
        client = LedgerClient(channel, timeout_seconds=30)
        ending.push_async_callback(client.close)
        await asyncio.gather(*(append_until_taken(client, "plan:before", 1, tenant) for tenant in TENANTS))
        silent.set()
        waiting = asyncio.create_task(append_until_taken(client, "plan:never", 1, TENANTS[0]))
        await asyncio.sleep(2)
        began = time.monotonic()
        assert await asyncio.to_thread(process.stop) == 0
        # 10 s for open calls, 10 s for what is behind them, 12 s for a call of Vault that a thread is inside of.
        assert time.monotonic() - began < 45
        waiting.cancel()
