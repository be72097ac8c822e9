"""Proofs out of what is remembered: what was seen lately is not asked for again, what no longer is so is not shown."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from counterseal.errors import InputInvalid, LedgerUnavailable, NotFound
from counterseal.ledger.tree import verify_consistency, verify_inclusion
from counterseal_audit.checkpoints.store import CheckpointStore
from counterseal_audit.logs.store import LogStore
from counterseal_audit.reader import prover
from counterseal_audit.reader.prover import FRESH_MS, Inclusion, Prover
from counterseal_audit.reader.store import ReaderStore
from counterseal_audit.reader.trees import Trees
from support.audit import LocalAnchors, Replica, append, replica
from support.entries import changed
from support.postgres import Backup, FreshDatabase, ServiceDatabase
from support.requirements import requirement
from support.shapes import ENVIRONMENT


class Line:
    """A way to one database or, after a while, another; counts the statements that go over it."""

    def __init__(self, database: ServiceDatabase) -> None:
        self.database = database
        self.cut = False
        self.statements = 0

    async def connect(self) -> asyncpg.Connection:
        if self.cut:
            raise ConnectionRefusedError
        connection = await asyncpg.connect(self.database.dsn, ssl=False)
        connection.add_query_logger(self._count)
        return connection

    def _count(self, query: Any) -> None:
        self.statements += "typeinfo" not in query.query  # the driver's own, once for each connection


class Reader:
    """A process that makes proofs; its clock moves when it is told to."""

    def __init__(self, engine: Any, line: Line) -> None:
        self.engine = engine
        self.line = line
        self.now = 0
        store, checkpoints = ReaderStore(engine), CheckpointStore(engine)
        self.prover = Prover(LogStore(engine), checkpoints, store, Trees(store), ENVIRONMENT, lambda: self.now)

    async def proven(self, index: int, size: int = 0, tenant: str = "acme") -> Inclusion:
        found = await self.prover.inclusion((tenant, None), index, size)
        verify_inclusion(index, found.size, found.leaf, list(found.path), found.root)
        if found.checkpoint is not None:
            assert (found.checkpoint.size, found.checkpoint.published.root) == (found.size, found.root)
        return found

    async def asks(self, index: int, size: int = 0) -> int:
        """How many statements a proof takes."""
        before = self.line.statements
        await self.proven(index, size)
        return self.line.statements - before


@asynccontextmanager
async def reader(database: ServiceDatabase) -> AsyncIterator[Reader]:
    line = Line(database)
    engine = create_async_engine(database.sqlalchemy_url, pool_size=5, max_overflow=0, async_creator=line.connect)
    try:
        yield Reader(engine, line)
    finally:
        await engine.dispose()


async def grow(parts: Replica, name: str, count: int) -> int:
    """Append, publish; return the size."""
    await append(parts, [changed(stream=f"plan:{name}-{n}") for n in range(count)])
    log = await parts.log()
    await parts.publisher._publish(log.bucket, [log])
    last = await parts.checkpoints.latest(log.log_id)
    assert last is not None
    return last.size


@requirement("ledger:bounded-work")
async def test_what_was_seen_lately_is_not_asked_for_again(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts, reader(database) as one:
        size = await grow(parts, "first", 300)
        assert await one.asks(3) > 0
        assert [await one.asks(index, tree) for index in (3, 4, 200) for tree in (0, size)] == [0] * 6
        assert await one.asks(299) == 3, "a tile that nobody asked for yet: begin, read, commit"
        grown = await grow(parts, "second", 30)
        assert (await one.proven(3)).size == size, "for a second the latest is the one that was seen"
        assert (await one.proven(size)).size == grown, "but not for what it does not cover"
        assert (await one.proven(3)).size == grown
        assert await one.asks(3, size) > 0
        assert await one.asks(3, size) == 0
        await grow(parts, "third", 1)
        one.now += FRESH_MS
        assert (await one.proven(3)).size == grown + 1


async def test_few_trees_of_a_log_are_remembered(
    fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prover, "_MOST_TREES", 3)
    database = fresh_database("audit")
    async with replica(database) as parts, reader(database) as one:
        sizes = [await grow(parts, f"{n}", 2) for n in range(8)]
        for size in sizes:
            await one.proven(0, size)
            (known,) = one.prover._known.values()
            assert len(known.by_size) <= 4


@requirement("ledger:bounded-work")
async def test_once_a_second_one_of_many_looks_again(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts, reader(database) as one:
        size = await grow(parts, "first", 10)
        await one.proven(3)
        for _ in range(3):
            one.now += FRESH_MS
            looking = asyncio.create_task(one.proven(3))
            await asyncio.sleep(0)  # it has the turn, and waits for the database
            assert [await one.asks(4, tree) for tree in (0, size)] == [0, 0]
            await looking
        one.now += FRESH_MS - 1
        assert await one.asks(4) == 0
        one.now += 1
        assert await one.asks(4) > 0


@requirement("ledger:bounded-work")
async def test_nothing_is_remembered_past_two_seconds_while_the_database_is_away(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts, reader(database) as one:
        await grow(parts, "first", 10)
        await one.proven(3)
        one.line.cut = True
        await one.engine.dispose()
        assert await one.asks(3) == 0
        one.now += FRESH_MS
        with pytest.raises(LedgerUnavailable):
            await one.proven(3)
        assert await one.asks(3) == 0
        one.now += FRESH_MS
        for _ in range(3):
            with pytest.raises(LedgerUnavailable):
                await one.proven(3)
        one.line.cut = False
        await one.proven(3)


@requirement("ledger:proofs-of-what-is-stored")
@pytest.mark.parametrize("more", [700, 900], ids=["as large as what was lost", "larger"])
async def test_after_a_restore_that_was_adopted_proofs_are_of_what_is_stored_now(
    fresh_database: FreshDatabase, backup: Backup, more: int
) -> None:
    database = fresh_database("audit")
    anchors = LocalAnchors()
    async with replica(database, anchors=anchors) as parts:
        early = await grow(parts, "kept", 600)
    restored = backup(database, "audit")
    async with replica(database, anchors=anchors) as parts, reader(database) as one:
        lost = await grow(parts, "lost", 700)
        before = {index: (await one.proven(index)).leaf for index in range(0, lost, 50)}
        await one.prover.consistency(("acme", None), early, 0)
        async with replica(restored, anchors=LocalAnchors()) as other:
            log = (await other.logs.find("acme", ENVIRONMENT)) or pytest.fail("no log")
            head = await other.operations.adoptable(log)
            await other.operations.adopt(log, head.frontier.size, head.root)
            grown = await grow(other, "other", more)
            assert grown == lost + more - 700
            one.line.database = restored
            await one.engine.dispose()
            one.now += FRESH_MS
            found = await one.prover.consistency(("acme", None), early, 0)
            verify_consistency(early, grown, found.from_root, found.to_root, list(found.path))
            last = await other.checkpoints.latest(log.log_id)
            assert last is not None
            assert found.to_root == last.published.root
            for index in range(0, grown, 50):
                for size in (grown, early, early + 100):  # the last was never signed
                    if index < size:
                        leaf = (await one.proven(index, size)).leaf
                        stored = await other.reader.by_index(log.log_id, index)
                        assert stored is not None
                        assert leaf == stored.leaf_hash
                        assert (leaf == before.get(index)) is (index < early)


async def test_what_there_is_no_proof_of_is_said(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts, reader(database) as one:
        with pytest.raises(NotFound):
            await one.proven(0)
        size = await grow(parts, "first", 10)
        for _ in range(2):  # with nothing remembered, and then something
            for index, tree in ((size, 0), (3, 3), (0, size + 1), (0, -1)):
                with pytest.raises(InputInvalid):
                    await one.prover.inclusion(("acme", None), index, tree)
            for old, new in ((0, 0), (-1, 0), (size + 1, 0), (4, 3), (1, size + 1)):
                with pytest.raises(InputInvalid):
                    await one.prover.consistency(("acme", None), old, new)
            await one.proven(0)
        with pytest.raises(NotFound):
            await one.proven(0, tenant="globex")
