"""Payload that goes by age, and legal holds against it, on real PostgreSQL."""

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from counterseal.clock import system_clock
from counterseal.errors import InputInvalid, NotFound, WrongState
from counterseal.ledger import entry as entries
from counterseal_audit.retention import payload_store
from counterseal_audit.retention.engine import Covers
from counterseal_audit.retention.sweeper import Sweeper
from support.audit import Replica, append, append_one, replica, stored
from support.entries import DIGEST, changed
from support.erasing import OLGA, checked, finish, order, person
from support.payloads import admin, asked, opened
from support.postgres import FreshDatabase
from support.requirements import requirement

DAY_MS = 86_400_000


def later(parts: Replica, days: int, **more: Any) -> Sweeper:
    """The sweeper as it will be in so many days."""
    return replace(parts.retention.sweeper, clock=lambda: system_clock() + days * DAY_MS, **more)


async def declare(parts: Replica) -> None:
    """Deliver what the sweeper left in the outbox, whose rows are young."""
    while await admin_open(parts):
        await parts.retention.outbox.relay_once()
        await asyncio.sleep(0.05)


async def admin_open(parts: Replica) -> bool:
    async with parts.engine.connect() as conn:
        return bool((await conn.exec_driver_sql("SELECT 1 FROM outbox WHERE ack_time IS NULL")).first())


@requirement("retention:declared")
async def test_payload_past_its_day_is_dropped_and_the_log_says_so(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        short = await append_one(parts, asked("user:ana", "short", retention="r30d"))
        long = await append_one(parts, asked("user:ana", "long", retention="r400d"))
        ever = await append_one(parts, asked("user:ana", "ever"))
        assert await later(parts, 30).sweep() == 0, "the last day counts"
        assert await later(parts, 31).sweep() == 2
        await declare(parts)
        assert await opened(parts, short.index) == {}
        assert (await opened(parts, long.index))["user_request"] == "long"
        assert (await opened(parts, ever.index))["user_request"] == "ever"
        assert await checked(parts) == (4, 2, [])
    dropped = [entries.parse(data) for data in await stored(database)][-1]
    assert (dropped.type, dropped.data["count"], dropped.data["policy"]) == ("retention.dropped", 2, "retention-class")


@requirement("retention:declared")
async def test_a_sweep_that_was_interrupted_is_declared_whole(
    fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append(parts, [asked(f"user:p{n}", "x", retention="r1d") for n in range(7)])
        real, calls = payload_store.delete_due, 0

        class Dies(Exception):
            pass

        async def dies(*args: object) -> int:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise Dies
            return await real(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(payload_store, "delete_due", dies)
        with pytest.raises(Dies):
            await later(parts, 2, batch_rows=4).sweep()
    assert (await admin(database, "SELECT count(*) AS n FROM ledger_payload"))[0]["n"] == 6
    async with replica(database) as parts:
        assert await later(parts, 3, batch_rows=4).sweep() == 6
        await declare(parts)
        assert (await checked(parts))[1:] == (14, [])
    last = entries.parse((await stored(database))[-1])
    assert last.data["count"] == 14


@requirement("hold:survives-retention")
@pytest.mark.parametrize("covers", ["person", "request_id", "plan_digest"])
async def test_a_hold_survives_retention_and_ends_with_its_lifting(fresh_database: FreshDatabase, covers: str) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        orders = parts.retention.servicer.orders
        mine = {"request_id": "r-held", "plan_digest": DIGEST}
        held = await append_one(parts, asked("user:ana", "held", retention="r30d", **mine))
        other = await append_one(parts, asked("user:bob", "not held", retention="r30d"))
        value = {"person": await person(parts), **mine}[covers]
        placed = await orders.place(OLGA, Covers(covers), value, "a court asked")
        assert placed.count == 2
        behind = await append_one(parts, asked("user:ana", "held too", retention="r30d", **mine))
        assert (await orders.place(OLGA, Covers(covers), value, "again")).hold_id == placed.hold_id
        assert await later(parts, 31).sweep() == 2
        assert await opened(parts, other.index) == {}
        assert (await opened(parts, held.index))["user_request"] == "held"
        assert (await opened(parts, behind.index))["user_request"] == "held too"
        with pytest.raises(WrongState, match="hold"):
            await order(parts)
        await orders.lift(OLGA, placed.hold_id, "settled")
        assert await later(parts, 31).sweep() == 4
        await declare(parts)
        assert await opened(parts, held.index) == await opened(parts, behind.index) == {}
        assert (await checked(parts))[2] == []
    types = [entries.parse(data).type for data in await stored(database)]
    assert (types.count("hold.placed"), types.count("hold.lifted")) == (1, 1)


@requirement("hold:survives-retention")
async def test_what_two_holds_cover_stays_until_both_are_lifted(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        orders = parts.retention.servicer.orders
        held = await append_one(parts, asked("user:ana", "held", retention="r30d", request_id="r-held"))
        one = await orders.place(OLGA, Covers.PERSON, await person(parts), "")
        two = await orders.place(OLGA, Covers.REQUEST_ID, "r-held", "")
        await orders.lift(OLGA, one.hold_id, "")
        assert await later(parts, 31).sweep() == 0
        assert await opened(parts, held.index) != {}
        await orders.lift(OLGA, two.hold_id, "")
        assert (await orders.lift(OLGA, two.hold_id, "")).lift_time_ms is not None
        assert await later(parts, 31).sweep() == 2


@requirement("hold:survives-retention")
async def test_a_hold_that_is_being_placed_wins_over_a_sweep_that_has_found_the_row(
    fresh_database: FreshDatabase,
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        held = await append_one(parts, asked("user:ana", "held", retention="r30d"))
        placing = await asyncpg.connect(database.admin_dsn)
        try:
            hold = placing.transaction()
            await hold.start()
            await placing.execute("UPDATE ledger_payload SET held = true WHERE idx = $1", held.index)
            sweep = asyncio.create_task(later(parts, 31).sweep())
            waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
            async with asyncio.timeout(60):
                while not await admin(database, waits):
                    await asyncio.sleep(0.02)
            await hold.commit()
        finally:
            await placing.close()
        assert await sweep == 0
        assert (await opened(parts, held.index))["user_request"] == "held"


async def test_a_hold_of_another_tenant_is_absent(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        orders = parts.retention.servicer.orders
        await append_one(parts, changed())
        await append_one(parts, changed(tenant="globex"))
        hold = await orders.place(OLGA, Covers.REQUEST_ID, "r-held", "")
        with pytest.raises(NotFound):
            await orders.lift(replace(OLGA, tenant="globex"), hold.hold_id, "")


async def test_an_erasure_goes_before_a_hold_that_is_placed_behind_it(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        first = await append_one(parts, asked("user:ana", "erased"))
        job = await order(parts)
        await parts.retention.servicer.orders.place(OLGA, Covers.PERSON, await person(parts), "too late")
        await finish(parts, job.job_id)
        assert await opened(parts, first.index) == {}
        assert (await checked(parts))[2] == []


async def test_a_retention_class_that_nobody_knows_is_refused(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        for text in ("forever", "r0d", "r-1d", "r1", "R30d", "r100000d"):
            with pytest.raises(InputInvalid, match="retention"):
                await append_one(parts, asked("user:ana", "x", retention=text))
