"""Freezing, continuing, adopting and rotating a log; plans stay committed once across all of it."""

import asyncio
import hashlib

import asyncpg
import pytest

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.errors import (
    AnchorMissing,
    IdempotencyKeyReused,
    InputInvalid,
    LogForked,
    LogFrozen,
    WrongState,
)
from counterseal.ids import new_id
from counterseal.ledger import entry as entries
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.tree import Frontier, leaf_hash
from counterseal.ledger.verify import verify_log
from counterseal.rpc.ledger_wire import new_entry
from counterseal_audit.append.predecessors import may_be_older
from counterseal_audit.reader.export import LogFiles
from support.audit import Replica, append_one, replica
from support.entries import NOW, changed
from support.exports import Files
from support.postgres import FreshDatabase, ServiceDatabase, execute
from support.requirements import requirement
from support.rotations import PEOPLE, TwoVersions, signers

DECISION = "01920000-0000-7000-8000-000000000001"


MANY = 1_000_000
"""More entries than any log here has."""


def committed(decision: str = DECISION) -> ledger_pb2.NewEntry:
    digest = "sha256:" + "ab" * 32
    data = {"decision_id": decision, "snapshot_id": "sha256:" + "cd" * 32}
    return new_entry(
        "plan.committed",
        data,
        event_id=entries.committed_event_id(digest),
        event_time_ms=NOW,
        tenant="acme",
        environment="prod",
        plan_digest=digest,
    )


async def grow(parts: Replica, start: int, count: int) -> None:
    for n in range(start, start + count):
        await append_one(parts, changed(stream=f"plan:{n}"))


async def restore(database: ServiceDatabase, frontier: Frontier, mac: bytes) -> None:
    """Put back an older dump of the only log, with the head that it had."""
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute("SET session_replication_role = replica")
    await admin.execute("DELETE FROM ledger_entry WHERE idx >= $1", frontier.size)
    await admin.execute("DELETE FROM ledger_checkpoint WHERE size > $1", frontier.size)
    await admin.execute(
        "UPDATE ledger_head SET (size, frontier, root, mac) = ($1, $2, $3, $4)",
        frontier.size,
        frontier.serialize(),
        frontier.root(),
        mac,
    )
    await admin.close()


@requirement("ledger:frozen-for-ever")
async def test_a_frozen_log_ends_with_the_entry_that_says_so_and_a_last_checkpoint(
    fresh_database: FreshDatabase,
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts, replica(database) as other:
        await grow(parts, 0, 3)
        await grow(other, 3, 1)
        log = await parts.log()
        size = await parts.operations.freeze(log, "OPERATOR", PEOPLE)
        assert size == 6
        for one in (parts, other):
            with pytest.raises(LogFrozen):
                await grow(one, 9, 1)
            with pytest.raises(LogFrozen):
                await one.operations.freeze(log, "OPERATOR", PEOPLE)
        with pytest.raises(WrongState, match="not signed yet"):
            await parts.operations.citation(log, b"")
        assert await parts.publisher.publish_once() == 1
        parts.publisher.heartbeat_ms = 0
        assert await parts.publisher.publish_once() == 0, "a frozen log has no heartbeat"
        last = (await parts.reader.page(log.log_id, 0, 100))[-1]
    ended = entries.parse(last.entry)
    assert (last.index, ended.type, ended.data["reason_code"]) == (5, "log.frozen", "OPERATOR")
    assert len(ended.data["ordered_by"]) == 2
    assert not any(person in last.entry for person in (b"ana", b"olga"))
    admin = await asyncpg.connect(database.admin_dsn)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await admin.execute("UPDATE ledger_head SET open = true")
    await admin.close()


@requirement("ledger:frozen-for-ever")
async def test_a_new_shard_cites_the_last_checkpoint_and_every_replica_moves_on(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts, replica(database) as other:
        await grow(parts, 0, 3)
        await grow(other, 3, 1)
        old = await parts.log()
        with pytest.raises(WrongState, match="freeze it first"):
            await parts.operations.citation(old, b"")
        await parts.operations.freeze(old, "OPERATOR", PEOPLE)
        await parts.publisher.publish_once()
        predecessor = await parts.operations.citation(old, b"")
        made = await parts.operations.continue_behind(old, predecessor, PEOPLE)
        again = await parts.ledger.births.create("acme", 1, predecessor)
        assert again == made, "whoever asks again gets the same log"
        with pytest.raises(LogFrozen):
            await grow(other, 4, 1)  # what was under way when the other replica learns of it
        receipts = [await append_one(one, changed(stream=f"plan:{n}")) for n, one in enumerate((parts, other), 5)]
        assert [receipt.index for receipt in receipts] == [2, 3]
        assert await parts.publisher.publish_once() == 1
        genesis = entries.parse((await parts.reader.page(made.log_id, 0, 1))[0].entry)
        last = await parts.checkpoints.latest(old.log_id)
        assert last is not None
        assert genesis.data == {
            "vkey": made.vkey,
            "shard": 1,
            "predecessor": "sha256:" + hashlib.sha256(last.published.public).hexdigest(),
        }
        assert made.origin != old.origin


@requirement("commit:one-accepted")
async def test_a_plan_that_an_earlier_shard_committed_is_not_committed_again(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        first = await append_one(parts, committed())
        before = changed(stream="plan:before")
        ordinary = await append_one(parts, before)
        old = await parts.log()
        await parts.operations.freeze(old, "OPERATOR", PEOPLE)
        await parts.publisher.publish_once()
        await parts.operations.continue_behind(old, await parts.operations.citation(old, b""), PEOPLE)
        new = await append_one(parts, changed(stream="plan:new"))
        again = await append_one(parts, committed())
        assert (again.index, again.entry, again.duplicate) == (first.index, first.entry, True)
        with pytest.raises(IdempotencyKeyReused):
            await append_one(parts, committed(DECISION.replace("1", "2")))
        resent = await append_one(parts, before)
        assert (resent.index, resent.duplicate) == (ordinary.index, True), "an answer lost over the freeze"
        assert not new.duplicate


def test_only_ids_that_say_when_they_were_made_are_taken_for_new() -> None:
    late = new_id()
    made_ms = int(late.replace("-", "")[:12], 16)
    assert not may_be_older(late, made_ms)
    assert may_be_older(late, made_ms + 1)
    assert may_be_older(entries.committed_event_id("sha256:" + "ab" * 32), 0)
    assert not may_be_older("not-a-uuid", made_ms)


@requirement("ledger:restored-backup-refused")
async def test_a_forked_log_is_continued_by_a_shard_that_cites_the_checkpoint_that_somebody_kept(
    fresh_database: FreshDatabase,
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await grow(parts, 0, 2)
        await parts.publisher.publish_once()
        old = await parts.log()
        await grow(parts, 2, 2)
        await parts.publisher.publish_once()
        kept = await parts.checkpoints.latest(old.log_id)
        earlier = (await parts.checkpoints.trees(old.log_id, [3])).by_size.get(3)
        assert kept is not None
        assert earlier is not None
        frontier = earlier.published.frontier
        mac = (await parts.ledger.mac_of(old)).of(frontier)
    await restore(database, frontier, mac)
    async with replica(database) as parts:
        with pytest.raises(LogForked):
            await grow(parts, 4, 1)
        with pytest.raises(WrongState, match="nothing to adopt"):
            await parts.operations.adoptable(old)
        forged = kept.published.note[:-20] + b"A" * 10 + kept.published.note[-10:]
        for note, why in ((forged, "predecessor_checkpoint"), (b"nonsense", "predecessor_checkpoint")):
            with pytest.raises(InputInvalid, match=why):
                await parts.operations.citation(old, note)
        predecessor = await parts.operations.citation(old, kept.published.note)
        assert predecessor == "sha256:" + hashlib.sha256(kept.published.note).hexdigest()
        made = await parts.operations.continue_behind(old, predecessor, PEOPLE)
        await grow(parts, 5, 1)
        assert await parts.publisher.publish_once() == 1, "the new log, and not the old one"
        latest = await parts.checkpoints.latest(made.log_id)
        assert latest is not None
        assert latest.size == 3
        stale = await parts.checkpoints.latest(old.log_id)
        assert stale is not None
        assert stale.size == 3, "0 checkpoints over the restored log"


@requirement("ledger:restored-backup-refused")
async def test_a_replica_that_has_not_noticed_a_fork_appends_nothing_behind_the_log_that_continues_it(
    fresh_database: FreshDatabase,
) -> None:
    """Followers leave a log at its end once another one continues it: what came later would never be read."""
    database = fresh_database("audit")
    async with replica(database) as unaware, replica(database) as parts:
        await grow(unaware, 0, 2)
        old = await parts.log()
        head = await parts.ledger.stored_head(old)
        await grow(parts, 2, 2)
        await parts.publisher.publish_once()
        kept = await parts.checkpoints.latest(old.log_id)
        assert kept is not None
        assert head.mac is not None
        await restore(database, head.frontier, head.mac)  # to the very head that `unaware` appended
        async with replica(database) as restarted:
            predecessor = await restarted.operations.citation(old, kept.published.note)
            made = await restarted.operations.continue_behind(old, predecessor, PEOPLE)
            with pytest.raises(LogForked):
                await grow(unaware, 9, 1)
            assert await restarted.reader.size(old.log_id) == 3
            receipt = await append_one(unaware, changed(stream="plan:9"))
            assert (await restarted.reader.page(made.log_id, receipt.index, 1))[0].entry == receipt.entry


@requirement("ledger:anchor-missing-refused")
async def test_two_people_adopt_a_log_whose_anchor_is_gone_and_every_replica_goes_on(
    fresh_database: FreshDatabase,
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts, replica(database) as other:
        await grow(parts, 0, 3)
        await parts.publisher.publish_once()
        log = await parts.log()
        await grow(other, 3, 1)
        parts.anchors.delete(log.bucket)
        assert await parts.publisher.publish_once() == 0
        head = await parts.operations.adoptable(log)
        with pytest.raises(LogForked):
            await parts.operations.adopt(log, head.frontier.size, b"\x01" * 32)
        with pytest.raises(LogForked):
            await parts.operations.adopt(log, 3, Frontier().root())
        await parts.operations.adopt(log, head.frontier.size, head.root)
        await parts.operations.record_adoption(log, PEOPLE)
        with pytest.raises(WrongState):
            await parts.operations.adoptable(log)
        await grow(other, 4, 1)
        assert await parts.publisher.publish_once() == 1
        rows = await parts.reader.page(log.log_id, 5, 1)
        beat = entries.parse(rows[0].entry)
        assert beat.type == "log.heartbeat"
        assert len(beat.data["ordered_by"]) == 2
    async with replica(database) as fresh:
        await grow(fresh, 6, 1)


@requirement("ledger:anchor-missing-refused")
async def test_what_does_not_add_up_is_not_adopted(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await grow(parts, 0, 3)
        await parts.publisher.publish_once()
        log = await parts.log()
        parts.anchors.delete(log.bucket)
        await execute(
            database.admin_dsn,
            "SET session_replication_role = replica",
            "UPDATE ledger_entry SET entry = set_byte(entry, 30, get_byte(entry, 30) # 1) WHERE idx = 1",
        )
        head = await parts.operations.adoptable(log)
        with pytest.raises(LogForked):
            await parts.operations.adopt(log, head.frontier.size, head.root)
        assert log.bucket not in parts.anchors.pages


async def test_a_log_of_before_heads_had_macs_is_adopted(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await grow(parts, 0, 3)
        await parts.publisher.publish_once()
        log = await parts.log()
        await parts.checkpoints.release(parts.publisher.owner)
        await execute(database.admin_dsn, "UPDATE ledger_head SET mac = NULL")
        parts.anchors.delete(log.bucket)
    async with replica(database) as parts:
        with pytest.raises(AnchorMissing):
            await grow(parts, 3, 1)
        head = await parts.operations.adoptable(log)
        await parts.operations.adopt(log, head.frontier.size, head.root)
        await grow(parts, 3, 1)
        assert await parts.publisher.publish_once() == 1


@requirement("ledger:rotation-from-the-genesis-key")
async def test_a_new_key_signs_only_behind_a_checkpoint_by_the_old_one_that_covers_it(
    fresh_database: FreshDatabase,
) -> None:
    signer = TwoVersions()
    async with replica(fresh_database("audit"), signer) as parts:
        await grow(parts, 0, 2)
        await parts.publisher.publish_once()
        log = await parts.log()
        with pytest.raises(WrongState):
            await parts.operations.rotate(log)
        signer.rotate()
        rotated = await parts.operations.rotate(log)
        with pytest.raises(WrongState, match="is being rotated"):
            await parts.operations.rotate(log)
        await grow(parts, 2, 1)
        assert await parts.publisher.publish_once() == 1
        covering = rotated.index + 2
        assert await signers(parts, log.key, covering) == [log.key.key_id], "the covering one is by the old key alone"
        notes = await parts.checkpoints.rotation_notes(log.log_id, MANY)
        assert len(notes) == 1
        assert open_checkpoint(notes[0], [log.key]).size > rotated.index
        with pytest.raises(WrongState, match="already"):
            await parts.operations.rotate(log)
        await grow(parts, 3, 1)
        assert await parts.publisher.publish_once() == 1
        assert await signers(parts, log.key, covering + 1) == [log.key.key_id, rotated.key.key_id], "the overlap: both"
        parts.publisher.overlap_ms = 0
        await grow(parts, 4, 1)
        assert await parts.publisher.publish_once() == 1
        assert await signers(parts, log.key, covering + 2) == [rotated.key.key_id]
        archived = entries.parse((await parts.reader.page(log.log_id, covering + 2, 1))[0].entry)
        assert (archived.type, archived.data["public_key"]) == ("key.archived", log.key.public.hex())
        assert await parts.publisher.publish_once() == 1
        assert await parts.publisher.publish_once() == 0, "archived once"
        parts.publisher._archived.clear()  # another process would try again
        await grow(parts, 5, 1)
        assert await parts.publisher.publish_once() == 1
        assert (await parts.ledger.head(log)).frontier.size == covering + 4
        rows = await parts.reader.page(log.log_id, 0, 100)
        last = await parts.checkpoints.latest(log.log_id)
        assert last is not None
        assert open_checkpoint(last.published.note, [rotated.key]).root == (
            Frontier().extend(leaf_hash(row.entry) for row in rows).root()
        )


@requirement("ledger:rotation-from-the-genesis-key")
async def test_rotations_under_load_lose_nothing_and_repeat_nothing(fresh_database: FreshDatabase) -> None:
    database, signer = fresh_database("audit"), TwoVersions()
    async with replica(database, signer) as parts, replica(database, signer) as other:
        await grow(parts, 0, 1)
        log = await parts.log()
        done = asyncio.Event()

        async def load(one: Replica, name: str) -> int:
            count = 0
            while not done.is_set():
                await append_one(one, changed(stream=f"plan:{name}-{count}"))
                count += 1
            return count

        work = [asyncio.create_task(load(one, str(n))) for n, one in enumerate((parts, other, parts, other))]
        for _ in range(3):
            signer.rotate()
            rotated = await parts.operations.rotate(log)
            while len((await parts.checkpoints.keyring(log)).keys) < len(signer.keys):
                await asyncio.gather(parts.publisher._publish(log.bucket, [log]), other.publisher.publish_once())
        await asyncio.sleep(0)
        done.set()
        total = sum(await asyncio.gather(*work)) + 1 + 3 + 1
        await parts.publisher._publish(log.bucket, [log])
        rows = await parts.reader.page(log.log_id, 0, total + 10)
        assert [row.index for row in rows] == list(range(total))
        ring = await parts.checkpoints.keyring(log)
        assert [key.public for key in ring.keys] == [bytes(key.verify_key) for key in signer.keys.values()]
        # As an auditor who pinned the genesis key alone: each note by a key accepted so far vouches for the next one.
        accepted = [log.key]
        for note, key in zip(await parts.checkpoints.rotation_notes(log.log_id, MANY), ring.keys[1:], strict=True):
            covering = open_checkpoint(note, accepted)
            assert covering.root == Frontier().extend(leaf_hash(row.entry) for row in rows[: covering.size]).root()
            accepted.append(key)
        last = await parts.checkpoints.latest(log.log_id)
        assert last is not None
        assert open_checkpoint(last.published.note, [accepted[-1]]).size == total
        assert rotated.key == accepted[-1]


@requirement("ledger:honest-logs-are-never-refused")
async def test_an_export_holds_the_rotations_of_its_own_checkpoint_and_no_later_ones(
    fresh_database: FreshDatabase,
) -> None:
    signer = TwoVersions()
    async with replica(fresh_database("audit"), signer) as parts:
        await grow(parts, 0, 2)
        await parts.publisher.publish_once()
        log = await parts.log()
        before = await parts.checkpoints.latest(log.log_id)
        signer.rotate()
        await parts.operations.rotate(log)
        await parts.publisher.publish_once()
        after = await parts.checkpoints.latest(log.log_id)
        assert before is not None
        assert after is not None
        exporting = LogFiles(parts.logs, parts.checkpoints, parts.reader)
        for checkpoint, rotations in ((before, 0), (after, 1)):
            files = {path: content async for path, content in exporting.of(log, checkpoint)}
            report = verify_log(Files(files), log.key)
            assert report.findings == ()
            assert report.rotation_count == rotations
