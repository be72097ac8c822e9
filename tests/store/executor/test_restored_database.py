"""An executor's database put back to an older copy, under a real ledger (scenario 21 of the executor's design)."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from counterseal.errors import CredentialsUnavailable, StateBehindLedger
from counterseal.ledger import entry as entries
from support.audit import AuditServer, audit_server
from support.executor import SIM_TOOLS, Executor, World, world
from support.postgres import Backup, FreshDatabase, ServiceDatabase
from support.requirements import requirement


@contextlib.asynccontextmanager
async def executor_on(
    database: ServiceDatabase, tmp_path: Path, channel: grpc.aio.Channel
) -> AsyncIterator[tuple[World, Executor]]:
    """An executor process's life on a database; nobody is connected to that once the block is left."""
    async with world(database.sqlalchemy_url, tmp_path / "world.sqlite", channel) as surroundings:
        yield surroundings, await surroundings.start()
        await surroundings.delivered()


async def _size(server: AuditServer) -> int:
    return await server.parts.reader.size((await server.parts.log()).log_id)


async def _refused(executor: Executor) -> StateBehindLedger:
    with pytest.raises(StateBehindLedger) as refused:
        await executor.propose()
    async with asyncio.timeout(10):
        await executor.runtime.unfit.wait()
    return refused.value


@requirement("restore:behind-ledger-refused")
async def test_a_database_from_before_a_commit_serves_nothing_and_names_the_commit(
    fresh_database: FreshDatabase, backup: Backup, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = fresh_database("executor")
    async with audit_server(fresh_database("audit")) as server:
        async with server.channel("svc/executor") as channel, executor_on(database, tmp_path, channel) as (_, executor):
            await executor.register(*SIM_TOOLS)
            answer = await executor.propose()
        old, size = backup(database, "executor"), await _size(server)
        async with (
            server.channel("svc/executor") as channel,
            executor_on(database, tmp_path, channel) as (now, executor),
        ):
            await executor.commit(answer)
            await executor.until(answer.plan_id, "SUCCEEDED", seconds=60)
            assert len(now.sim.effects()) == 1
        grown = await _size(server)
        async with (
            server.channel("svc/executor") as channel,
            executor_on(old, tmp_path, channel) as (restored, executor),
        ):
            with caplog.at_level(logging.CRITICAL):
                error = await _refused(executor)
            named = await server.parts.reader.by_index((await server.parts.log()).log_id, size)
            assert named is not None
            entry = entries.parse(named.entry)
            assert (entry.type, error.metadata) == (
                "plan.committed",
                {"index": str(size), "event_id": entry.event_id},
            )
            assert f"lacks its own entry {size} (plan.committed) of the log of acme" in caplog.text
            with pytest.raises(StateBehindLedger):
                await executor.commit(answer)
            assert (await executor.get(answer.plan_id)).plan.state == "PROPOSED", "looking is allowed"
            assert len(restored.sim.effects()) == 1
        assert await _size(server) == grown, "nothing more came from the restored database"
        async with server.channel("svc/executor") as channel, executor_on(database, tmp_path, channel) as (_, executor):
            await executor.propose()


@requirement("restore:behind-ledger-refused")
async def test_a_database_from_after_a_commit_claims_nothing_though_the_plan_waits_to_be_run_again(
    fresh_database: FreshDatabase, backup: Backup, tmp_path: Path
) -> None:
    database = fresh_database("executor")
    async with audit_server(fresh_database("audit")) as server:
        async with (
            server.channel("svc/executor") as channel,
            executor_on(database, tmp_path, channel) as (now, executor),
        ):
            await executor.register(*SIM_TOOLS)
            now.broker.error, now.broker.error_on = CredentialsUnavailable(), "exchange"
            answer = await executor.propose()
            await executor.commit(answer)
            await executor.until(answer.plan_id, "HALTED", seconds=60)
            assert now.sim.effects() == []
        old = backup(database, "executor")
        async with (
            server.channel("svc/executor") as channel,
            executor_on(database, tmp_path, channel) as (now, executor),
        ):
            await executor.until(answer.plan_id, "SUCCEEDED", seconds=90)
            assert len(now.sim.effects()) == 1
        async with (
            server.channel("svc/executor") as channel,
            executor_on(old, tmp_path, channel) as (restored, executor),
        ):
            await _refused(executor)
            await asyncio.sleep(1.0)  # five rounds of the recovery loop; the plan was due long ago
            assert (await executor.get(answer.plan_id)).plan.state == "HALTED"
            assert len(restored.sim.effects()) == 1


@requirement("restore:behind-ledger-refused")
async def test_a_database_that_lost_nothing_serves_again(
    fresh_database: FreshDatabase, backup: Backup, tmp_path: Path
) -> None:
    database = fresh_database("executor")
    async with audit_server(fresh_database("audit")) as server:
        async with server.channel("svc/executor") as channel, executor_on(database, tmp_path, channel) as (_, executor):
            await executor.register(*SIM_TOOLS)
            answer = await executor.propose()
        copy = backup(database, "executor")
        async with server.channel("svc/executor") as channel, executor_on(copy, tmp_path, channel) as (_, executor):
            await executor.commit(answer)
            await executor.until(answer.plan_id, "SUCCEEDED", seconds=60)
