"""The line to PostgreSQL cuts, delays or repeats any message of an append: the entry is there once, where answered."""

import asyncio
import contextlib
from urllib.parse import urlsplit

import asyncpg
import pytest

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.errors import InternalError, LedgerUnavailable
from counterseal_audit.append.writer import Receipt
from support.audit import append_one, replica, stored
from support.entries import changed
from support.pg_proxy import Line, proxy
from support.postgres import FreshDatabase, ServiceDatabase
from support.requirements import requirement


async def append_over(database: ServiceDatabase, line: Line, request: ledger_pb2.NewEntry) -> Receipt:
    """Append by a fresh replica whose first connection goes through the proxy and whose later ones do not.

    An error is answered as an outbox answers it: the same entry again. A message that the driver could not have sent
    twice is an internal error once.
    """
    address = urlsplit(database.dsn)
    assert address.hostname is not None
    assert address.port is not None
    async with proxy(address.hostname, address.port, line) as port:
        proxied = database.dsn.replace(f":{address.port}/", f":{port}/")
        first = iter([proxied])

        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(next(first, database.dsn), timeout=5, ssl=False)

        async with replica(database, connect=connect) as parts:
            with contextlib.suppress(LedgerUnavailable, InternalError):
                return await append_one(parts, request)
            return await append_one(parts, request)


@requirement("ledger:acknowledged-kept")
@pytest.mark.parametrize("half", [False, True], ids=["before", "within"])
@pytest.mark.parametrize("side", ["client", "server"])
async def test_an_append_is_exact_wherever_the_line_is_cut(
    fresh_database: FreshDatabase, side: str, half: bool
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, changed(stream="plan:first"))
    whole = Line()
    receipts = [await append_over(database, whole, changed(stream="plan:whole"))]
    messages = {"client": whole.client, "server": whole.server}[side]
    # From the message that carries the statement to the last; of the answers, as many as belong to it.
    statement = next(i for i, m in enumerate(whole.client) if b"UPDATE ledger_head" in m)
    start = statement if side == "client" else len(whole.server) - 9
    cuts = 0
    for at in range(start, len(messages)):
        line = Line(cut_client=at, half=half) if side == "client" else Line(cut_server=at, half=half)
        receipts.append(await append_over(database, line, changed(stream=f"plan:{at}")))
        cuts += line.was_cut
    assert cuts >= max(3, len(messages) - start - 2), (
        "the clean end of the connection may come before the last messages"
    )
    logged = await stored(database)
    assert [receipt.index for receipt in receipts] == list(range(2, len(logged)))
    assert all(logged[receipt.index] == receipt.entry for receipt in receipts)


async def held_append(
    database: ServiceDatabase, line: Line, side: str, at: int, request: ledger_pb2.NewEntry
) -> tuple[Receipt, Receipt]:
    """Append by a replica whose line holds message `at` back; meanwhile the producer asks another replica."""
    address = urlsplit(database.dsn)
    assert address.hostname is not None
    assert address.port is not None
    reached, release = asyncio.Event(), asyncio.Event()

    async def hold(where: str, number: int) -> None:
        if (where, number) == (side, at):
            reached.set()
            await release.wait()

    line.hold = hold
    async with proxy(address.hostname, address.port, line) as port:
        first = iter([database.dsn.replace(f":{address.port}/", f":{port}/")])

        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(next(first, database.dsn), timeout=20, ssl=False)

        async with replica(database, connect=connect) as slow, replica(database) as other:
            late = asyncio.create_task(append_one(slow, request))
            await asyncio.wait([asyncio.create_task(reached.wait()), late], return_when=asyncio.FIRST_COMPLETED)
            retry = asyncio.create_task(append_one(other, request))
            # Between the statement and its commit the head is locked: the retry waits for the message, too.
            await asyncio.wait([retry], timeout=0.3)
            release.set()
            return await late, await retry


@requirement("ledger:one-entry-per-event")
@pytest.mark.parametrize("side", ["client", "server"])
async def test_an_answer_that_is_late_and_a_retry_elsewhere_are_one_entry(
    fresh_database: FreshDatabase, side: str
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, changed(stream="plan:first"))
    whole = Line()
    await append_over(database, whole, changed(stream="plan:whole"))
    messages = {"client": whole.client, "server": whole.server}[side]
    statement = next(i for i, m in enumerate(whole.client) if b"UPDATE ledger_head" in m)
    start = statement if side == "client" else len(whole.server) - 9
    held = 0
    for at in range(start, len(messages)):
        request = changed(stream=f"plan:{at}")
        late, retry = await held_append(database, Line(), side, at, request)
        assert (late.index, late.entry) == (retry.index, retry.entry), (side, at)
        assert [late.duplicate, retry.duplicate].count(False) == 1, (side, at)
        held += 1
    assert held >= 3
    logged = await stored(database)
    assert len(logged) == 3 + held


@requirement("ledger:one-entry-per-event")
@pytest.mark.slow
@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_message_that_arrives_twice_makes_no_second_entry(fresh_database: FreshDatabase, side: str) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, changed(stream="plan:first"))
    whole = Line()
    receipts = [await append_over(database, whole, changed(stream="plan:whole"))]
    messages = {"client": whole.client, "server": whole.server}[side]
    statement = next(i for i, m in enumerate(whole.client) if b"UPDATE ledger_head" in m)
    start = statement if side == "client" else len(whole.server) - 9
    for at in range(start, len(messages)):
        line = Line(twice_client=at) if side == "client" else Line(twice_server=at)
        receipts.append(await append_over(database, line, changed(stream=f"plan:{at}")))
    logged = await stored(database)
    assert [receipt.index for receipt in receipts] == list(range(2, len(logged)))
    assert all(logged[receipt.index] == receipt.entry for receipt in receipts)
