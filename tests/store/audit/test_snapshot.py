"""A snapshot: what one call reads is of one moment and over one connection, and sees one log's rows at a time."""

import asyncio

import asyncpg
import pytest

from counterseal_audit.database import connection, snapshot
from support.audit import append_one, replica
from support.entries import changed
from support.postgres import FreshDatabase
from support.requirements import requirement

VISIBLE = "SELECT count(*) FROM ledger_entry"


@requirement("ledger:reads-of-one-moment")
async def test_what_is_appended_and_signed_meanwhile_is_not_seen(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as one, replica(database) as two:
        await append_one(two, changed(stream="plan:0"))
        log = await two.log()
        async with snapshot(one.engine):
            assert await one.logs.find("acme", log.environment) == log
            assert await one.reader.size(log.log_id) == 2
            await append_one(two, changed(stream="plan:1"))
            await two.publisher._publish(log.bucket, [log])
            assert await one.reader.size(log.log_id) == 2
            assert len(await one.reader.page(log.log_id, 0, 10)) == 2
            assert await one.checkpoints.latest(log.log_id) is None
            assert (await one.checkpoints.trees(log.log_id, [3])).log_size == 2
        assert await one.reader.size(log.log_id) == 3
        assert await one.checkpoints.latest(log.log_id) is not None


@requirement("tenant:isolated")
async def test_it_sees_one_log_at_a_time_and_nothing_behind_its_end(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        await append_one(parts, changed(stream="plan:0"))
        await append_one(parts, changed(stream="plan:0", tenant="globex"))
        acme, globex = await parts.log(), await parts.log("globex")
        async with snapshot(parts.engine), connection(parts.engine) as raw:
            assert await raw.fetchval(VISIBLE) == 0, "no log is named yet"
            for log in (acme, globex, acme):
                assert [row.index for row in await parts.reader.page(log.log_id, 0, 10)] == [0, 1]
                assert await raw.fetchval("SELECT max(log_id) FROM ledger_entry") == log.log_id
            await parts.logs.find("globex", globex.environment)
            assert await raw.fetchval("SELECT max(log_id) FROM ledger_entry") == globex.log_id
        async with connection(parts.engine) as raw:
            assert await raw.fetchval(VISIBLE) == 0, "the name of the log does not leak through the pool"
        await parts.logs.find("acme", acme.environment)
        async with connection(parts.engine) as raw:
            assert await raw.fetchval(VISIBLE) == 0, "nor out of a statement of its own"


@requirement("ledger:reads-of-one-moment")
async def test_it_writes_nothing_and_leaves_the_connection_as_it_was(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        await append_one(parts, changed(stream="plan:0"))
        log = await parts.log()

        async def write_inside() -> None:
            async with snapshot(parts.engine), connection(parts.engine) as raw:
                assert await parts.reader.size(log.log_id) == 2
                await append_one(parts, changed(stream="plan:1"))  # by a task of its own: this works
                assert await parts.reader.size(log.log_id) == 2, "and is not of this moment"
                await raw.execute("UPDATE ledger_head SET size = size")

        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await write_inside()
        for _ in range(10):
            async with connection(parts.engine) as raw:
                assert not raw.is_in_transaction()
        assert await parts.reader.size(log.log_id) == 3


@requirement("ledger:reads-of-one-moment")
async def test_a_task_that_is_begun_inside_asks_for_itself(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        await append_one(parts, changed(stream="plan:0"))
        log = await parts.log()
        async with snapshot(parts.engine), connection(parts.engine) as held:
            async with connection(parts.engine) as again:
                assert again is held

            async def other() -> object:
                async with connection(parts.engine) as raw:
                    return raw

            assert await asyncio.create_task(other()) is not held
            sizes = await asyncio.gather(*(parts.reader.size(log.log_id) for _ in range(8)))
            assert set(sizes) == {2}


async def test_a_cancelled_snapshot_gives_no_connection_in_a_transaction_back(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        await append_one(parts, changed(stream="plan:0"))
        log = await parts.log()
        for _ in range(8):
            inside = asyncio.Event()

            async def read(inside: asyncio.Event = inside) -> None:
                async with snapshot(parts.engine):
                    await parts.reader.size(log.log_id)
                    inside.set()
                    await asyncio.sleep(60)

            task = asyncio.create_task(read())
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await append_one(parts, changed(stream="plan:1"))
        assert await parts.reader.size(log.log_id) == 3
