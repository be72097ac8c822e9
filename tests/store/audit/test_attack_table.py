"""What the database's owner can do to a log, row by row of the threat model: who notices, and that nothing was signed.

Each attack runs twice: with triggers and policies in place but passed over, and with all of them dropped. Where an
attack names the MAC's key, the attacker is given it: what catches the rest must not rest on it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import asyncpg
import pytest

from counterseal.errors import AnchorMissing, LogForked
from counterseal.ids import new_id
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import Frontier, leaf_hash
from counterseal_audit.logs.anchors import Anchor, Page
from counterseal_audit.logs.store import Log
from support.audit import LocalAnchors, LocalLogSigner, Replica, append_one, exported_verifies, replica
from support.entries import changed
from support.postgres import FreshDatabase, ServiceDatabase, execute
from support.requirements import requirement

Attack = Callable[["Owner"], Awaitable[None]]


class Owner:
    """Somebody with every right in the database and none outside it."""

    def __init__(self, parts: Replica, log: Log, connection: asyncpg.Connection) -> None:
        self.parts = parts
        self.log = log
        self.db = connection

    async def drop_guards(self) -> None:
        for row in await self.db.fetch(
            "SELECT tgname, tgrelid::regclass::text AS relation FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " WHERE NOT tgisinternal AND tgparentid = 0"
        ):
            await self.db.execute(f"DROP TRIGGER {row['tgname']} ON {row['relation']}")
        for row in await self.db.fetch("SELECT policyname, tablename FROM pg_policies"):
            await self.db.execute(f"DROP POLICY {row['policyname']} ON {row['tablename']}")
        await self.db.execute("ALTER TABLE ledger_entry DISABLE ROW LEVEL SECURITY")
        await self.db.execute("ALTER TABLE ledger_node DISABLE ROW LEVEL SECURITY")
        await self.db.execute("ALTER TABLE ledger_checkpoint DISABLE ROW LEVEL SECURITY")
        await self.db.execute("ALTER TABLE ledger_rotation DISABLE ROW LEVEL SECURITY")

    async def entries(self) -> list[bytes]:
        rows = await self.db.fetch("SELECT entry FROM ledger_entry WHERE log_id = $1 ORDER BY idx", self.log.log_id)
        return [row["entry"] for row in rows]

    async def set_head(self, frontier: Frontier, mac: bytes | None) -> None:
        await self.db.execute(
            "UPDATE ledger_head SET size = $2, frontier = $3, root = $4, mac = coalesce($5, mac) WHERE log_id = $1",
            self.log.log_id,
            frontier.size,
            frontier.serialize(),
            frontier.root(),
            mac,
        )

    async def mac(self, frontier: Frontier) -> bytes:
        """What only a replica can make."""
        return (await self.parts.ledger.mac_of(self.log)).of(frontier)

    async def rewrite(self, index: int, data: bytes) -> Frontier:
        """Replace one entry and make leaf and head fit it."""
        await self.db.execute(
            "UPDATE ledger_entry SET entry = $3, leaf_hash = $4 WHERE log_id = $1 AND idx = $2",
            self.log.log_id,
            index,
            data,
            leaf_hash(data),
        )
        return Frontier().extend(leaf_hash(entry) for entry in await self.entries())

    async def insert(self, data: bytes, index: int) -> None:
        await self.db.execute(
            "INSERT INTO ledger_entry (log_id, idx, event_id, req_hash, leaf_hash, entry)"
            " VALUES ($1, $2, $3, $4, $5, $6)",
            self.log.log_id,
            index,
            new_id(),
            leaf_hash(b"req" + data),
            leaf_hash(data),
            data,
        )


async def appends_forged_entries(owner: Owner) -> None:
    stored = await owner.entries()
    await owner.insert(stored[-1], len(stored))
    await owner.set_head(Frontier().extend(leaf_hash(data) for data in [*stored, stored[-1]]), None)


async def appends_forged_entries_with_the_key_of_another_log(owner: Owner) -> None:
    await appends_forged_entries(owner)
    frontier = Frontier().extend(leaf_hash(data) for data in await owner.entries())
    other = (await owner.parts.ledger.open("globex"))[0]
    await owner.set_head(frontier, (await owner.parts.ledger.mac_of(other)).of(frontier))


async def rewrites_the_tree_and_keeps_the_old_note(owner: Owner) -> None:
    frontier = await owner.rewrite(3, (await owner.entries())[2])
    await owner.set_head(frontier, await owner.mac(frontier))
    covered = Frontier().extend(leaf_hash(data) for data in (await owner.entries())[:6])
    await owner.db.execute(
        "UPDATE ledger_checkpoint SET root = $1, frontier = $2 WHERE log_id = $3",
        covered.root(),
        covered.serialize(),
        owner.log.log_id,
    )


async def rewrites_the_tree_and_removes_the_old_note(owner: Owner) -> None:
    frontier = await owner.rewrite(3, (await owner.entries())[2])
    await owner.set_head(frontier, await owner.mac(frontier))
    await owner.db.execute("DELETE FROM ledger_checkpoint WHERE log_id = $1", owner.log.log_id)


async def cuts_the_tail_with_its_notes(owner: Owner) -> None:
    kept = Frontier().extend(leaf_hash(data) for data in (await owner.entries())[:3])
    await owner.db.execute("DELETE FROM ledger_entry WHERE log_id = $1 AND idx >= 3", owner.log.log_id)
    await owner.db.execute("DELETE FROM ledger_checkpoint WHERE log_id = $1", owner.log.log_id)
    await owner.set_head(kept, await owner.mac(kept))


async def swaps_two_tenants_heads(owner: Owner) -> None:
    await owner.db.execute(
        "UPDATE ledger_head h SET (size, frontier, root, mac) = (o.size, o.frontier, o.root, o.mac)"
        " FROM ledger_head o WHERE o.log_id <> h.log_id AND h.log_id = $1",
        owner.log.log_id,
    )


async def swaps_two_tenants_entries(owner: Owner) -> None:
    other = (await owner.parts.ledger.open("globex"))[0]
    await owner.db.execute(
        "UPDATE ledger_entry e SET (entry, leaf_hash) = (o.entry, o.leaf_hash) FROM ledger_entry o"
        " WHERE e.log_id = $1 AND o.log_id = $2 AND e.idx = 7 AND o.idx = 1",
        owner.log.log_id,
        other.log_id,
    )


async def forges_a_rotation_to_a_key_of_their_own(owner: Owner) -> None:
    """Their own note, their own key, a rewritten history: what they cannot make is the anchor."""
    signer = LocalLogSigner()
    key = VerifierKey.make(owner.log.origin, (await signer.public_keys())[1])
    await owner.db.execute(
        "INSERT INTO ledger_rotation (log_id, n, idx, public_key, note) VALUES ($1, 1, 1, $2, 'x')",
        owner.log.log_id,
        bytes(reversed(key.public)),
    )
    await rewrites_the_tree_and_removes_the_old_note(owner)


BEFORE_SIGNING: Sequence[Attack] = (
    appends_forged_entries,
    appends_forged_entries_with_the_key_of_another_log,
    rewrites_the_tree_and_keeps_the_old_note,
    rewrites_the_tree_and_removes_the_old_note,
    cuts_the_tail_with_its_notes,
    swaps_two_tenants_heads,
    swaps_two_tenants_entries,
    forges_a_rotation_to_a_key_of_their_own,
)
CAUGHT_AT_FIRST_TOUCH = (
    appends_forged_entries,
    appends_forged_entries_with_the_key_of_another_log,
    cuts_the_tail_with_its_notes,
    swaps_two_tenants_heads,
)


async def grow(parts: Replica, start: int, count: int, tenant: str = "acme") -> None:
    for n in range(start, start + count):
        await append_one(parts, changed(stream=f"plan:{n}", tenant=tenant))


@requirement("ledger:no-signature-on-a-bad-head")
@pytest.mark.parametrize("dropped", [False, True], ids=["guards-passed-over", "guards-dropped"])
@pytest.mark.parametrize("attack", BEFORE_SIGNING, ids=lambda attack: attack.__name__)
async def test_what_the_database_owner_does_is_noticed_before_anything_is_signed(
    fresh_database: FreshDatabase, attack: Attack, dropped: bool
) -> None:
    database = fresh_database("audit")
    connection = await asyncpg.connect(database.admin_dsn)
    async with replica(database) as parts:
        await grow(parts, 0, 5)
        await grow(parts, 0, 2, "globex")
        assert await parts.publisher.publish_once() == 2
        await grow(parts, 5, 4)
        owner = Owner(parts, await parts.log(), connection)
        if dropped:
            await owner.drop_guards()
        await connection.execute("SET session_replication_role = replica")
        await attack(owner)
        await parts.checkpoints.release(parts.publisher.owner)
    rows = await connection.fetchval("SELECT count(*) FROM ledger_entry")
    async with replica(database) as fresh:  # another process: it has seen nothing of this log
        anchored = fresh.anchors.pages[owner.log.bucket].anchors[owner.log.origin]
        if attack in CAUGHT_AT_FIRST_TOUCH:
            with pytest.raises(LogForked):
                await append_one(fresh, changed(stream="plan:after"))
            assert await connection.fetchval("SELECT count(*) FROM ledger_entry") == rows, "0 appends"
        assert await fresh.publisher.publish_once() == 0
        assert fresh.signer.signatures == 0
        with pytest.raises(LogForked):
            await append_one(fresh, changed(stream="plan:later"))
        await grow(fresh, 10, 1, "globex")
        assert await fresh.publisher.publish_once() == 1, "the other tenant's log goes on"
        assert fresh.anchors.pages[owner.log.bucket].anchors[owner.log.origin] == anchored
    await connection.close()


async def edits_an_old_entry(owner: Owner) -> None:
    await owner.db.execute(
        "UPDATE ledger_entry SET entry = set_byte(entry, 30, get_byte(entry, 30) # 1) WHERE log_id = $1 AND idx = 3",
        owner.log.log_id,
    )


async def edits_an_old_entry_and_its_leaf(owner: Owner) -> None:
    await owner.rewrite(3, (await owner.entries())[2])


async def deletes_an_old_entry(owner: Owner) -> None:
    await owner.db.execute("DELETE FROM ledger_entry WHERE log_id = $1 AND idx = 3", owner.log.log_id)


async def edits_an_old_node(owner: Owner) -> None:
    done = await owner.db.execute(
        "UPDATE ledger_node SET hash = set_byte(hash, 3, get_byte(hash, 3) # 1) WHERE log_id = $1", owner.log.log_id
    )
    assert done == "UPDATE 1"


async def swaps_another_tenants_entry_in(owner: Owner) -> None:
    other = (await owner.parts.ledger.open("globex"))[0]
    row = await owner.db.fetchrow("SELECT entry FROM ledger_entry WHERE log_id = $1 AND idx = 1", other.log_id)
    await owner.rewrite(3, row["entry"])


@requirement("ledger:tamper-named")
@pytest.mark.parametrize("dropped", [False, True], ids=["guards-passed-over", "guards-dropped"])
@pytest.mark.parametrize(
    "attack",
    [
        edits_an_old_entry,
        edits_an_old_entry_and_its_leaf,
        deletes_an_old_entry,
        edits_an_old_node,
        swaps_another_tenants_entry_in,
    ],
    ids=lambda attack: attack.__name__,
)
async def test_what_is_older_than_the_last_checkpoint_fails_verification(
    fresh_database: FreshDatabase, tmp_path: Path, attack: Attack, dropped: bool
) -> None:
    database = fresh_database("audit")
    connection = await asyncpg.connect(database.admin_dsn)
    async with replica(database) as parts:
        await grow(parts, 0, 1)
        await grow(parts, 0, 1, "globex")
        await asyncio.gather(*(append_one(parts, changed(stream=f"plan:{n}")) for n in range(1, 300)))
        assert await parts.publisher.publish_once() == 2
        owner = Owner(parts, await parts.log(), connection)
        assert await exported_verifies(parts.engine, owner.log, tmp_path / "before")
        if dropped:
            await owner.drop_guards()
        await connection.execute("SET session_replication_role = replica")
        await attack(owner)
        assert not await exported_verifies(parts.engine, owner.log, tmp_path / "after")
    await connection.close()


FLIP = "set_byte({0}, 7, get_byte({0}, 7) # 16)"
FLIPPED = {
    "entry": "UPDATE ledger_entry SET entry = {flip} WHERE log_id = {log_id} AND idx = {idx}",
    "leaf_hash": "UPDATE ledger_entry SET leaf_hash = {flip} WHERE log_id = {log_id} AND idx = {idx}",
    "hash": "UPDATE ledger_node SET hash = {flip} WHERE log_id = {log_id} AND n = 0",
    "frontier": "UPDATE ledger_head SET frontier = {flip} WHERE log_id = {log_id}",
    "root": "UPDATE ledger_head SET root = {flip} WHERE log_id = {log_id}",
    "mac": "UPDATE ledger_head SET mac = {flip} WHERE log_id = {log_id}",
    "note": "UPDATE ledger_checkpoint SET note = {flip} WHERE log_id = {log_id}",
}


@requirement("ledger:no-signature-on-a-bad-head", "ledger:tamper-named")
@pytest.mark.slow
@pytest.mark.parametrize("idx", [100, 299], ids=["signed-before", "not-yet-signed"])
@pytest.mark.parametrize("column", list(FLIPPED))
async def test_one_flipped_bit_is_never_signed_and_never_verifies(
    fresh_database: FreshDatabase, tmp_path: Path, column: str, idx: int
) -> None:
    """Bit rot, not an adversary: one bit of one column, before or behind the last checkpoint."""
    database = fresh_database("audit")
    async with replica(database) as parts:
        await grow(parts, 0, 1)
        await asyncio.gather(*(append_one(parts, changed(stream=f"plan:{n}")) for n in range(1, 280)))
        assert await parts.publisher.publish_once() == 1
        await asyncio.gather(*(append_one(parts, changed(stream=f"plan:{n}")) for n in range(280, 320)))
        log = await parts.log()
        true = [leaf_hash(row.entry) for row in await parts.reader.page(log.log_id, 0, 1000)]
        await parts.checkpoints.release(parts.publisher.owner)
    statement = FLIPPED[column].format(flip=FLIP.format(column), log_id=log.log_id, idx=idx)
    await execute(database.admin_dsn, "SET session_replication_role = replica", statement)
    async with replica(database) as fresh:
        signed = await fresh.publisher.publish_once()
        last = await fresh.checkpoints.latest(log.log_id)
        assert last is not None
        if signed:  # what the flip does not reach may be signed, and only with the root of the true bytes
            assert last.published.root == Frontier().extend(true).root()
            assert fresh.signer.signatures == 1
            assert column in ("entry", "leaf_hash", "hash")
        else:
            assert fresh.signer.signatures == 0
            with pytest.raises(LogForked):
                await grow(fresh, 500, 1)
        verified = column in ("frontier", "root", "mac") or await exported_verifies(fresh.engine, log, tmp_path)
        # A head is not part of an export: nothing was signed over it, that is all. Behind the last checkpoint an entry
        # is not exported yet.
        hidden = column in ("frontier", "root", "mac") or (not signed and column == "entry" and idx == 299)
        assert verified == hidden


@requirement("ledger:append-only")
async def test_an_older_valid_head_is_noticed_by_who_saw_the_newer_one(fresh_database: FreshDatabase) -> None:
    """Within the interval no anchor knows of it: the replicas do, and producers' receipts."""
    database = fresh_database("audit")
    connection = await asyncpg.connect(database.admin_dsn)
    async with replica(database) as parts:
        await grow(parts, 0, 3)
        assert await parts.publisher.publish_once() == 1
        log = await parts.log()
        await grow(parts, 3, 1)
        old = await connection.fetchrow("SELECT size, frontier, root, mac FROM ledger_head")
        await grow(parts, 4, 2)
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("DELETE FROM ledger_entry WHERE idx >= $1", old["size"])
        await connection.execute("UPDATE ledger_head SET (size, frontier, root, mac) = ($1, $2, $3, $4)", *old)
        assert await parts.publisher.publish_once() == 0, "this process saw more"
        assert parts.signer.signatures == 1
        with pytest.raises(LogForked):
            await grow(parts, 9, 1)
        assert (await parts.ledger._store.head(log.log_id)).mac == old["mac"]
    await connection.close()


async def copy_of(database: ServiceDatabase, name: str) -> ServiceDatabase:
    """A backup: a copy of the whole database as it is now."""
    base = database.admin_dsn.rpartition("/")[0]
    await execute(f"{base}/postgres", f'CREATE DATABASE "{name}" TEMPLATE "{database.name}" STRATEGY file_copy')
    swap = [dsn.rpartition("/")[0] + f"/{name}" for dsn in (database.dsn, database.owner_dsn, database.admin_dsn)]
    return ServiceDatabase(name, *swap)


@requirement("ledger:restored-backup-refused")
@pytest.mark.parametrize("published", [True, False], ids=["of-a-signed-state", "of-a-never-signed-state"])
async def test_a_restored_backup_takes_no_entry_and_gets_no_checkpoint(
    fresh_database: FreshDatabase, published: bool
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await grow(parts, 0, 3)
        if published:
            await parts.publisher.publish_once()
        anchors = parts.anchors
    backup = await copy_of(database, f"{database.name}_backup")
    async with replica(database) as parts:
        await grow(parts, 3, 3)
        await parts.checkpoints.release("")
        parts.publisher.owner = "another"
        await execute(database.admin_dsn, "UPDATE ledger_bucket SET lease_until = '-infinity'")
        assert await parts.publisher.publish_once() == 1
    await execute(backup.admin_dsn, "UPDATE ledger_bucket SET lease_until = '-infinity'")
    async with replica(backup, anchors=anchors) as one, replica(backup, anchors=anchors) as two:
        with pytest.raises(LogForked):
            await grow(one, 9, 1)
        assert await one.publisher.publish_once() == 0
        await one.checkpoints.release(one.publisher.owner)
        assert await two.publisher.publish_once() == 0
        with pytest.raises(LogForked):
            await grow(two, 9, 1)
        assert one.signer.signatures == two.signer.signatures == 0
    connection = await asyncpg.connect(backup.admin_dsn)
    assert await connection.fetchval("SELECT count(*) FROM ledger_entry") == 4
    assert await connection.fetchval("SELECT count(*) FROM ledger_checkpoint") == int(published)
    await connection.close()
    await execute(database.admin_dsn.rpartition("/")[0] + "/postgres", f'DROP DATABASE "{backup.name}" WITH (FORCE)')


@requirement("ledger:restored-backup-refused")
async def test_a_log_that_was_wiped_is_not_begun_anew(fresh_database: FreshDatabase) -> None:
    """A backup of before the log began, or an owner who deleted every row of it."""
    empty, database = fresh_database("audit"), fresh_database("audit")
    async with replica(database) as parts:
        await grow(parts, 0, 1)
        await parts.publisher.publish_once()
        anchors = parts.anchors
    async with replica(empty, anchors=anchors) as parts:
        with pytest.raises(LogForked):
            await grow(parts, 1, 1)
        assert await parts.publisher.publish_once() == 0
        assert parts.signer.signatures == 0


async def test_a_log_whose_beginning_was_cut_short_is_the_same_log_the_next_time(fresh_database: FreshDatabase) -> None:
    """Killed between the anchor and the genesis row: the next try makes the same bytes, under the same name."""
    database, elsewhere = fresh_database("audit"), fresh_database("audit")
    async with replica(elsewhere) as parts:
        first = await parts.log()
        anchors = parts.anchors
    async with replica(database, anchors=anchors) as parts:
        again = await parts.log()
        await grow(parts, 0, 1)
        assert await parts.publisher.publish_once() == 1
    assert (again.origin, again.vkey) == (first.origin, first.vkey)


@requirement("ledger:anchor-missing-refused")
async def test_without_its_anchor_a_log_gets_no_signature_and_no_new_replica(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await grow(parts, 0, 3)
        assert await parts.publisher.publish_once() == 1
        log = await parts.log()
        await grow(parts, 3, 1)
        parts.anchors.delete(log.bucket)
        assert await parts.publisher.publish_once() == 0
        assert parts.signer.signatures == 1
    async with replica(database) as fresh:
        with pytest.raises(AnchorMissing):
            await grow(fresh, 4, 1)


@requirement("ledger:anchor-missing-refused")
async def test_an_anchor_older_than_what_was_signed_is_no_anchor(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await grow(parts, 0, 3)
        log = await parts.log()
        old = parts.anchors.pages[log.bucket]
        assert await parts.publisher.publish_once() == 1
        await grow(parts, 3, 1)
        parts.anchors.pages[log.bucket] = Page(99, old.anchors)  # Vault itself was restored
        assert await parts.publisher.publish_once() == 0
        assert parts.signer.signatures == 1
    async with replica(database) as fresh:
        with pytest.raises(AnchorMissing):
            await grow(fresh, 4, 1)


class Paused(LocalAnchors):
    """Anchors whose first writer stops before its write, as if the process had been stopped there."""

    def __init__(self, shared: LocalAnchors) -> None:
        super().__init__()
        self.pages, self.deleted, self.logs = shared.pages, shared.deleted, shared.logs
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def write(self, bucket: int, page: Page) -> None:
        self.reached.set()
        await self.go_on.wait()
        await super().write(bucket, page)


class PausedSigner(LocalLogSigner):
    """A signer that stops between the reserved anchor and the signature."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def sign_batch(self, messages: Sequence[bytes], version: int) -> list[bytes | None]:
        self.reached.set()
        await self.go_on.wait()
        return await super().sign_batch(messages, version)


@requirement("ledger:zombie-publisher")
async def test_a_publisher_that_slept_before_reserving_signs_nothing(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as one:
        await grow(one, 0, 3)
        log = await one.log()
        paused = Paused(one.anchors)
        async with replica(database, anchors=paused) as zombie:
            late = asyncio.create_task(zombie.publisher._publish(log.bucket, [log]))
            await paused.reached.wait()
            await grow(one, 3, 2)
            assert await one.publisher._publish(log.bucket, [log]) == 1
            paused.go_on.set()
            assert await late == 0
            assert zombie.signer.signatures == 0


@requirement("ledger:zombie-publisher")
async def test_a_publisher_that_slept_before_signing_signs_a_prefix_of_what_is_signed(
    fresh_database: FreshDatabase,
) -> None:
    database = fresh_database("audit")
    async with replica(database) as one, replica(database, PausedSigner()) as zombie:
        await grow(one, 0, 3)
        log = await one.log()
        assert isinstance(zombie.signer, PausedSigner)
        late = asyncio.create_task(zombie.publisher._publish(log.bucket, [log]))
        await zombie.signer.reached.wait()
        await grow(one, 3, 2)
        assert await one.publisher._publish(log.bucket, [log]) == 1
        zombie.signer.go_on.set()
        assert await late == 1
        older, newest = (
            (await one.checkpoints.trees(log.log_id, [4])).by_size.get(4),
            await one.checkpoints.latest(log.log_id),
        )
        assert older is not None
        assert newest is not None
        assert newest.size == 6
        rows = await one.reader.page(log.log_id, 0, 10)
        for stored in (older, newest):
            assert stored.published.root == Frontier().extend(row.leaf_hash for row in rows[: stored.size]).root()


async def test_a_publisher_killed_between_anchor_and_signature_leaves_nothing_that_another_cannot_sign(
    fresh_database: FreshDatabase,
) -> None:
    database = fresh_database("audit")
    async with replica(database) as one, replica(database, PausedSigner()) as dies:
        await grow(one, 0, 3)
        log = await one.log()
        assert isinstance(dies.signer, PausedSigner)
        killed = asyncio.create_task(dies.publisher._publish(log.bucket, [log]))
        await dies.signer.reached.wait()
        killed.cancel()
        anchored = one.anchors.pages[log.bucket].anchors[log.origin]
        assert anchored.size == 4
        writes = one.anchors.writes
        assert await one.publisher._publish(log.bucket, [log]) == 1
        assert one.anchors.writes == writes, "what is reserved is signed without another write"


async def test_an_anchor_that_says_another_root_is_believed_before_the_database(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        await grow(parts, 0, 3)
        log = await parts.log()
        page = parts.anchors.pages[log.bucket]
        wrong = Anchor(4, b"\x07" * 32)
        parts.anchors.pages[log.bucket] = page.advanced({log.origin: wrong})
        with pytest.raises(VerificationError, match="anchor's root"):
            await parts.publisher._candidate(log, await parts.checkpoints.signed(log), wrong)
        assert await parts.publisher.publish_once() == 0
        assert parts.signer.signatures == 0
