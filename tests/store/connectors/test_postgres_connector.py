"""The PostgreSQL connector against a real server: exactly what was meant, once, or nothing."""

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from counterseal_executor.connectors.base import (
    Applied,
    Attempt,
    Call,
    Credential,
    Fenced,
    Probe,
    Refused,
    Target,
    TargetError,
    Unknown,
)
from counterseal_executor.connectors.postgres import PostgresConnector
from support.connectors import RecordingFence, attempt, call, tool
from support.pg_proxy import Line, proxy
from support.postgres import FreshDatabase
from support.requirements import requirement

NUMBERS = itertools.count(1)
OBSERVE = "SELECT balance, owner FROM account WHERE id = $1::jsonb ->> 'id'"
BEFORE = "SELECT id, balance FROM account WHERE id = $1::jsonb ->> 'id' FOR UPDATE"
EXECUTE = """UPDATE account SET balance = balance - ($1::jsonb ->> 'amount')::int
 WHERE id = $1::jsonb ->> 'id' RETURNING id, balance"""
VERIFY = """SELECT a.balance = ($2::jsonb #>> '{result,rows,0,balance}')::int AS ok, a.balance FROM account a
 WHERE a.id = $1::jsonb ->> 'id'"""
CONFIG: dict[str, Any] = {
    "observe": {"sql": OBSERVE},
    "before": {"sql": BEFORE},
    "execute": {"sql": EXECUTE, "rows_min": 1, "rows_max": 1},
    "verify": {"sql": VERIFY},
}
ARGS = {"id": "a", "amount": 10}
CONNECTOR = PostgresConnector()


@dataclass
class Bank:
    target: Target
    credential: Credential
    admin: str
    host: str
    port: int

    def call(self, args: Mapping[str, Any] = ARGS, **options: Any) -> Call:
        config = CONFIG | options.pop("config", {})
        effect = options.pop("effect", "E3")
        return call(tool("postgres", config, effect=effect), options.pop("target", self.target), args, **options)

    def at(self, port: int) -> Target:
        return Target("bank", "postgres", dict(self.target.settings) | {"port": port})

    async def balance(self, account: str = "a") -> Any:
        return await self.run(f"SELECT balance FROM account WHERE id = '{account}'")

    async def run(self, sql: str) -> Any:
        connection = await asyncpg.connect(self.admin)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    async def fence_credential(self) -> None:
        """What `verified dead` means here: no session of that login is left."""
        user = self.credential.username
        await self.run(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{user}'")
        async with asyncio.timeout(10):
            while await self.run(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}'"):
                await asyncio.sleep(0.005)


@pytest.fixture
async def bank(fresh_database: FreshDatabase) -> Bank:
    database = fresh_database(None)
    user = f"teller_{next(NUMBERS)}_{database.name}"
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.execute(
        f"""CREATE TABLE account (id text PRIMARY KEY, balance int NOT NULL CHECK (balance >= 0), owner text NOT NULL);
        INSERT INTO account VALUES ('a', 100, 'user:ana'), ('b', 50, 'user:bob');
        CREATE ROLE {user} LOGIN PASSWORD 'correct horse';
        GRANT SELECT, UPDATE, INSERT ON account TO {user}"""
    )
    await connection.close()
    place = urlsplit(database.admin_dsn)
    assert place.hostname
    assert place.port
    settings = {"host": place.hostname, "port": place.port, "database": database.name}
    return Bank(
        Target("bank", "postgres", settings),
        Credential(user, "correct horse"),
        database.admin_dsn,
        place.hostname,
        place.port,
    )


async def test_a_write_returns_its_rows_its_before_image_and_a_marker_that_was_stored_first(bank: Bank) -> None:
    fence = RecordingFence()
    answer = await CONNECTOR.execute(bank.call(), bank.credential, fence)
    assert isinstance(answer, Applied)
    assert answer.output == {"rows": [{"id": "a", "balance": 90}]}
    assert answer.before == [{"id": "a", "balance": 100}]
    assert fence.markers == [answer.marker]
    assert fence.markers[0]["output"] == answer.output
    assert fence.markers[0]["before"] == answer.before
    assert await bank.balance() == 90
    assert await CONNECTOR.probe(attempt(bank.call(), fence), bank.credential) is Probe.APPLIED


@requirement("effect:precondition-inside-the-write")
async def test_what_is_observed_is_compared_again_inside_the_write(bank: Bank) -> None:
    seen = await CONNECTOR.observe(bank.call(), bank.credential)
    assert seen.values == {"balance": 100, "owner": "user:ana"}
    await bank.run("UPDATE account SET owner = 'user:eve' WHERE id = 'a'")
    fence = RecordingFence()
    answer = await CONNECTOR.execute(bank.call(pre=seen.values), bank.credential, fence)
    assert answer == Refused("PRECONDITION_CHANGED", "owner is no longer as it was when the plan was made")
    assert fence.markers == []
    assert await bank.balance() == 100


@requirement("effect:precondition-inside-the-write")
async def test_a_change_that_commits_while_the_write_waits_for_its_lock_is_seen(bank: Bank) -> None:
    rival = await asyncpg.connect(bank.admin)
    transaction = rival.transaction()
    await transaction.start()
    await rival.execute("UPDATE account SET balance = 7 WHERE id = 'a'")
    pre = {"balance": 100, "owner": "user:ana"}
    running = asyncio.create_task(CONNECTOR.execute(bank.call(pre=pre), bank.credential, RecordingFence()))
    async with asyncio.timeout(10):
        while not await bank.run("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            await asyncio.sleep(0.01)
    await transaction.commit()
    await rival.close()
    answer = await running
    assert isinstance(answer, Refused)
    assert answer.error_code == "PRECONDITION_CHANGED"
    assert await bank.balance() == 7


async def test_a_row_that_vanished_meets_no_precondition(bank: Bank) -> None:
    answer = await CONNECTOR.execute(
        bank.call({"id": "nobody", "amount": 1}, pre={"owner": "user:ana"}), bank.credential, RecordingFence()
    )
    assert isinstance(answer, Refused)
    assert answer.error_code == "PRECONDITION_CHANGED"


@pytest.mark.parametrize(
    ("args", "config", "code"),
    [
        ({"id": "nobody", "amount": 1}, {}, "ROWS_MISSING"),
        (
            ARGS,
            {"execute": {"sql": "UPDATE account SET balance = 0 RETURNING id", "rows_min": 1, "rows_max": 1}},
            "ROW_BUDGET",
        ),
        ({"id": "a", "amount": 1000}, {}, "CHECK_VIOLATION"),
        ({"id": "a", "amount": "many"}, {}, "INVALID_TEXT_REPRESENTATION"),
        (
            ARGS,
            {
                "execute": {
                    "sql": "UPDATE account SET balance = 0; UPDATE account SET balance = 1",
                    "rows_min": 0,
                    "rows_max": 9,
                }
            },
            "POSTGRES_SYNTAX",
        ),
        (
            ARGS,
            {
                "execute": {
                    "sql": "UPDATE account SET balance = ($1::jsonb - $2::text)::text::int + $3::int",
                    "rows_min": 0,
                    "rows_max": 9,
                }
            },
            "TOOL_INVALID",
        ),
        (
            ARGS,
            {
                "execute": {
                    "sql": "UPDATE account SET balance = 1 WHERE id = $1::jsonb ->> 'id' RETURNING 0.5::float8 AS f",
                    "rows_min": 1,
                    "rows_max": 1,
                }
            },
            "OUTPUT_INVALID",
        ),
        (ARGS, {"execute": {"sql": "DELETE FROM account", "rows_min": 0, "rows_max": 9}}, "INSUFFICIENT_PRIVILEGE"),
    ],
)
async def test_a_definite_refusal_leaves_everything_as_it_was(
    bank: Bank, args: Mapping[str, Any], config: Mapping[str, Any], code: str
) -> None:
    fence = RecordingFence()
    answer = await CONNECTOR.execute(bank.call(args, config=config), bank.credential, fence)
    assert isinstance(answer, Refused)
    assert answer.error_code == code
    assert fence.markers == []
    assert (await bank.balance("a"), await bank.balance("b")) == (100, 50)


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "CALL p()",
        "DO 'x'",
        "BEGIN",
        "SET ROLE postgres",
        " ; SELECT 1",
        "EXPLAIN SELECT 1",
        "-- SELECT",
        "-- x\rCOMMIT\nSELECT 1",
    ],
)
def test_a_statement_that_could_end_the_transaction_is_refused_at_registration(sql: str) -> None:
    with pytest.raises(Exception, match="must be one SELECT"):
        CONNECTOR.check(tool("postgres", CONFIG | {"execute": {"sql": sql, "rows_min": 0, "rows_max": 1}}))


@pytest.mark.parametrize(
    "error", [Fenced("LEASE_LOST", "another worker has taken over"), RuntimeError("database gone")]
)
async def test_an_effect_whose_fence_refuses_is_rolled_back(bank: Bank, error: Exception) -> None:
    answer = await CONNECTOR.execute(bank.call(), bank.credential, RecordingFence(error))
    assert isinstance(answer, Refused)
    assert answer.error_code == ("LEASE_LOST" if isinstance(error, Fenced) else "FENCED")
    assert await bank.balance() == 100


async def test_a_read_cannot_write(bank: Bank) -> None:
    config = {"execute": CONFIG["execute"]}
    reader = call(tool("postgres", config, effect="E0"), bank.target, ARGS)
    answer = await CONNECTOR.execute(reader, bank.credential, RecordingFence())
    assert isinstance(answer, Refused)
    assert answer.error_code == "READ_ONLY_SQLTRANSACTION"
    with pytest.raises(TargetError):
        await CONNECTOR.observe(bank.call(config={"observe": {"sql": EXECUTE}}), bank.credential)
    assert await bank.balance() == 100


async def test_the_read_back_says_whether_the_effect_stands(bank: Bank) -> None:
    made = bank.call()
    answer = await CONNECTOR.execute(made, bank.credential, RecordingFence())
    assert isinstance(answer, Applied)
    assert (await CONNECTOR.verify(made, answer.output, bank.credential)).ok
    await bank.run("UPDATE account SET balance = 1 WHERE id = 'a'")
    verdict = await CONNECTOR.verify(made, answer.output, bank.credential)
    assert not verdict.ok
    assert verdict.evidence == {"ok": False, "balance": 1}


@requirement("secret:not-in-errors")
async def test_no_message_repeats_a_value_a_host_or_the_password(bank: Bank) -> None:
    wrong = Credential(bank.credential.username, "hunter2")
    answers = [
        await CONNECTOR.execute(bank.call(), wrong, RecordingFence()),
        await CONNECTOR.execute(bank.call({"id": "a", "amount": "hunter2"}), bank.credential, RecordingFence()),
        await CONNECTOR.execute(bank.call(target=bank.at(1)), wrong, RecordingFence()),
    ]
    for answer in answers:
        assert isinstance(answer, Refused)
        for secret in ("hunter2", "127.0.0.1", bank.credential.username):
            assert secret not in answer.message
    assert "hunter2" not in repr(wrong)


async def test_a_login_that_was_revoked_meanwhile_is_a_reason_to_try_again_not_a_fault_of_the_call(bank: Bank) -> None:
    gone = Credential("g-revoked", "x")
    answer = await CONNECTOR.execute(bank.call(), gone, RecordingFence())
    assert isinstance(answer, Refused)
    assert answer.retryable
    with pytest.raises(TargetError) as caught:
        await CONNECTOR.observe(bank.call(), gone)
    assert caught.value.retryable


@pytest.mark.parametrize(
    "change", [{"xid": "999999999"}, {"system_identifier": "1"}, {"timeline": "00000002"}, {"xid": "x"}]
)
async def test_a_marker_that_the_server_cannot_speak_for_gives_no_verdict(bank: Bank, change: dict[str, str]) -> None:
    fence = RecordingFence()
    await CONNECTOR.execute(bank.call(), bank.credential, fence)
    stored = attempt(bank.call(), fence)
    assert stored.marker
    other = Attempt(stored.attempt_id, stored.effect_key, stored.tool, stored.target, dict(stored.marker) | change, 5)
    assert await CONNECTOR.probe(other, bank.credential) is Probe.CANNOT_TELL


async def test_a_transaction_id_that_the_server_has_forgotten_gives_no_verdict(bank: Bank) -> None:
    fence = RecordingFence()
    await CONNECTOR.execute(bank.call(), bank.credential, fence)
    assert await bank.run("SELECT pg_xact_status('0'::xid8)") is None  # what a status below the kept range looks like
    made = bank.call()
    forgotten = Attempt("a", "k", made.tool, made.target, dict(fence.markers[0]) | {"xid": "0"}, 5)
    assert await CONNECTOR.probe(forgotten, bank.credential) is Probe.CANNOT_TELL


@requirement("effect:postgres-verdict-is-the-target")
async def test_an_id_that_a_crash_may_have_reused_is_not_believed(bank: Bank) -> None:
    fence = RecordingFence()
    await CONNECTOR.execute(bank.call(), bank.credential, fence)
    marker = dict(fence.markers[0]) | {"flushed": False, "started": "1970-01-01 00:00:00+00"}
    made = bank.call()
    assert (
        await CONNECTOR.probe(Attempt("a", "k", made.tool, made.target, marker, 5), bank.credential)
        is Probe.CANNOT_TELL
    )


async def test_a_transaction_still_running_gives_no_verdict(bank: Bank) -> None:
    zombie = await asyncpg.connect(bank.admin)
    try:
        transaction = zombie.transaction()
        await transaction.start()
        xid = await zombie.fetchval("SELECT pg_current_xact_id()::text")
        fence = RecordingFence()
        await CONNECTOR.execute(bank.call(), bank.credential, fence)
        made = bank.call()
        stored = Attempt("a", "k", made.tool, made.target, dict(fence.markers[0]) | {"xid": xid}, 5)
        assert await CONNECTOR.probe(stored, bank.credential) is Probe.CANNOT_TELL
        await transaction.rollback()
        assert await CONNECTOR.probe(stored, bank.credential) is Probe.ABSENT
    finally:
        await zombie.close()


async def test_an_unreachable_target_gives_no_verdict_unless_commit_was_never_sent(bank: Bank) -> None:
    fence = RecordingFence()
    await CONNECTOR.execute(bank.call(), bank.credential, fence)
    gone = bank.call(target=bank.at(1))
    assert await CONNECTOR.probe(attempt(gone, fence), bank.credential) is Probe.CANNOT_TELL
    assert await CONNECTOR.probe(attempt(gone, RecordingFence()), bank.credential) is Probe.ABSENT


@pytest.mark.slow
@requirement("effect:postgres-verdict-is-the-target")
async def test_cut_at_any_message_the_verdict_is_the_target(bank: Bank) -> None:
    """Every message of the whole conversation, in both directions, whole and in halves; never IN_DOUBT at the end."""
    line = Line()
    async with proxy(bank.host, bank.port, line) as port:
        assert isinstance(
            await CONNECTOR.execute(bank.call(target=bank.at(port)), bank.credential, RecordingFence()), Applied
        )
    commit = next(i for i, message in enumerate(line.client) if message[5:] == b"COMMIT\0")
    verdicts: dict[str, int] = {}
    cuts = [Line(cut_client=i, half=half) for i in range(commit + 2) for half in (False, True)]
    cuts += [Line(cut_server=i, half=half) for i in range(len(line.server) + 1) for half in (False, True)]
    for number, cut in enumerate(cuts):
        before = await bank.balance()
        fence = RecordingFence()
        async with proxy(bank.host, bank.port, cut) as port:
            made = bank.call({"id": "a", "amount": 0 if before < 1 else 1}, key=f"k{number}", target=bank.at(port))
            marks = await bank.run("SELECT xmin::text FROM account WHERE id = 'a'")
            answer = await CONNECTOR.execute(made, bank.credential, fence)
        await bank.fence_credential()
        applied = await bank.run("SELECT xmin::text FROM account WHERE id = 'a'") != marks
        if isinstance(answer, Unknown):
            direct = bank.call(target=bank.target)
            probe = await CONNECTOR.probe(attempt(direct, fence), bank.credential)
            assert probe is (Probe.APPLIED if applied else Probe.ABSENT), cut
            verdicts[probe.value] = verdicts.get(probe.value, 0) + 1
        else:
            assert isinstance(answer, Applied) is applied, cut
            verdicts[type(answer).__name__] = verdicts.get(type(answer).__name__, 0) + 1
    assert min(verdicts[name] for name in ("Refused", "Applied", "PROBE_APPLIED", "PROBE_ABSENT")) > 0, verdicts


async def test_a_cancelled_write_keeps_no_session_and_no_effect(bank: Bank) -> None:
    rival = await asyncpg.connect(bank.admin)
    transaction = rival.transaction()
    await transaction.start()
    await rival.execute("SELECT FROM account FOR UPDATE")
    running = asyncio.create_task(CONNECTOR.execute(bank.call(), bank.credential, RecordingFence()))
    async with asyncio.timeout(10):
        while not await bank.run("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await transaction.rollback()
    await rival.close()
    await bank.fence_credential()
    assert await bank.balance() == 100


async def test_a_write_that_waits_too_long_is_refused_and_may_be_tried_again(bank: Bank) -> None:
    rival = await asyncpg.connect(bank.admin)
    transaction = rival.transaction()
    await transaction.start()
    await rival.execute("SELECT FROM account FOR UPDATE")
    answer = await CONNECTOR.execute(bank.call(timeout_seconds=0.3), bank.credential, RecordingFence())
    await transaction.rollback()
    await rival.close()
    assert isinstance(answer, Refused)
    assert answer.retryable
    assert await bank.balance() == 100
