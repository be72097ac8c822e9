"""Appending on real PostgreSQL: races, retries, poison, rights. Every log is re-derived from its bytes at the end."""

import asyncio
import time
from collections.abc import Sequence
from datetime import date
from typing import Any

import asyncpg
import pytest

from counterseal.errors import (
    EnvironmentMismatch,
    IdempotencyKeyReused,
    InputInvalid,
    LogForked,
    LogFrozen,
    PeerNotAllowed,
    QueueFull,
    ServiceError,
)
from counterseal.ids import new_id
from counterseal.ledger import entry as entries
from counterseal.ledger.tree import Frontier, leaf_hash
from counterseal_audit.append import store
from counterseal_audit.append.engine import Prepared, SealedPayload, Step, step
from counterseal_audit.append.mac import HeadMac
from counterseal_audit.append.store import LOCK_MS, AppendStore, _joined
from counterseal_audit.append.writer import LOCKED_ENTRIES, LOCKED_FLUSHES, QUEUE_ENTRIES, LogWriter, Receipt
from counterseal_audit.database import connection, transaction, unsafe_settings
from support.audit import Replica, append, append_one, replica, stored
from support.entries import changed, received
from support.postgres import PARTS, FreshDatabase
from support.requirements import requirement


async def test_a_log_starts_with_its_genesis_entry(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        receipt = await append_one(parts, changed())
        log = await parts.log()
    assert receipt.index == 1
    genesis, _ = await stored(database)
    parsed = entries.parse(genesis)
    assert parsed.type == "log.genesis"
    assert parsed.data == {"vkey": log.vkey, "shard": 0}
    assert "acme" not in log.origin, "witnesses see the origin"


async def test_two_replicas_that_create_a_log_at_once_make_one(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as one, replica(database) as two:
        await asyncio.gather(append_one(one, changed()), append_one(two, changed(seq=2)))
    assert len(await stored(database)) == 3


async def test_many_logs_are_each_made_once_by_two_replicas(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    tenants = [f"tenant-{number}" for number in range(60)]
    async with replica(database) as one, replica(database) as two:
        for tenant in tenants:
            made = await asyncio.gather(one.ledger.open(tenant), two.ledger.open(tenant))
            assert made[0][0] == made[1][0]


async def test_replicas_racing_on_one_log_lose_nothing_and_repeat_nothing(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as one, replica(database) as two, replica(database) as three:
        replicas = (one, two, three)
        requests = [changed(stream=f"plan:{n}") for n in range(600)]

        async def client(number: int) -> list[Receipt]:
            return [await append_one(replicas[number % 3], request) for request in requests[number::12]]

        receipts = [r for group in await asyncio.gather(*(client(n) for n in range(12))) for r in group]
    logged = await stored(database)
    assert len(logged) == 601
    assert sorted(receipt.index for receipt in receipts) == list(range(1, 601))
    assert all(logged[receipt.index] == receipt.entry for receipt in receipts)


class Unlucky(AppendStore):
    """Somebody else is faster as often as it is told."""

    def __init__(self, own: Replica, other: Replica, losses: int) -> None:
        super().__init__(own.engine)
        self._other, self._losses = other, losses
        self.tries: list[str] = []

    async def append(self, log_id: int, wanted: object, batch: Sequence[Prepared], written: object) -> bool:
        if self._losses:
            self._losses -= 1
            await append_one(self._other, changed(stream=f"plan:{new_id()}"))
        self.tries.append("race")
        return await super().append(log_id, wanted, batch, written)  # type: ignore[arg-type]

    async def append_locked(self, *args: object) -> object:  # type: ignore[override]
        self.tries.append("lock")
        return await super().append_locked(*args)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("count", "losses", "tries"),
    [
        (1, 2, ["race"] * 3 + ["race"] * (LOCKED_FLUSHES + 1)),
        (1, 9, ["race"] * 3 + ["lock"] + ["race"] * (LOCKED_FLUSHES + 1)),
        (LOCKED_ENTRIES, 1, ["race"] + ["lock"] * LOCKED_FLUSHES + ["race"] * 2),
    ],
    ids=["small batches race", "and lock after the third loss", "large ones lock for a while"],
)
async def test_a_writer_that_others_are_faster_than_locks_the_head(
    fresh_database: FreshDatabase, count: int, losses: int, tries: list[str]
) -> None:
    database = fresh_database("audit")
    async with replica(database) as fast, replica(database) as slow:
        await append_one(fast, changed())
        log = await slow.log()
        store = Unlucky(slow, fast, min(losses, 3))
        writer = LogWriter(log.log_id, store, await slow.ledger.mac_of(log))
        before = 2 + min(losses, 3)
        for number in range(LOCKED_FLUSHES + 2):
            entries = [changed(stream=f"plan:slow-{number}-{n}") for n in range(count)]
            futures = writer.submit([await slow.ledger._prepare(entry, "executor") for entry in entries])
            receipts = await asyncio.gather(*futures)
            assert [receipt.index for receipt in receipts] == list(range(before, before + count))
            before += count
        assert store.tries == tries
    await stored(database)


async def test_a_process_that_stands_still_with_the_head_locked_does_not_keep_it(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as one:
        await append_one(one, changed())
        log = await one.log()
        made: list[int] = []

        class Still(LogWriter):
            def _step(self, frontier: Frontier, items: Sequence[Prepared]) -> Step:
                made.append(frontier.size)
                if len(made) == 1:
                    time.sleep(LOCK_MS / 1000 + 0.5)  # the whole process, as if stopped
                return super()._step(frontier, items)

        writer = Still(log.log_id, one.ledger._store, await one.ledger.mac_of(log))
        writer._locking = LOCKED_FLUSHES
        entries = [changed(stream=f"plan:still-{n}") for n in range(LOCKED_ENTRIES)]
        items = [await one.ledger._prepare(entry, "executor") for entry in entries]
        assert (await writer.submit(items)[0]).index == 2
        assert made == [2, 2], "the database ended the first transaction"
    assert len(await stored(database)) == 2 + LOCKED_ENTRIES


async def test_a_replica_goes_on_while_another_stands_still_with_the_head_locked(
    fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = fresh_database("audit")
    async with replica(database) as stopped, replica(database) as other:
        await append_one(stopped, changed())
        await append_one(other, changed(stream="plan:other"))
        log, locked, real, stopping = await stopped.log(), asyncio.Event(), store._append, [True]

        async def stop_here(*args: Any, **options: Any) -> bool:
            if stopping:
                stopping.clear()
                locked.set()
                await asyncio.Event().wait()
            return await real(*args, **options)

        monkeypatch.setattr(store, "_append", stop_here)
        writer = LogWriter(log.log_id, stopped.ledger._store, await stopped.ledger.mac_of(log))
        writer._locking = LOCKED_FLUSHES
        entries = [changed(stream=f"plan:still-{n}") for n in range(LOCKED_ENTRIES)]
        writer.submit([await stopped.ledger._prepare(entry, "executor") for entry in entries])
        await locked.wait()
        async with asyncio.timeout(5 * LOCK_MS / 1000):
            assert (await append_one(other, changed(stream="plan:waits"))).index == 3
        assert writer._flushing is not None
        writer._flushing.cancel()
    assert len(await stored(database)) == 4, "what the stopped one had not written is not there"


async def test_a_transaction_that_fails_leaves_its_connection_outside_of_one(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts, connection(parts.engine) as raw:

        async def fail() -> None:
            async with transaction(raw, "BEGIN"):
                assert raw.is_in_transaction()
                await raw.execute("SELECT 1 / 0")

        with pytest.raises(asyncpg.DivisionByZeroError):
            await fail()
        assert not raw.is_in_transaction()
        async with transaction(raw, "BEGIN"):
            assert await raw.fetchval("SELECT 1") == 1
        assert not raw.is_in_transaction()


async def test_a_retry_gets_the_same_index_and_other_content_is_refused(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as one, replica(database) as two:
        request = received()
        first = await append_one(one, request)
        again = await append_one(two, request)
        assert (again.index, again.entry, again.duplicate) == (first.index, first.entry, True)
        other = received(event_id=request.event_id, subject="user:olga")
        with pytest.raises(IdempotencyKeyReused):
            await append_one(one, other)
        resealed = received(event_id=request.event_id)  # the same words under a fresh salt
        with pytest.raises(IdempotencyKeyReused):
            await append_one(two, resealed)
    assert len(await stored(database)) == 2


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The event ids for which an operator is woken: lines of level CRITICAL, as of a fork."""
    return [record.event_id for record in caplog.records if record.levelname == "CRITICAL"]  # type: ignore[attr-defined]


@requirement("ledger:one-entry-per-event")
async def test_many_concurrent_retries_of_one_entry_are_one_entry(
    fresh_database: FreshDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    database = fresh_database("audit")
    async with replica(database) as one, replica(database) as two:
        request = changed()
        work = (append_one(replicas, request) for _ in range(500) for replicas in (one, two))
        receipts = await asyncio.gather(*work)
        assert alarms(caplog) == [], "retries are no reason for an alarm"
        for replicas in (one, two):
            with pytest.raises(IdempotencyKeyReused):
                await append_one(replicas, changed(seq=99, event_id=request.event_id))
    assert alarms(caplog) == [request.event_id] * 2
    assert len(receipts) == 1000
    assert {receipt.index for receipt in receipts} == {1}
    assert sum(not receipt.duplicate for receipt in receipts) == 1
    assert len(await stored(database)) == 2


@requirement("ledger:one-entry-per-event")
async def test_the_same_id_twice_in_one_batch_is_one_entry(
    fresh_database: FreshDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        request = changed()
        other = changed(seq=7, event_id=request.event_id)
        first, again, refused = await append(parts, [request, request, other])
    assert isinstance(first, Receipt)
    assert isinstance(again, Receipt)
    assert (again.index, again.duplicate) == (first.index, True)
    assert isinstance(refused, IdempotencyKeyReused)
    assert alarms(caplog) == [request.event_id]
    assert len(await stored(database)) == 2


@requirement("ledger:one-entry-per-event")
async def test_a_misused_id_in_front_of_an_honest_retry_refuses_the_misuse_alone(
    fresh_database: FreshDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """Both come in one batch, and which of them is the stored one only the log says."""
    database = fresh_database("audit")
    async with replica(database) as parts:
        honest = changed()
        stored_first = await append_one(parts, honest)
        other, another = (changed(seq=n, event_id=honest.event_id) for n in (7, 8))
        answers = await append(parts, [other, honest, another, other, honest])
    for misuse in (0, 2, 3):
        assert isinstance(answers[misuse], IdempotencyKeyReused)
    for retry in (1, 4):
        receipt = answers[retry]
        assert isinstance(receipt, Receipt)
        assert (receipt.index, receipt.entry, receipt.duplicate) == (stored_first.index, stored_first.entry, True)
    assert set(alarms(caplog)) == {honest.event_id}
    assert len(await stored(database)) == 2


async def test_known_entries_in_a_batch_do_not_hold_up_new_ones(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        old = [changed(stream=f"plan:{n}") for n in range(10)]
        await append(parts, old[::2])
        answers = await append(parts, old)
    assert [isinstance(a, Receipt) and a.duplicate for a in answers] == [True, False] * 5
    assert len(await stored(database)) == 11


async def test_a_poison_entry_is_refused_alone(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, changed(stream="plan:0"))
        writer = await parts.writer()
        items = [await parts.ledger._prepare(changed(stream=f"plan:{n}"), "executor") for n in range(1, 30)]
        poisons = (
            Prepared("not-a-uuid", b"r" * 32, b"l" * 32, b"{}"),
            Prepared(new_id(), b"short", b"l" * 32, b"{}"),
            Prepared(new_id(), b"r" * 32, b"l" * 32, b"x" * 20_000),
        )
        futures = writer.submit([*items[:9], poisons[0], *items[9:14], poisons[1], poisons[2], *items[14:]])
        answers = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(a) for a in answers].count(Receipt) == 29
    assert [type(a) for a in answers].count(InputInvalid) == 3
    assert len(await stored(database)) == 31


async def test_an_entry_is_answered_before_its_connection_goes_back(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        await append(parts, [changed()])
        pool: Any = parts.engine.pool
        for n in range(3):
            (answer,) = await parts.ledger.submit([changed(stream=f"plan:{n}")], "executor")
            assert not isinstance(answer, ServiceError)
            await answer
            assert pool.checkedout() == 1
            await parts.ledger.settled()
            assert pool.checkedout() == 0


async def test_a_caller_that_goes_away_cancels_nothing(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, changed(stream="plan:0"))
        writer = await parts.writer()
        items = [await parts.ledger._prepare(changed(stream=f"plan:{n}"), "executor") for n in range(1, 20)]
        futures = writer.submit(items)
        for future in futures[::2]:
            future.cancel()
        await asyncio.gather(*futures, return_exceptions=True)
        await writer.settled()
    assert len(await stored(database)) == 21


async def test_the_queue_is_bounded(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        writer = await parts.writer()
        with pytest.raises(QueueFull) as caught:
            writer.check_room(QUEUE_ENTRIES + 1, 1)
        assert caught.value.retry_after_ms
        with pytest.raises(QueueFull):
            writer.check_room(1, 9 << 20)


@pytest.mark.parametrize("heard", [False, True], ids=["before the answer", "while the connection is given back"])
async def test_a_connection_lost_at_the_commit_is_answered_exactly(fresh_database: FreshDatabase, heard: bool) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, changed(stream="plan:0"))
        log = await parts.log()

        class Cut(AppendStore):
            cuts = 1

            async def append(self, log_id: int, wanted: object, batch: Sequence[Prepared], written: object) -> bool:
                told = written if heard or not self.cuts else lambda: None
                done = await super().append(log_id, wanted, batch, told)  # type: ignore[arg-type]
                if self.cuts:
                    self.cuts -= 1
                    raise asyncpg.ConnectionDoesNotExistError("the answer to COMMIT was lost")
                return done

        writer = LogWriter(log.log_id, Cut(parts.engine), await parts.ledger.mac_of(log))
        item = await parts.ledger._prepare(changed(stream="plan:1"), "executor")
        receipt = await writer.submit([item])[0]
        assert receipt.index == 2
        await writer.settled()
        after = await parts.ledger._prepare(changed(stream="plan:2"), "executor")
        assert (await writer.submit([after])[0]).index == 3
        await writer.settled()
    assert len(await stored(database)) == 4


async def test_a_connection_that_the_server_ended_does_not_stay_in_the_pool(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, changed())
        admin = await asyncpg.connect(database.admin_dsn)
        async with connection(parts.engine) as raw:
            pid = raw.get_server_pid()
        assert await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
        await admin.close()
        for seq in range(5):
            await append_one(parts, changed(stream=f"plan:after-{seq}"))
        async with connection(parts.engine) as raw:
            assert raw.get_server_pid() != pid


def test_hashes_that_are_not_hashes_are_not_joined() -> None:
    assert _joined([b"a" * 32, b"b" * 32]) == b"a" * 32 + b"b" * 32
    for bad in ([b"a" * 31], [b"a" * 31, b"b" * 33]):
        with pytest.raises(ValueError, match="length"):
            _joined(bad)


async def test_a_closed_log_refuses(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, changed())
        log = await parts.log()
        closed = (await parts.ledger.mac_of(log)).of((await parts.ledger.head(log)).frontier, is_open=False)
        admin = await asyncpg.connect(database.admin_dsn)
        await admin.execute("UPDATE ledger_head SET open = false, mac = $1", closed)
        await admin.close()
        with pytest.raises(LogFrozen):
            await append_one(parts, changed(seq=2))


FLIP = "set_byte({0}, {1}, get_byte({0}, {1}) # 1)"
FORGED_HEADS = {
    "the MAC altered": f"UPDATE ledger_head SET mac = {FLIP.format('mac', 5)}",
    "the MAC removed": "UPDATE ledger_head SET mac = NULL",
    "closed by hand": "UPDATE ledger_head SET open = false",
    "another tenant's whole head row": """
        UPDATE ledger_head h SET (size, frontier, root, mac) = (o.size, o.frontier, o.root, o.mac)
        FROM ledger_head o WHERE o.log_id <> h.log_id""",
    "root and frontier of other leaves": f"UPDATE ledger_head SET root = {FLIP.format('root', 3)}",
}


@requirement("ledger:append-only")
@pytest.mark.parametrize("statement", list(FORGED_HEADS.values()), ids=list(FORGED_HEADS))
async def test_nothing_is_appended_behind_a_head_that_no_replica_wrote(
    fresh_database: FreshDatabase, statement: str
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, changed())
        await append_one(parts, changed(tenant="globex"))
    admin = await asyncpg.connect(database.admin_dsn)
    await admin.execute(statement)
    async with replica(database) as fresh:  # another process, without the frontier in memory
        with pytest.raises(LogForked):
            await append_one(fresh, changed(seq=2))
        assert await fresh.publisher.publish_once() <= 1
    assert await admin.fetchval("SELECT count(*) FROM ledger_entry") == 4
    await admin.close()


async def test_payloads_are_written_by_the_statement_that_writes_their_entries(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, changed())
        items = [await parts.ledger._prepare(changed(stream=f"plan:{n}"), "executor") for n in range(3)]
        key = (await parts.keys.live(await parts.log(), "")).dek_id
        sealed = tuple(SealedPayload(n, date(2027, 1, 31), key, b"c%d" % n, held=False) for n in range(2))
        items[1] = items[1]._replace(payload=sealed)
        items[2] = items[2]._replace(payload=(SealedPayload(0, None, key, b"forever", held=True),))
        receipts = await asyncio.gather(*(await parts.writer()).submit(items))
    admin = await asyncpg.connect(database.admin_dsn)
    rows = await admin.fetch("SELECT idx, ord, due_on, held, dek_id, ciphertext FROM ledger_payload ORDER BY idx, ord")
    assert [tuple(row) for row in rows] == [
        (receipts[1].index, 0, date(2027, 1, 31), False, key, b"c0"),
        (receipts[1].index, 1, date(2027, 1, 31), False, key, b"c1"),
        (receipts[2].index, 0, None, True, key, b"forever"),
    ]
    await admin.close()
    await stored(database)


@requirement("ledger:append-only")
async def test_a_head_that_went_back_is_a_fork_and_nothing_more_is_appended(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, changed())
        admin = await asyncpg.connect(database.admin_dsn)
        old = await admin.fetchrow("SELECT size, frontier, root FROM ledger_head")
        await append_one(parts, changed(seq=2))
        await admin.execute(
            "UPDATE ledger_head SET size = $1, frontier = $2, root = $3", old["size"], old["frontier"], old["root"]
        )
        with pytest.raises(LogForked):
            await append_one(parts, changed(seq=3))
        with pytest.raises(LogForked):
            await append_one(parts, changed(seq=4))
        assert await admin.fetchval("SELECT count(*) FROM ledger_entry") == 3
        await admin.close()


@pytest.mark.parametrize(
    ("request_", "producer", "error"),
    [
        (changed, "policy", PeerNotAllowed),
        (lambda: changed(environment="staging"), "executor", EnvironmentMismatch),
        (lambda: changed(tenant="initech"), "executor", InputInvalid),
        (lambda: changed(tenant="acme-" + "x" * 50), "executor", InputInvalid),
    ],
)
async def test_what_may_not_be_written_leaves_no_trace(
    fresh_database: FreshDatabase, request_: object, producer: str, error: type[ServiceError]
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        with pytest.raises(error):
            await append_one(parts, request_(), producer)  # type: ignore[operator]
    admin = await asyncpg.connect(database.admin_dsn)
    assert await admin.fetchval("SELECT count(*) FROM ledger_entry") == 0
    await admin.close()


@requirement("ledger:record-holds")
async def test_a_producer_cannot_write_the_logs_own_types(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        request = changed()
        request.event.log_heartbeat.size = 1
        request.plan_digest = ""
        with pytest.raises(PeerNotAllowed):
            await append_one(parts, request)


async def test_a_person_has_one_pseudonym_on_every_replica_and_another_at_another_tenant(
    fresh_database: FreshDatabase,
) -> None:
    database = fresh_database("audit")
    async with replica(database) as one, replica(database) as two:
        receipts = await asyncio.gather(
            append_one(one, received()), append_one(two, received()), append_one(two, received(tenant="globex"))
        )
    subjects = [entries.parse(receipt.entry).document["subject"] for receipt in receipts]
    assert subjects[0] == subjects[1] != subjects[2]
    assert not any(b"ana" in receipt.entry for receipt in receipts)


APPEND_ONLY = ("ledger_log", "ledger_entry", "ledger_node", "ledger_checkpoint", "ledger_secret")


@requirement("ledger:append-only")
async def test_the_runtime_role_can_change_or_remove_no_row_of_the_ledger(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, changed())
    admin = await asyncpg.connect(database.dsn)
    partition = "ledger_entry_0"
    for table in (*APPEND_ONLY, partition):
        for statement in (f"UPDATE {table} SET ctid = ctid", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError)):
                await admin.execute(statement)
    for statement in (
        f"SELECT FROM {partition}",
        f"INSERT INTO {partition} DEFAULT VALUES",
        "UPDATE ledger_entry SET entry = ''",
        "UPDATE ledger_head SET open = true",
        "DELETE FROM ledger_head",
        "ALTER TABLE ledger_entry DISABLE TRIGGER ALL",
        "DROP TABLE ledger_node",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await admin.execute(statement)
    await admin.close()


async def test_not_even_the_owner_changes_rows_by_accident_also_not_in_a_partition(
    fresh_database: FreshDatabase,
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, changed())
    admin = await asyncpg.connect(database.admin_dsn)
    names = [row[0] for row in await admin.fetch("SELECT relname FROM pg_class WHERE relname ~ '^ledger_entry_\\d$'")]
    assert len(names) == 8
    for table in ("ledger_entry", *names):
        for statement in (f"TRUNCATE {table}",):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await admin.execute(statement)
    (full,) = [name for name in names if await admin.fetchval(f"SELECT count(*) FROM {name}")]
    for table in ("ledger_entry", full):
        for statement in (f"UPDATE {table} SET entry = entry", f"DELETE FROM {table}"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await admin.execute(statement)
    await admin.close()


@requirement("tenant:isolated")
async def test_no_role_of_the_service_reaches_a_partition_past_the_policy_of_its_table(
    fresh_database: FreshDatabase,
) -> None:
    """Row-level security on a partitioned table does not bind a partition that has a grant of its own: none has."""
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append(parts, [changed(), changed(tenant="globex")])
    runtime = await asyncpg.connect(database.dsn)
    partitions = await runtime.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
        " WHERE relkind = 'r' ORDER BY 1"
    )
    assert len(partitions) == 8
    for role in ("counterseal_audit", *PARTS["audit"]):
        await runtime.execute(f"SET ROLE {role}")
        for (name,) in partitions:
            for statement in (f"SELECT FROM {name}", f"DELETE FROM {name}", f"INSERT INTO {name} DEFAULT VALUES"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await runtime.execute(statement)
    await runtime.close()


async def test_a_reader_sees_the_rows_of_the_log_it_names_and_no_setting_outlives_the_transaction(
    fresh_database: FreshDatabase,
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append(parts, [changed(), changed(tenant="globex")])
        acme = await parts.log()
    admin = await asyncpg.connect(database.dsn)
    assert await admin.fetchval("SELECT count(*) FROM ledger_entry") == 0
    async with admin.transaction():
        await admin.execute("SELECT set_config('counterseal.log_id', $1, true)", str(acme.log_id))
        rows = await admin.fetch("SELECT DISTINCT log_id FROM ledger_entry")
    assert [row[0] for row in rows] == [acme.log_id]
    assert await admin.fetchval("SELECT count(*) FROM ledger_entry") == 0
    await admin.close()


async def test_one_statement_writes_a_batch_and_its_nodes(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        requests = [changed(stream=f"plan:{n}") for n in range(1500)]
        await append(parts, requests)
    assert len(await stored(database)) == 1501


async def test_settings_that_lose_commits_are_named(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        assert set(await unsafe_settings(parts.engine)) == {"fsync", "full_page_writes", "synchronous_commit"}


def test_a_step_is_the_tree_after_the_batch() -> None:
    items = [Prepared(str(n), b"", leaf_hash(b"%d" % n), b"") for n in range(300)]
    mac = HeadMac(b"k" * 32, "example.org/log")
    first = step(Frontier(), items[:200], mac.of)
    second = step(first.after, items[200:], mac.of)
    assert second.after == Frontier().extend(item.leaf_hash for item in items)
    assert second.mac == mac.of(second.after) != mac.of(second.after, is_open=False)
    assert [(node.level, node.n) for node in second.nodes] == [(1, 0)]
