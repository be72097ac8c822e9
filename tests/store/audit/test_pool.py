"""What is borrowed from the pool is usable, and whoever cannot have it learns so in time."""

import asyncio
import contextlib

import pytest

from counterseal.errors import LedgerUnavailable
from counterseal_audit import database
from counterseal_audit.database import connection, reading
from support.audit import append_one, replica
from support.entries import changed
from support.postgres import FreshDatabase

ROUNDS = 60


async def test_a_cancelled_reading_leaves_no_transaction_on_the_connection(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:

        async def read() -> None:
            async with reading(parts.engine, 1) as raw:
                await raw.fetchval("SELECT 1")

        for steps in range(ROUNDS):  # cancelled at every place where the reading waits, its end included
            task = asyncio.create_task(read())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            async with connection(parts.engine) as raw:
                assert not raw.is_in_transaction(), f"after {steps} steps"
                await raw.execute("CREATE TEMPORARY TABLE IF NOT EXISTS writable (n int)")


async def test_a_connection_that_the_server_ended_in_the_pool_is_replaced_before_anybody_has_it(
    fresh_database: FreshDatabase,
) -> None:
    async with replica(fresh_database("audit")) as parts:
        await append_one(parts, changed())
        async with contextlib.AsyncExitStack() as all_of_them:
            raws = [await all_of_them.enter_async_context(connection(parts.engine)) for _ in range(3)]
        for raw in raws:  # as after a restart of PostgreSQL, when the driver has noticed
            raw.terminate()
        for _ in range(4):
            async with connection(parts.engine) as raw:
                assert await raw.fetchval("SELECT 1") == 1
        assert (await append_one(parts, changed(stream="plan:later"))).index == 2


async def test_who_waits_too_long_for_a_connection_is_told_that_the_database_is_away(
    fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "TURN_SECONDS", 0.2)
    async with replica(fresh_database("audit")) as parts:
        await append_one(parts, changed())
        log = await parts.log()
        size = parts.engine.pool.size()  # type: ignore[attr-defined]
        async with contextlib.AsyncExitStack() as all_of_them:
            for _ in range(size):
                await all_of_them.enter_async_context(connection(parts.engine))
            with pytest.raises(TimeoutError):
                async with connection(parts.engine):
                    pass
            with pytest.raises(LedgerUnavailable):
                async with reading(parts.engine, log.log_id):
                    pass
            with pytest.raises(LedgerUnavailable):
                await append_one(parts, changed(stream="plan:later"))
        for _ in range(size + 1):  # and none of those who gave up keeps a turn
            async with connection(parts.engine) as raw:
                assert await raw.fetchval("SELECT 1") == 1
        assert (await append_one(parts, changed(stream="plan:later"))).index == 2
