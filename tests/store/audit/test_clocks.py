"""Two replicas whose clocks are five minutes apart serve one log: order, leases, keys and shards rest on no clock."""

import asyncio

import pytest

from counterseal.clock import system_clock
from counterseal.ledger import entry as entries
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.tree import root_of
from support.audit import Replica, append_one, replica, stored
from support.entries import changed
from support.postgres import FreshDatabase
from support.requirements import requirement
from support.rotations import PEOPLE, TwoVersions, signers

APART_MS = 5 * 60_000


def ahead() -> int:
    return system_clock() + APART_MS


@requirement("ledger:clocks-apart")
@pytest.mark.parametrize("early", [False, True], ids=["behind-begins", "ahead-begins"])
async def test_replicas_with_clocks_five_minutes_apart_are_one_ledger(
    fresh_database: FreshDatabase, early: bool
) -> None:
    database, signer = fresh_database("audit"), TwoVersions()
    clocks = (ahead, system_clock) if early else (system_clock, ahead)
    async with replica(database, signer, clock=clocks[0]) as one, replica(database, signer, clock=clocks[1]) as two:

        async def write(parts: Replica, number: int) -> None:
            for n in range(10):
                await append_one(parts, changed(stream=f"plan:{number}-{n}"))

        await asyncio.gather(*(write(parts, n) for n, parts in enumerate((one, two, one, two))))
        rows = await stored(database)
        assert len(rows) == 41
        # The log's order is that of the head row; what the replicas' clocks said about it may go back and forth.
        times = [entries.parse(data).document["srv"]["receive_time_ms"] for data in rows]
        assert max(times) - min(times) >= APART_MS - 60_000
        # The lease is the database's: whose clock is ahead does not find the other's lease expired.
        assert await one.publisher.publish_once() == 1
        await write(two, 4)
        assert await two.publisher.publish_once() == 0
        assert await one.publisher.publish_once() == 1
        log = await one.log()
        last = await two.checkpoints.latest(log.log_id)
        assert last is not None
        rows = [row.leaf_hash for row in await two.reader.page(log.log_id, 0, 100)]
        assert open_checkpoint(last.published.note, [log.key]).root == root_of(rows)
        # A rotation: both keys sign for the overlap, whichever replica publishes.
        signer.rotate()
        rotated = await two.operations.rotate(log)
        assert await one.publisher.publish_once() == 1
        for parts in (one, two):
            await one.checkpoints.release(one.publisher.owner)
            await one.checkpoints.release(two.publisher.owner)
            await write(parts, 5 + (parts is two))
            assert await parts.publisher.publish_once() == 1
            size = (await parts.ledger.head(log)).frontier.size
            assert await signers(parts, log.key, size) == [log.key.key_id, rotated.key.key_id]
        # A retry over the change of shards finds its entry, whoever froze and whoever continued.
        request = changed(stream="plan:resent")
        first = await append_one(two, request)
        await one.operations.freeze(log, "OPERATOR", PEOPLE)
        await one.publisher.publish_once()
        await two.publisher.publish_once()
        await two.operations.continue_behind(log, await two.operations.citation(log, b""), PEOPLE)
        for parts in (two, one):
            again = await append_one(parts, request)
            assert (again.index, again.duplicate, again.entry) == (first.index, True, first.entry)
