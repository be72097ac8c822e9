"""PostgreSQL dies or fails over: to what holds every acknowledged entry the log goes on, to anything less it does not.

The standby is a physical one that streams, made by PostgreSQL's own base backup, cut off and promoted.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from counterseal.cli import main
from counterseal.embedded.postgres import PostgresServer
from counterseal.errors import LedgerUnavailable, LogForked
from counterseal.ledger.errors import VerificationError
from counterseal_audit.append.writer import Receipt
from counterseal_audit.logs.store import Log
from counterseal_audit.tiles.exporter import Exporter, folder_of
from support.audit import LocalAnchors, Replica, append_one, replica, stored
from support.entries import changed
from support.postgres import Databases, ServiceDatabase, execute, open_directory
from support.requirements import requirement
from support.rotations import PEOPLE
from support.shapes import ENVIRONMENT
from support.standby import Standby

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass
class Pair:
    """A primary that keeps PostgreSQL's promises, and where its standby may be."""

    primary: PostgresServer
    database: ServiceDatabase
    standby: Standby

    def crash(self) -> None:
        """Stop the primary as a power cut does: nothing is flushed that was not."""
        assert self.primary.pid is not None
        os.kill(self.primary.pid, signal.SIGQUIT)
        self.primary.stop()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with open_directory("counterseal-failover-") as home:
        primary = PostgresServer(home / "primary")
        cluster = primary.start()
        standby = Standby(home / "standby", primary, cluster)
        try:
            yield Pair(primary, Databases(cluster).fresh("audit"), standby)
        finally:
            standby.stop()
            primary.stop()


async def grow(parts: Replica, name: str, count: int) -> list[Receipt]:
    return [await append_one(parts, changed(stream=f"plan:{name}-{n}")) for n in range(count)]


@requirement("ledger:acknowledged-kept")
async def test_after_an_immediate_stop_every_acknowledged_entry_is_there(pair: Pair) -> None:
    taken: list[Receipt] = []
    async with replica(pair.database, anchors=LocalAnchors()) as parts:

        async def write(number: int) -> None:
            n = 0
            while True:
                taken.append(await append_one(parts, changed(stream=f"plan:{number}-{n}")))
                n += 1

        work = [asyncio.create_task(write(number)) for number in range(8)]
        while len(taken) < 200:
            await asyncio.sleep(0.01)
        pair.crash()
        for error in await asyncio.gather(*work, return_exceptions=True):
            assert isinstance(error, LedgerUnavailable)
        pair.primary.start()
        after = await grow(parts, "after", 3)
    logged = await stored(pair.database)
    assert all(logged[receipt.index] == receipt.entry for receipt in (*taken, *after))
    assert len({receipt.index for receipt in taken}) == len(taken)


@requirement("ledger:acknowledged-kept")
async def test_a_standby_that_lacks_nothing_takes_over_and_the_log_goes_on(pair: Pair) -> None:
    async with replica(pair.database, anchors=LocalAnchors()) as parts:
        pair.standby.start()
        taken = await grow(parts, "before", 5)
        assert await parts.publisher.publish_once() == 1
        anchors = parts.anchors
    await pair.standby.caught_up()
    pair.crash()
    await pair.standby.promote()
    database = pair.standby.database(pair.database)
    await execute(database.admin_dsn, "UPDATE ledger_bucket SET lease_until = '-infinity'")
    async with replica(database, anchors=anchors) as parts:
        after = await grow(parts, "after", 3)
        assert await parts.publisher.publish_once() == 1
    logged = await stored(database)
    assert all(logged[receipt.index] == receipt.entry for receipt in (*taken, *after))


@requirement("ledger:restored-backup-refused", "ledger:shards-spanned")
async def test_a_standby_that_lacks_acknowledged_entries_gets_none_and_a_new_shard_cites_what_was_signed(
    pair: Pair, tmp_path: Path
) -> None:
    root = tmp_path / "export"
    with ThreadPoolExecutor(1) as disk:
        async with replica(pair.database, anchors=LocalAnchors()) as parts:
            exporter = Exporter(root, parts.logs, parts.checkpoints, parts.reader, ENVIRONMENT, disk)
            pair.standby.start()
            await grow(parts, "before", 5)
            assert await parts.publisher.publish_once() == 1
            await pair.standby.caught_up()
            await pair.standby.cut_off()
            lost = await grow(parts, "lost", 7)
            assert await parts.publisher.publish_once() == 1
            old, anchors = await parts.log(), parts.anchors
            assert await exporter.bring_up(old) == 13
        pair.crash()
        await pair.standby.promote()
        database = pair.standby.database(pair.database)
        await execute(database.admin_dsn, "UPDATE ledger_bucket SET lease_until = '-infinity'")
        kept = (folder_of(root, old) / "checkpoint").read_bytes()
        async with replica(database, anchors=anchors) as one, replica(database, anchors=anchors) as two:
            await refuses_everything(database, one, two)
            predecessor = await one.operations.citation(old, kept)
            made = await one.operations.continue_behind(old, predecessor, PEOPLE)
            receipts = [*await grow(one, "one", 3), *await grow(two, "two", 3)]
            assert await one.publisher.publish_once() == 1, "the new shard, and never the old one"
            exporter = Exporter(root, one.logs, one.checkpoints, one.reader, ENVIRONMENT, disk)
            with pytest.raises(VerificationError):
                await exporter.bring_up(old)  # what was shown is not taken back
            assert await exporter.bring_up(made) == 8
            assert (await one.checkpoints.latest(old.log_id)).size == 6  # type: ignore[union-attr]
    assert [receipt.index for receipt in receipts] == list(range(2, 8))
    assert verify(root, made) == 0
    spanned = folder_of(root, made) / "predecessor" / "tile/entries/000.p/13"
    content = spanned.read_bytes()
    assert all(receipt.entry in content for receipt in lost), "what the standby lacks is evidence now"
    spanned.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    assert verify(root, made) == 4, "one verification spans both"


async def refuses_everything(database: ServiceDatabase, one: Replica, two: Replica) -> None:
    """0 appends, 0 signatures, whichever replica touches the log first."""
    connection = await asyncpg.connect(database.admin_dsn)
    for parts in (one, two):
        with pytest.raises(LogForked):
            await grow(parts, "refused", 1)
        assert await parts.publisher.publish_once() == 0
        assert parts.signer.signatures == 0
        await parts.checkpoints.release(parts.publisher.owner)
    assert await connection.fetchval("SELECT count(*) FROM ledger_entry") == 6, "genesis and the five of before"
    assert await connection.fetchval("SELECT count(*) FROM ledger_checkpoint") == 1
    await connection.close()


def verify(root: Path, log: Log) -> int:
    return main(["audit", "verify", "log", str(folder_of(root, log)), "--vkey", log.vkey])
