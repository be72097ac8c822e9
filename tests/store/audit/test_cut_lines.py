"""The line to PostgreSQL is cut at every message of an append: the entry is there once, at the index answered."""

import contextlib
from urllib.parse import urlsplit

import asyncpg
import pytest

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.errors import LedgerUnavailable
from counterseal_audit.append.writer import Receipt
from support.audit import append_one, replica, stored
from support.entries import changed
from support.pg_proxy import Line, proxy
from support.postgres import FreshDatabase, ServiceDatabase
from support.requirements import requirement


async def append_over(database: ServiceDatabase, line: Line, request: ledger_pb2.NewEntry) -> Receipt:
    """Append by a fresh replica whose first connection goes through the proxy and whose later ones do not.

    An error is answered as an outbox answers it: the same entry again.
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
            with contextlib.suppress(LedgerUnavailable):
                return await append_one(parts, request)
            return await append_one(parts, request)


@requirement("ledger:acknowledged-kept")
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
