"""The outbox on real PostgreSQL, against a ledger that can be down, forget to answer, or refuse."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from counterseal.errors import InputInvalid, LedgerUnavailable
from counterseal.ids import new_id
from counterseal.ledger import entry as entries
from counterseal.rpc.ledger_client import LedgerClient
from counterseal.rpc.outbox import MAX_BATCH, Outbox, outbox_ddl
from support.entries import changed, received
from support.ledger import TinyLedger, serve
from support.postgres import FreshDatabase


@asynccontextmanager
async def outbox(fresh_database: FreshDatabase, ledger: TinyLedger) -> AsyncIterator[tuple[Outbox, AsyncEngine]]:
    engine = create_async_engine(fresh_database(None).sqlalchemy_url)
    try:
        async with engine.begin() as connection:
            for statement in outbox_ddl("CURRENT_USER"):
                await connection.execute(sa.text(statement))
        async with serve(ledger) as channel:
            client = LedgerClient(channel)
            yield Outbox(engine, client), engine
            await client.close()
    finally:
        await engine.dispose()


async def age(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(sa.text("UPDATE outbox SET create_time = create_time - interval '1 minute'"))


def seqs(ledger: TinyLedger, stream: str) -> list[int]:
    parsed = [entries.parse(data) for data in ledger.log]
    return [entry.seq for entry in parsed if entry.stream == stream]


async def test_an_entry_of_a_rolled_back_transaction_never_reaches_the_ledger(fresh_database: FreshDatabase) -> None:
    ledger = TinyLedger()
    async with outbox(fresh_database, ledger) as (box, engine):
        async with engine.connect() as connection, connection.begin() as transaction:
            await box.put(connection, changed())
            await transaction.rollback()
        assert await box.relay_once() == 0
    assert ledger.log == []


async def test_delivery_acknowledges_the_whole_prefix_of_the_stream_in_order(fresh_database: FreshDatabase) -> None:
    ledger = TinyLedger()
    async with outbox(fresh_database, ledger) as (box, engine):
        wanted = new_id()
        async with engine.begin() as connection:
            await box.put(connection, *(changed(seq=seq) for seq in (2, 1)), changed(seq=3, event_id=wanted))
            await box.put(connection, changed(seq=4), changed(stream="plan:other"))
        acknowledged = await box.deliver(wanted)
        assert seqs(ledger, "plan:p1") == [1, 2, 3]
        assert acknowledged.index == 2
        assert (await box.deliver(wanted)) == acknowledged, "a second delivery answers from the outbox"
        assert seqs(ledger, "plan:other") == []


async def test_a_stream_longer_than_a_batch_is_delivered_whole(fresh_database: FreshDatabase) -> None:
    ledger = TinyLedger()
    async with outbox(fresh_database, ledger) as (box, engine):
        wanted = new_id()
        async with engine.begin() as connection:
            await box.put(connection, *(changed(seq=seq) for seq in range(1, 601)), changed(seq=601, event_id=wanted))
        assert (await box.deliver(wanted)).index == 600
        assert seqs(ledger, "plan:p1") == list(range(1, 602))


async def test_what_is_hinted_at_is_relayed_without_waiting_for_the_next_look(
    fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterseal.rpc.outbox.IDLE_SECONDS", 600.0)
    ledger, stopping = TinyLedger(), asyncio.Event()
    async with outbox(fresh_database, ledger) as (box, engine):
        task = asyncio.create_task(box.relay(stopping))
        await asyncio.sleep(0.2)
        async with engine.begin() as connection:
            await box.put(connection, changed())
        box.wake()
        async with asyncio.timeout(30):
            while not ledger.log:
                await asyncio.sleep(0.02)
        stopping.set()
        await task


async def test_an_outage_is_said_and_the_relay_delivers_later(fresh_database: FreshDatabase) -> None:
    ledger = TinyLedger()
    async with outbox(fresh_database, ledger) as (box, engine):
        request = changed()
        async with engine.begin() as connection:
            await box.put(connection, request)
        ledger.down = True
        with pytest.raises(LedgerUnavailable):
            await box.deliver(request.event_id)
        ledger.down = False
        await age(engine)
        stopping = asyncio.Event()
        task = asyncio.create_task(box.relay(stopping))
        async with asyncio.timeout(5):
            while not ledger.log:
                await asyncio.sleep(0.01)
        stopping.set()
        await asyncio.wait_for(task, 5)
        assert (await box.deliver(request.event_id)).index == 0


async def test_what_is_at_hand_is_sent_without_reading_it_back_and_acknowledged_behind(
    fresh_database: FreshDatabase,
) -> None:
    ledger = TinyLedger()
    async with outbox(fresh_database, ledger) as (box, engine):
        one, two = received(), received()
        async with engine.begin() as connection:
            await box.put(connection, one, two)
        await box.send(one, two)
        assert len(ledger.log) == 2
        await box.settled()
        await age(engine)
        assert await box.relay_once() == 0
        assert (await box.deliver(two.event_id)).index == 1


async def test_what_was_sent_and_not_acknowledged_yet_is_one_entry(fresh_database: FreshDatabase) -> None:
    ledger = TinyLedger()
    async with outbox(fresh_database, ledger) as (box, engine):
        one = received()
        async with engine.begin() as connection:
            await box.put(connection, one)
        ledger.lose_answers = 1
        with pytest.raises(LedgerUnavailable):
            await box.send(one)
        await age(engine)
        assert await box.relay_once() == 1
        await box.send(one)
        await box.settled()
    assert len(ledger.log) == 1


async def test_an_entry_of_a_stream_is_never_sent_out_of_turn(fresh_database: FreshDatabase) -> None:
    async with outbox(fresh_database, TinyLedger()) as (box, _):
        with pytest.raises(ValueError, match="deliver"):
            await box.send(changed())


async def test_a_lost_answer_leads_to_one_entry(fresh_database: FreshDatabase) -> None:
    ledger = TinyLedger()
    async with outbox(fresh_database, ledger) as (box, engine):
        request = changed()
        async with engine.begin() as connection:
            await box.put(connection, request)
        ledger.lose_answers = 1
        with pytest.raises(LedgerUnavailable):
            await box.deliver(request.event_id)
        assert (await box.deliver(request.event_id)).index == 0
    assert len(ledger.log) == 1


async def test_an_earlier_row_that_commits_later_is_not_lost(fresh_database: FreshDatabase) -> None:
    ledger = TinyLedger()
    async with outbox(fresh_database, ledger) as (box, engine):
        early, late = received(), received()
        async with engine.connect() as slow:
            await slow.begin()
            await box.put(slow, early)
            async with engine.begin() as fast:
                await box.put(fast, late)
            await age(engine)
            assert await box.relay_once() == 1
            await slow.commit()
        await age(engine)
        assert await box.relay_once() == 1
    assert {entries.parse(data).event_id for data in ledger.log} == {early.event_id, late.event_id}


async def test_two_senders_of_one_stream_never_put_it_out_of_order(fresh_database: FreshDatabase) -> None:
    ledger = TinyLedger()
    async with outbox(fresh_database, ledger) as (box, engine):
        ids = [new_id() for _ in range(30)]
        async with engine.begin() as connection:
            await box.put(connection, *(changed(seq=seq, event_id=i) for seq, i in enumerate(ids, 1)))
        await age(engine)
        await asyncio.gather(*(box.deliver(i) for i in reversed(ids[::7])), box.relay_once(), box.relay_once())
        await box.relay_once()
    assert seqs(ledger, "plan:p1") == list(range(1, 31))


async def test_a_refused_entry_stops_its_stream_and_no_other(fresh_database: FreshDatabase) -> None:
    ledger = TinyLedger()
    async with outbox(fresh_database, ledger) as (box, engine):
        first, second, other = changed(seq=1), changed(seq=2), changed(stream="plan:other")
        ledger.refuse[first.event_id] = "IDEMPOTENCY_KEY_REUSED"
        async with engine.begin() as connection:
            await box.put(connection, first)
        await age(engine)
        await box.relay_once()
        async with engine.begin() as connection:
            await box.put(connection, second, other)
        await age(engine)
        await box.relay_once()
        assert seqs(ledger, "plan:p1") == []
        assert seqs(ledger, "plan:other") == [1]
        with pytest.raises(LedgerUnavailable):
            await box.deliver(second.event_id)


async def test_entries_that_are_refused_for_now_do_not_starve_the_others(fresh_database: FreshDatabase) -> None:
    """A forked log of one tenant has more entries waiting than a batch holds, and they sort first."""
    ledger = TinyLedger()
    async with outbox(fresh_database, ledger) as (box, engine):
        stuck = [changed(stream=f"plan:a{n}") for n in range(MAX_BATCH + 5)]
        ledger.refuse = {request.event_id: "LOG_FORKED" for request in stuck}
        good = changed(stream="plan:z")
        async with engine.begin() as connection:
            await box.put(connection, *stuck, good)
        await age(engine)
        for _ in range(3):
            await box.relay_once()
        assert seqs(ledger, "plan:z") == [1]
        assert await box.relay_once() == 0, "what was refused waits"
        ledger.refuse = {}
        box._later.clear()
        await box.relay_once()
        await box.relay_once()
        assert len(ledger.log) == MAX_BATCH + 6


async def test_what_the_ledger_would_refuse_is_refused_before_it_is_stored(fresh_database: FreshDatabase) -> None:
    async with outbox(fresh_database, TinyLedger()) as (box, engine):
        request = changed()
        request.event.plan_changed.cause = "a sentence about ana@example.com"
        async with engine.begin() as connection:
            with pytest.raises(InputInvalid, match="cause"):
                await box.put(connection, request)


async def test_entries_that_fill_a_request_each_are_relayed_in_parts_and_acknowledged_part_by_part(
    fresh_database: FreshDatabase,
) -> None:
    """Twelve entries of 2.7 MiB: together 32 MiB, where gRPC takes 4 at once."""
    ledger = TinyLedger()
    text = "x" * ((1 << 20) - 64)
    async with outbox(fresh_database, ledger) as (box, engine):
        async with engine.begin() as connection:
            for seq in range(1, 13):
                await box.put(
                    connection, received(stream="plan:p1", seq=seq, sealed={"user_request": text, "intent": text})
                )
        await age(engine)
        parts = []
        while (found := await box.relay_once()) > 0:
            parts.append(found)
            async with engine.connect() as connection:
                acknowledged = await connection.scalar(sa.text("SELECT count(*) FROM outbox WHERE log_index >= 0"))
            assert acknowledged == sum(parts)
        assert seqs(ledger, "plan:p1") == list(range(1, 13))
        assert len(parts) > 2, "bounded by bytes, not by rows alone"
        assert max(parts) * 2.6 <= 12
