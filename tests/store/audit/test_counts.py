"""What an append costs, by counts that no load on the machine changes: statements, rows, tries, turns."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc
from counterseal.ledger.tree import verify_inclusion
from counterseal_audit.append.engine import Prepared, Step
from counterseal_audit.append.mac import Head
from counterseal_audit.append.store import AppendStore
from counterseal_audit.append.writer import FLUSH_ENTRIES, QUEUE_ENTRIES, LogWriter
from support.audit import Replica, append, append_one, audit_server, replica, stored
from support.entries import changed
from support.postgres import FreshDatabase, ServiceDatabase
from support.requirements import requirement


def counting(database: ServiceDatabase, counts: Counter[str]) -> Callable[[], Any]:
    """Connections that count what passes over them."""

    def count(query: Any) -> None:
        if "typeinfo" in query.query:
            return  # the driver's own, once for each connection and type
        counts["append" if "UPDATE ledger_head" in query.query else "other"] += 1

    async def connect() -> asyncpg.Connection:
        connection = await asyncpg.connect(database.dsn, ssl=False)
        connection.add_query_logger(count)
        return connection

    return connect


@requirement("ledger:bounded-work")
async def test_a_batch_is_one_statement_and_hardly_more_rows_than_entries(fresh_database: FreshDatabase) -> None:
    database, counts = fresh_database("audit"), Counter[str]()
    async with replica(database, connect=counting(database, counts)) as parts:
        await append_one(parts, changed(stream="plan:first"))
        batches, size = 60, 256
        for number in range(batches):
            await append(parts, [changed(stream=f"plan:{number}-{n}") for n in range(size)])
            if number == 0:  # the driver has asked what the types are that it sends
                before = Counter(counts)
        spent = counts - before
    assert spent == {"append": batches - 1}, "no statement beside the one that appends"
    admin = await asyncpg.connect(database.admin_dsn)
    rows = await admin.fetch("SELECT relname, n_tup_ins, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables")
    await admin.close()
    inserted = sum(row["n_tup_ins"] for row in rows if row["relname"].startswith(("ledger_entry", "ledger_node")))
    assert batches * size < inserted <= 1.01 * batches * size
    assert sum(row["n_tup_ins"] for row in rows if row["relname"] == "ledger_payload") == 0
    (head,) = (row for row in rows if row["relname"] == "ledger_head")
    assert head["n_tup_upd"] >= batches
    assert head["n_tup_hot_upd"] >= 0.95 * head["n_tup_upd"]
    await stored(database)


@requirement("ledger:bounded-work")
async def test_a_proof_is_five_statements_at_most_whatever_the_size_of_the_tree(fresh_database: FreshDatabase) -> None:
    database, counts = fresh_database("audit"), Counter[str]()
    connect = counting(database, counts)
    async with audit_server(database, publish=False, follow=False, connect=connect) as server:
        parts = server.parts
        await append(parts, [changed(stream=f"plan:{n}") for n in range(700)])
        await parts.ledger.settled()
        log = await parts.log()
        await parts.publisher._publish(log.bucket, [log])
        async with server.channel("svc/policy") as channel:
            stub: Any = reader_pb2_grpc.LedgerReaderServiceStub(channel)
            for index, tree_size in ((0, 1), (3, 300), (699, 701), (5, 0)):
                counts.clear()
                request = reader_pb2.GetInclusionProofRequest(tenant="acme", index=index, tree_size=tree_size)
                found = await stub.GetInclusionProof(request, timeout=10)
                verify_inclusion(index, found.tree_size, found.leaf_hash, list(found.path), found.root_hash)
                assert counts.total() <= 5, "begin, the log, its tree, the hashes if none of them is known, commit"


class Tries(AppendStore):
    """Counts the tries of the batch that is under way, and keeps the most that any needed."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.tries = self.most = self.lost = 0

    async def append(self, log_id: int, step: Step, batch: Sequence[Prepared], written: Callable[[], None]) -> bool:
        return self._count(await super().append(log_id, step, batch, written))

    async def append_locked(
        self, log_id: int, batch: Sequence[Prepared], make: Callable[[Head], Step], *, closing: bool = False
    ) -> Step | None:
        taken = await super().append_locked(log_id, batch, make, closing=closing)
        self._count(taken is not None)
        return taken

    def _count(self, taken: bool) -> bool:
        self.tries += 1
        self.most = max(self.most, self.tries)
        self.lost += not taken
        if taken:
            self.tries = 0
        return taken


@requirement("ledger:bounded-work")
async def test_six_writers_on_one_log_need_at_most_four_tries(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        log = await parts.log()
        mac = await parts.ledger.mac_of(log)
        async with replica(database) as more:
            stores = [Tries((parts, more)[n % 2].engine) for n in range(6)]
            writers = [LogWriter(log.log_id, store, mac) for store in stores]

            async def write(number: int) -> None:
                for n in range(40):
                    item = await parts.ledger._prepare(changed(stream=f"plan:{number}-{n}"), "executor")
                    await writers[number].submit([item])[0]

            await asyncio.gather(*(write(number) for number in range(6)))
            for writer in writers:
                await writer.settled()
    assert max(store.most for store in stores) <= 4
    assert sum(store.lost for store in stores) > 0, "they raced"
    assert len(await stored(database)) == 241


class Turns(AppendStore):
    """Keeps the order in which batches were taken."""

    def __init__(self, engine: Any, taken: list[int]) -> None:
        super().__init__(engine)
        self._taken = taken

    async def append(self, log_id: int, step: Step, batch: Sequence[Prepared], written: Callable[[], None]) -> bool:
        def noted() -> None:
            self._taken.append(log_id)
            written()

        return await super().append(log_id, step, batch, noted)


LOUD = 6


async def full(parts: Replica, number: int) -> list[Prepared]:
    item = await parts.ledger._prepare(changed(stream=f"plan:{number}"), "executor")
    return [
        Prepared(item.event_id[:-12] + f"{number:04x}{n:08x}", item.req_hash, item.leaf_hash, item.entry)
        for n in range(QUEUE_ENTRIES)
    ]


@requirement("ledger:bounded-work")
async def test_a_quiet_log_waits_for_no_loud_ones_queue(fresh_database: FreshDatabase) -> None:
    """More loud logs than connections: the quiet one's turn comes behind one batch of each at most."""
    database = fresh_database("audit")
    taken: list[int] = []
    async with replica(database) as parts:
        writers, logs = [], []
        for number in range(LOUD + 1):
            made = await parts.ledger.births.create(f"tenant-{number}")
            logs.append(made.log_id)
            writers.append(LogWriter(made.log_id, Turns(parts.engine, taken), await parts.ledger.mac_of(made)))
        loud = [writer.submit(await full(parts, number)) for number, writer in enumerate(writers[:LOUD])]
        item = await parts.ledger._prepare(changed(stream="plan:quiet"), "executor")
        await asyncio.sleep(0)
        await writers[LOUD].submit([item])[0]
        assert taken.index(logs[LOUD]) <= LOUD
        await asyncio.gather(*(future for futures in loud for future in futures))
        assert len(taken) == LOUD * QUEUE_ENTRIES // FLUSH_ENTRIES + 1, "nothing was dropped for it"
        for writer in writers:
            await writer.settled()
