"""The publisher signs nothing but what the stored entry bytes add up to from what it signed before."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from counterseal.errors import LogForked, SealUnavailable
from counterseal.ledger.checkpoint import Checkpoint, open_checkpoint
from counterseal.ledger.entry import parse
from counterseal.ledger.tree import root_of
from support.audit import LocalLogSigner, Replica, replica
from support.entries import changed
from support.postgres import FreshDatabase, ServiceDatabase
from support.requirements import requirement


async def grow(parts: Replica, start: int, count: int, tenant: str = "acme") -> None:
    requests = [changed(stream=f"plan:{n}", tenant=tenant) for n in range(start, start + count)]
    for answer in await parts.ledger.submit(requests, "executor"):
        assert isinstance(answer, asyncio.Future)
        await answer


async def latest(parts: Replica, tenant: str = "acme") -> Checkpoint:
    log = await parts.log(tenant)
    stored = await parts.checkpoints.latest(log.log_id)
    assert stored is not None
    return open_checkpoint(stored.published.note, [log.key])


async def alter(database: ServiceDatabase, *statements: str) -> None:
    """As the database's owner would who wants to hide something: triggers off first."""
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.execute("SET session_replication_role = replica")
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def test_a_log_that_grew_is_signed_once_and_an_idle_one_not_again(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        await grow(parts, 0, 300)
        assert await parts.publisher.publish_once() == 1
        assert await parts.publisher.publish_once() == 0
        checkpoint = await latest(parts)
        assert checkpoint.size == 301
        await grow(parts, 300, 1)
        assert await parts.publisher.publish_once() == 1
        assert (await latest(parts)).size == 302
        assert parts.signer.signatures == 2


async def test_every_log_has_its_own_checkpoint_under_its_own_name(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        await grow(parts, 0, 1)
        await grow(parts, 0, 2, "globex")
        assert await parts.publisher.publish_once() == 2
        acme, globex = await latest(parts), await latest(parts, "globex")
    assert (acme.size, globex.size) == (2, 3)
    assert acme.origin != globex.origin


async def test_of_two_publishers_one_works_and_the_other_knows_what_is_signed(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as one, replica(database) as two:
        await grow(one, 0, 5)
        assert await one.publisher.publish_once() == 1
        assert await two.publisher.publish_once() == 0
        log = await two.log()
        head = two.heads.get(log.log_id)
        assert head is not None
        assert head.size == 6
        await grow(two, 5, 1)
        assert await two.publisher.publish_once() == 0, "the lease is the other's"
        await one.checkpoints.release(one.publisher.owner)
        assert await two.publisher.publish_once() == 1


async def test_two_publishers_without_a_lease_sign_the_same_bytes(fresh_database: FreshDatabase) -> None:
    """The lease saves work; safety does not rest on it."""
    database = fresh_database("audit")
    async with replica(database) as one, replica(database) as two:
        await grow(one, 0, 5)
        log = await one.log()
        await two.log()
        await asyncio.gather(one.publisher._publish(log.bucket, [log]), two.publisher._publish(log.bucket, [log]))
    connection = await asyncpg.connect(database.admin_dsn)
    assert await connection.fetchval("SELECT count(*) FROM ledger_checkpoint") == 1
    await connection.close()


FLIP = "set_byte({0}, {1}, get_byte({0}, {1}) # 1)"
ATTACKS = {
    "an entry's bytes": f"UPDATE ledger_entry SET entry = {FLIP.format('entry', 20)} WHERE idx = 7",
    "a lost row in the middle": "DELETE FROM ledger_entry WHERE idx = 7",
    "a lost row at the end": "DELETE FROM ledger_entry WHERE idx = 10",
    "the head's root": f"UPDATE ledger_head SET root = {FLIP.format('root', 3)}",
    "the stored frontier": f"UPDATE ledger_checkpoint SET frontier = {FLIP.format('frontier', 3)}",
    "a frontier that is none": "UPDATE ledger_checkpoint SET frontier = 'x'",
    "the last checkpoint's note": f"UPDATE ledger_checkpoint SET note = {FLIP.format('note', 60)}",
    "an entry replaced together with its hash": """
        UPDATE ledger_entry SET (entry, leaf_hash) = (
            SELECT e.entry, e.leaf_hash FROM ledger_entry e WHERE e.log_id = ledger_entry.log_id AND e.idx = 8
        ) WHERE idx = 7""",
    "a log without entries": "DELETE FROM ledger_entry",
}


@requirement("ledger:append-only")
@pytest.mark.parametrize("statement", list(ATTACKS.values()), ids=list(ATTACKS))
async def test_nothing_altered_since_the_last_checkpoint_is_ever_signed(
    fresh_database: FreshDatabase, statement: str
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await grow(parts, 0, 5)
        assert await parts.publisher.publish_once() == 1
        await grow(parts, 5, 5)
        await grow(parts, 0, 3, "globex")
        log_id = (await parts.log()).log_id
        await alter(database, _of_acme(statement, log_id))
        assert await parts.publisher.publish_once() == 1, "the other tenant's log goes on"
        assert parts.signer.signatures == 2
        with pytest.raises(LogForked):
            await grow(parts, 10, 1)
        await grow(parts, 3, 1, "globex")


def _of_acme(statement: str, log_id: int) -> str:
    if " WHERE idx = " in statement:
        return statement.replace("WHERE idx", f"WHERE log_id = {log_id} AND idx")
    return f"{statement} WHERE log_id = {log_id}"


async def test_an_older_state_of_the_whole_log_is_not_signed_over(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await grow(parts, 0, 5)
        connection = await asyncpg.connect(database.admin_dsn)
        old = await connection.fetchrow("SELECT size, frontier, root FROM ledger_head")
        await grow(parts, 5, 5)
        await parts.publisher.publish_once()
        await alter(database, "DELETE FROM ledger_entry WHERE idx > 5")
        await connection.execute(
            "UPDATE ledger_head SET size = $1, frontier = $2, root = $3", old["size"], old["frontier"], old["root"]
        )
        await connection.close()
        await parts.checkpoints.release(parts.publisher.owner)
    async with replica(database) as fresh:  # another process, which has seen nothing
        assert await fresh.publisher.publish_once() == 0
        assert fresh.signer.signatures == 0
    async with replica(database) as another:  # and not appended to, even before any publisher looked
        with pytest.raises(LogForked):
            await grow(another, 20, 1)


async def test_a_signature_that_is_not_by_the_logs_key_is_not_published(fresh_database: FreshDatabase) -> None:
    class Wrong(LocalLogSigner):
        async def sign_batch(self, messages: Sequence[bytes], version: int) -> list[bytes | None]:
            return await super().sign_batch([message + b"x" for message in messages], version)

    database = fresh_database("audit")
    async with replica(database, Wrong()) as parts:
        await grow(parts, 0, 1)
        assert await parts.publisher.publish_once() == 0
        assert await parts.checkpoints.latest((await parts.log()).log_id) is None


async def test_without_vault_entries_are_taken_and_signed_later(fresh_database: FreshDatabase) -> None:
    class Sealed(LocalLogSigner):
        sealed = False

        async def sign_batch(self, messages: Sequence[bytes], version: int) -> list[bytes | None]:
            if self.sealed:
                raise SealUnavailable
            return await super().sign_batch(messages, version)

    signer = Sealed()
    async with replica(fresh_database("audit"), signer) as parts:
        signer.sealed = True
        await grow(parts, 0, 3)
        stopping = asyncio.Event()
        task = asyncio.create_task(parts.publisher.run(stopping))
        await asyncio.sleep(0.25)
        assert not task.done()
        signer.sealed = False
        log = await parts.log()
        async with asyncio.timeout(5):
            while parts.heads.get(log.log_id) is None:
                await asyncio.sleep(0.02)
        stopping.set()
        await task
        assert (await latest(parts)).size == 4


async def test_the_root_that_is_signed_is_that_of_the_bytes(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        await grow(parts, 0, 40)
        await parts.publisher.publish_once()
        log = await parts.log()
        rows = await parts.reader.page(log.log_id, 0, 100)
        assert (await latest(parts)).root == root_of(row.leaf_hash for row in rows)
        assert all(parse(row.entry) for row in rows)


async def test_an_idle_log_gets_a_heartbeat_and_a_new_checkpoint(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        await grow(parts, 0, 1)
        await parts.publisher.publish_once()
        assert await parts.publisher.publish_once() == 0
        parts.publisher.heartbeat_ms = 0
        await parts.publisher.publish_once()
        parts.publisher.heartbeat_ms = 3_600_000
        assert await parts.publisher.publish_once() == 1
        log = await parts.log()
        (last,) = await parts.reader.page(log.log_id, 2, 10)
        assert (await latest(parts)).size == 3
    beat = parse(last.entry)
    assert (beat.type, beat.data, beat.producer) == ("log.heartbeat", {"size": 2}, "audit")
