"""Erasing one person of many on real PostgreSQL: what goes, what stays, what a crash leaves, what the files hold."""

import asyncio
import hashlib
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.canonical import digest_of, media_type, pae, parse_strict
from counterseal.errors import SealUnavailable
from counterseal.ids import new_id
from counterseal.ledger import disclosure
from counterseal.ledger import entry as entries
from counterseal.rpc.ledger_wire import new_entry
from counterseal_audit.retention import job_store, payload_store
from counterseal_audit.retention.database import retaining, see, transaction
from counterseal_audit.retention.engine import State
from support.audit import LocalSealer, append, append_one, replica, stored
from support.entries import DIGEST, NOW, changed
from support.erasing import checked, finish, order, person, state
from support.payloads import admin, asked, opened, report, search
from support.postgres import FreshDatabase
from support.requirements import requirement


@requirement("payload:sealed-or-refused")
async def test_sealed_fields_are_stored_encrypted_and_open_again(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        receipt = await append_one(parts, asked("user:ana", "give me my money back"))
        assert await opened(parts, receipt.index) == {
            "user_request": "give me my money back",
            "prompt": "kcab yenom ym em evig",
        }
    document = entries.parse(receipt.entry).document
    rows = await admin(database, "SELECT dek_id::text, ciphertext FROM ledger_payload ORDER BY ord")
    assert document["srv"]["dek"] == [rows[0]["dek_id"]]
    assert all(b"money" not in row["ciphertext"] for row in rows)
    ((wrapped,),) = await admin(database, "SELECT wrapped FROM ledger_dek")
    assert wrapped


@requirement("payload:sealed-or-refused")
async def test_no_key_to_be_had_refuses_the_entry_and_stores_nothing(fresh_database: FreshDatabase) -> None:
    class Away(LocalSealer):
        away = False

        async def new_key(self, tenant: str) -> tuple[bytes, str]:
            if self.away:
                raise SealUnavailable
            return await super().new_key(tenant)

    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, asked("user:ana", "one"))
        sealer = Away()
        sealer.away = True
        parts.keys._sealer = sealer
        with pytest.raises(SealUnavailable):
            await append_one(parts, asked("user:new", "nothing was made ahead yet"))
        await append_one(parts, asked("user:ana", "a known person's key is at hand"))
        await append_one(parts, changed())
    assert len(await stored(database)) == 4


async def test_keys_are_made_ahead_off_the_append_path(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        await append_one(parts, asked("user:ana", "one"))
        await parts.keys.fill()

        async def away(tenant: str) -> tuple[bytes, str]:
            raise SealUnavailable

        parts.keys._sealer.new_key = away  # type: ignore[method-assign]
        for n in range(16):
            await append_one(parts, asked(f"user:new{n}", "from the pool"))
        with pytest.raises(SealUnavailable):
            await append_one(parts, asked("user:one-too-many", "dry"))


async def test_two_replicas_make_one_key_of_a_person(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as one, replica(database) as two:
        await append_one(one, changed())
        await append_one(two, changed(seq=2))
        await asyncio.gather(*(append_one(parts, asked("user:ana", "x")) for parts in (one, two) for _ in range(5)))
        assert [await opened(two, n) for n in (3, 12)] == [{"user_request": "x", "prompt": "x"}] * 2
    assert [tuple(row) for row in await admin(database, "SELECT count(*) FROM ledger_dek")] == [(1,)]


@requirement("erasure:complete")
async def test_one_of_a_hundred_people_is_erased_and_the_others_stay_readable(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        people = [f"user:p{n}" for n in range(100)]
        before = await append(parts, [asked(name, f"secret of {name}") for name in people])
        await admin(database, "ANALYZE")  # as autovacuum does: statistics must not keep keys or payloads
        roots = await admin(database, "SELECT size, root FROM ledger_head")
        rows = await admin(database, "SELECT ciphertext FROM ledger_payload WHERE idx = 42 ORDER BY ord")
        ((wrapped, dek),) = await admin(
            database, "SELECT wrapped, dek_id::text FROM ledger_dek WHERE subject = $1", await person(parts, "user:p41")
        )
        job = await order(parts, "user:p41")
        done = await finish(parts, job.job_id)
        assert done.state is State.FINISHED
        assert (done.count, done.deks) == (2, (dek,))
        assert await opened(parts, 42) == {}
        others = [receipt.index for receipt in before if receipt.index != 42]  # type: ignore[union-attr]
        assert all([(await opened(parts, index))["user_request"].startswith("secret of") for index in others])
        intact, declared, findings = await checked(parts)
        assert (declared, findings) == (2, [])
        assert intact == 2 * 99 + 1, "the order's own statement is sealed too"
    assert len(await stored(database)) == 101 + 1 + 4, "and every leaf and node is what the bytes say"
    assert roots[0]["size"] == 101
    await admin(database, "VACUUM ledger_payload")
    readable = {
        "in the clear": b"secret of user:p41",
        "in base64": disclosure.make("user_request", "secret of user:p41", lambda n: b"\0" * n)[40:60].encode(),
    }
    # A page that was compacted keeps parts of what lay there: any piece of the key counts.
    key = {f"key at {n}": wrapped[n : n + 16].encode() for n in range(0, len(wrapped) - 16, 16)}
    live = await search(database, readable | key)
    assert {name: files for name, files in live.items() if files} == {}
    log = await search(database, readable | key, wal=True)
    assert (log["in the clear"], log["in base64"]) == ([], [])
    assert log["key at 0"], "the write-ahead log keeps what was written until it is recycled: docs/erasure.md"
    # What is left of the rows in free space is ciphertext without a key; written anew, not even that.
    await admin(database, "VACUUM FULL ledger_payload")
    pieces = {
        f"row {row}, at {n}": data[n : n + 16]
        for row, data in enumerate(row["ciphertext"] for row in rows)
        for n in range(0, len(data) - 16, 16)
    }
    live = await search(database, pieces)
    assert {name: files for name, files in live.items() if files} == {}


@requirement("erasure:unguessable")
async def test_a_dictionary_finds_nothing_once_the_salt_is_gone(fresh_database: FreshDatabase) -> None:
    secret = "lawsuit"
    async with replica(fresh_database("audit")) as parts:
        request = asked("user:ana", secret)
        receipt = await append_one(parts, request)
        await finish(parts, (await order(parts)).job_id)
        row = await parts.reader.by_index((await parts.log()).log_id, receipt.index)
        assert row is not None
    document = parse_strict(row.entry)
    digests = {row.leaf_hash.hex(), *document["_sd"], hashlib.sha256(row.entry).hexdigest()}
    content = {name: value for name, value in document.items() if name != "srv"}
    for guess in [secret, secret[::-1], "chargeback", "complaint"]:
        for name in ("user_request", "prompt"):
            for salt in (b"", b"\0" * 16, document["event_id"].encode(), document["subject"].encode()[:16]):
                made = disclosure.make(name, guess, lambda _n, salt=salt: salt.ljust(16, b"\0"))  # type: ignore[misc]
                assert disclosure.digest(made) not in digests
        for bare in (guess, f'"{guess}"', f'{{"v":"{guess}"}}'):
            assert hashlib.sha256(bare.encode()).hexdigest() not in digests
            assert digest_of("rationale", {"v": guess}) not in row.entry.decode()
        # The digest that makes an append idempotent covers `_sd` and no value: another value with it is the same hash.
        assert guess.encode() not in pae(media_type("append-request"), entries.encode(content))
    # Positive control: with the salt at hand, the same attack finds the value.
    digest_by_salt = {disclosure.digest(one) for one in request.disclosures}
    assert digest_by_salt == set(document["_sd"])


@requirement("erasure:finishes-after-a-crash")
async def test_a_job_goes_on_in_another_process_wherever_the_first_one_died(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        for n in range(6):
            await append_one(parts, asked("user:ana", f"secret {n}"))
            await append_one(parts, asked("user:bob", f"other {n}"))
        job = await order(parts)
    states = []
    for _ in range(40):  # a new process for every single step
        async with replica(database) as parts:
            eraser = replace(parts.retention.eraser, batch_entries=5)
            more = await eraser.step(job.job_id)
            states.append((await state(parts, job.job_id)).state)
            if not more and states[-1] is State.WAITING:
                await report(parts, job.job_id)
        if states[-1] is State.FINISHED:
            break
    assert list(dict.fromkeys(states)) == [
        State.ERASING,
        State.WAITING,
        State.SWEEPING,
        State.FINISHED,
    ]
    async with replica(database) as parts:
        assert (await state(parts, job.job_id)).count == 12
        assert await opened(parts, 1) == {}
        assert await opened(parts, 2) != {}
        assert (await checked(parts))[2] == []
    types = [entries.parse(data).type for data in await stored(database)]
    assert types.count("erasure.ordered") == 1
    assert types.count("payload.erased") == 4


class Dies(Exception):
    """The process ends here."""


@pytest.mark.parametrize("place", ["destroy_keys", "delete_payload", "set_job", "set_range", "scrub_keys"])
@requirement("erasure:finishes-after-a-crash")
async def test_a_crash_inside_a_step_leaves_it_undone_or_done(
    fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, asked("user:ana", "secret"))
        job = await order(parts)
        module = payload_store if hasattr(payload_store, place) else job_store
        real = getattr(module, place)
        calls = 0

        async def dies(*args: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            result = await real(*args, **more)
            if calls == 1:
                raise Dies
            return result

        monkeypatch.setattr(module, place, dies)
        with pytest.raises(Dies):
            await parts.retention.eraser.advance(job.job_id)
    async with replica(database) as parts:
        done = await finish(parts, job.job_id)
        assert (done.state, done.count) == (State.FINISHED, 2)
        assert await opened(parts, 1) == {}
        assert (await checked(parts))[2] == []
    assert await admin(database, "SELECT 1 FROM ledger_dek WHERE wrapped IS NOT NULL AND subject <> ''") == []


@requirement("erasure:complete")
async def test_nothing_is_sealed_with_a_destroyed_key_by_a_replica_that_has_it_in_memory(
    fresh_database: FreshDatabase,
) -> None:
    database = fresh_database("audit")
    async with replica(database) as one, replica(database) as two:
        await append_one(one, asked("user:ana", "before"))
        await append_one(two, asked("user:ana", "before"))
        job = await order(one)
        await one.retention.eraser.advance(job.job_id)
        answers = await append(two, [changed(stream="plan:x"), asked("user:ana", "after"), changed(stream="plan:y")])
        assert [type(answer).__name__ for answer in answers] == ["Receipt", "SealUnavailable", "Receipt"]
        await two.keys.look()
        receipt = await append_one(two, asked("user:ana", "after"))
        assert await opened(one, receipt.index) == {"user_request": "after", "prompt": "retfa"}


@requirement("erasure:complete")
async def test_a_destroyed_key_is_in_no_live_file_at_once(fresh_database: FreshDatabase) -> None:
    """Before anything else touches its page: PostgreSQL would leave the old row in it."""
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, asked("user:ana", "secret"))
        job = await order(parts)
        ((wrapped,),) = await admin(database, "SELECT wrapped FROM ledger_dek WHERE subject <> ''")
        key = {f"key at {n}": wrapped[n : n + 16].encode() for n in range(0, len(wrapped) - 16, 16)}
        assert (await search(database, key))["key at 0"], "it is there to be found"
        await parts.retention.eraser.step(job.job_id)
    live = await search(database, key)
    assert {name: files for name, files in live.items() if files} == {}


HOLDERS = {
    "sees the row": ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SELECT 1"),
    "dumps the table": ("BEGIN", "LOCK TABLE ledger_dek IN ACCESS SHARE MODE"),
}


@requirement("erasure:complete")
@pytest.mark.parametrize("holder", HOLDERS)
async def test_nobody_is_told_that_it_is_done_while_a_file_holds_the_key(
    fresh_database: FreshDatabase, holder: str
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        eraser = parts.retention.eraser
        await append_one(parts, asked("user:ana", "secret"))
        job = await order(parts)
        ((wrapped,),) = await admin(database, "SELECT wrapped FROM ledger_dek WHERE subject <> ''")
        key = {"key": wrapped[:32].encode()}
        backup = await asyncpg.connect(database.admin_dsn)
        try:
            for statement in HOLDERS[holder]:
                await backup.execute(statement)
            await eraser.advance(job.job_id)
            assert (await search(database, key))["key"], "the backup's transaction keeps it there"
            assert (await state(parts, job.job_id)).state is State.ERASING
            taken = await append_one(parts, asked("user:bob", "meanwhile"))
            assert await opened(parts, taken.index), "nobody else waits for the backup"
            eraser.scrubber.again_ms.clear()
            await eraser.advance(job.job_id)
            assert (await state(parts, job.job_id)).state is State.ERASING
        finally:
            await backup.close()
        await eraser.advance(job.job_id)
        assert (await state(parts, job.job_id)).state is State.ERASING, "it is not tried again and again"
        eraser.scrubber.again_ms.clear()
        await eraser.advance(job.job_id)
        assert (await state(parts, job.job_id)).state is State.WAITING
        assert (await search(database, key))["key"] == []
        assert (await finish(parts, job.job_id)).state is State.FINISHED


@requirement("erasure:complete")
async def test_keys_are_destroyed_behind_the_appends_that_hold_the_head(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    live = "SELECT 1 FROM ledger_dek WHERE subject <> '' AND destroy_time IS NULL"
    async with replica(database) as parts:
        await append_one(parts, asked("user:ana", "before"))
        job = await order(parts)
        appending = await asyncpg.connect(database.admin_dsn)
        try:
            statement = appending.transaction()
            await statement.start()
            await appending.execute("UPDATE ledger_head SET size = size")  # what every append does first
            erasing = asyncio.create_task(parts.retention.eraser.step(job.job_id))
            async with asyncio.timeout(60):
                while not await admin(database, "SELECT 1 FROM pg_locks WHERE NOT granted"):
                    assert not erasing.done(), "the key was destroyed under an append"
                    await asyncio.sleep(0.02)
            assert await admin(database, live)
            await statement.rollback()
        finally:
            await appending.close()
        await erasing
        assert not await admin(database, live)


@requirement("erasure:complete")
async def test_what_an_outbox_delivers_late_is_erased_before_the_end(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        await append_one(parts, asked("user:ana", "in time"))
        job = await order(parts)
        await parts.retention.eraser.advance(job.job_id)
        assert (await state(parts, job.job_id)).state is State.WAITING
        late = await append_one(parts, asked("user:ana", "happened before the order", event_time_ms=job.order_time_ms))
        new = await append_one(parts, asked("user:ana", "a new request", event_time_ms=job.order_time_ms + 60_000))
        assert await opened(parts, late.index) != {}
        done = await finish(parts, job.job_id)
        assert done.state is State.FINISHED
        assert await opened(parts, late.index) == {}
        assert (await opened(parts, new.index))["user_request"] == "a new request"
        assert (await checked(parts))[2] == []


@requirement("erasure:complete")
async def test_what_a_person_said_goes_with_them_and_what_was_said_about_them_too(
    fresh_database: FreshDatabase,
) -> None:
    def vote(subject: str, approver: str, comment: str) -> ledger_pb2.NewEntry:
        data = {
            "task_id": new_id(),
            "verdict": "reject",
            "approver": approver,
            "card_digest": DIGEST,
            "approval_digest": DIGEST,
            "count": 0,
            "need": 1,
            "expire_time_ms": NOW,
        }
        return new_entry(
            "approval.recorded",
            data,
            event_id=new_id(),
            event_time_ms=NOW,
            tenant="acme",
            environment="prod",
            plan_digest=DIGEST,
            subject=subject,
            sealed={"comment": comment},
        )

    database = fresh_database("audit")
    async with replica(database) as parts:
        ours = await append_one(parts, vote("user:ana", "user:pat", "not for ana"), "policy")
        theirs = await append_one(parts, vote("user:bob", "user:ana", "ana says no"), "policy")
        other = await append_one(parts, vote("user:bob", "user:pat", "pat says no"), "policy")
        await finish(parts, (await order(parts)).job_id)
        assert await opened(parts, ours.index) == await opened(parts, theirs.index) == {}
        assert await opened(parts, other.index) == {"comment": "pat says no"}
        assert (await checked(parts))[2] == []
    left = await admin(database, "SELECT idx FROM ledger_payload WHERE idx <= 3")
    assert [row["idx"] for row in left] == [other.index], "not only unreadable: gone"


@requirement("payload:undeclared-loss-is-found")
@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ("DELETE FROM ledger_payload WHERE idx = 1", "tampered"),
        ("DELETE FROM ledger_payload WHERE idx = 1 AND ord = 1", "tampered"),
        ("UPDATE ledger_payload SET ciphertext = set_byte(ciphertext, 40, get_byte(ciphertext, 40) # 1)", "tampered"),
        ("UPDATE ledger_payload SET ord = 9 - ord", "tampered"),
        ("UPDATE ledger_dek SET wrapped = NULL, destroy_time = now()", "tampered"),
        ("DELETE FROM ledger_dek", "tampered"),
    ],
)
async def test_payload_that_is_gone_or_altered_without_a_declaration_is_found(
    fresh_database: FreshDatabase, damage: str, kind: str
) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, asked("user:ana", "secret"))
        assert await checked(parts) == (2, 0, [])
        await admin(database, damage)
        assert kind in {finding for finding, _ in (await checked(parts))[2]}


@requirement("payload:undeclared-loss-is-found")
async def test_an_erasure_is_incomplete_until_every_service_has_reported(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        await append_one(parts, asked("user:ana", "secret"))
        job = await order(parts)
        assert [kind for kind, _ in (await checked(parts))[2]] == ["incomplete"]
        await parts.retention.eraser.advance(job.job_id)
        await report(parts, job.job_id, "policy", "credentials")
        await parts.retention.eraser.advance(job.job_id)
        assert (await state(parts, job.job_id)).reported == ("audit", "credentials", "policy")
        assert [kind for kind, _ in (await checked(parts))[2]] == ["incomplete"]
        await report(parts, job.job_id, "executor")
        await parts.retention.eraser.advance(job.job_id)
        assert (await state(parts, job.job_id)).state is State.FINISHED
        assert (await checked(parts))[2] == []


async def test_the_same_order_again_is_the_same_job(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        await append_one(parts, asked("user:ana", "secret"))
        first = await order(parts)
        assert (await order(parts)).job_id == first.job_id
        await finish(parts, first.job_id)
        assert (await order(parts)).job_id != first.job_id


async def test_only_the_retention_role_touches_payload_and_keys(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append_one(parts, asked("user:ana", "secret"))
        async with transaction(parts.engine) as conn:
            await see(conn, (await parts.log()).log_id)
            for statement in (
                "DELETE FROM ledger_payload",
                "UPDATE ledger_payload SET held = true",
                "UPDATE ledger_payload SET ciphertext = ''",
                "UPDATE ledger_dek SET wrapped = NULL, destroy_time = now()",
                "DELETE FROM ledger_dek",
                "SELECT ledger_scrub_keys()",
                "TRUNCATE ledger_payload",
            ):
                with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                    async with conn.begin_nested():
                        await conn.execute(sa.text(statement))
            async with retaining(conn):
                for statement in (
                    "UPDATE ledger_payload SET ciphertext = ''",
                    "DELETE FROM ledger_entry",
                    "UPDATE ledger_head SET size = 0",
                    "INSERT INTO ledger_payload (log_id, idx, ord, dek_id, ciphertext) VALUES (1, 9, 9, NULL, '')",
                ):
                    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                        async with conn.begin_nested():
                            await conn.execute(sa.text(statement))
