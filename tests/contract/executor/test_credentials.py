"""Borrowed credentials, on a real PostgreSQL target: stored before redeemed, revoked before asked, seen by nobody."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from counterseal.embedded.postgres import Cluster
from counterseal.errors import CredentialsUnavailable, DecisionInvalid, QueueFull, ServiceError
from counterseal.vault import Login
from counterseal_executor.connectors.base import Target
from support.documents import tool_document
from support.executor import Executor, World, world
from support.postgres import FreshDatabase, ServiceDatabase

PAY = tool_document(
    name="bank.pay",
    connector={
        "kind": "postgres",
        "config": {
            "observe": {"sql": "SELECT cents FROM account WHERE id = $1::jsonb->>'id' AND $2::jsonb IS NOT NULL"},
            "before": {
                "sql": "SELECT id, cents FROM account WHERE id = $1::jsonb->>'id' AND $2::jsonb IS NOT NULL FOR UPDATE"
            },
            "execute": {
                "sql": "UPDATE account SET cents = cents + ($1::jsonb->>'cents')::int, by = $2::jsonb->>'effect_key'"
                " WHERE id = $1::jsonb->>'id' RETURNING id, cents",
                "rows_min": 1,
                "rows_max": 1,
            },
            "verify": {
                "sql": "SELECT cents = ($2::jsonb->'result'->'rows'->0->>'cents')::int AS ok FROM account"
                " WHERE id = $1::jsonb->>'id'"
            },
        },
    },
    input_schema={
        "type": "object",
        "properties": {"id": {"type": "string"}, "cents": {"type": "integer"}},
        "required": ["id", "cents"],
        "additionalProperties": False,
    },
    output_schema={
        "type": "object",
        "properties": {
            "rows": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"cents": {"type": "integer"}},
                    "additionalProperties": False,
                },
            }
        },
        "additionalProperties": False,
    },
    reversibility="R2",
    targets=["bank"],
    credential_role="bank",
)


def pay(cents: int = 5, **changes: Any) -> dict[str, Any]:
    return {
        "id": "s1",
        "tool": "bank.pay@1.0.0",
        "target": "bank",
        "args": {"id": "a", "cents": cents},
        "timeout_seconds": 3,
        **changes,
    }


@pytest.fixture
async def bank(fresh_database: FreshDatabase) -> ServiceDatabase:
    database = fresh_database(None)
    conn = await asyncpg.connect(database.dsn)
    await conn.execute("CREATE TABLE account (id text PRIMARY KEY, cents int NOT NULL, by text)")
    await conn.execute("INSERT INTO account VALUES ('a', 100)")
    await conn.close()
    return database


@pytest.fixture
async def surroundings(
    fresh_database: FreshDatabase, postgres_cluster: Cluster, bank: ServiceDatabase, tmp_path: Path
) -> AsyncIterator[World]:
    settings = {"host": postgres_cluster.host, "port": postgres_cluster.port, "database": bank.name}
    target = Target("bank", "postgres", settings)
    async with world(fresh_database("executor").sqlalchemy_url, tmp_path / "world.sqlite", bank=target) as made:
        user, password = _login(bank.dsn)
        made.broker.login = Login(user, password, "db/creds/lease/CANARY-LEASE", 60)
        yield made


@pytest.fixture
async def executor(surroundings: World) -> Executor:
    started = await surroundings.start()
    await started.register(PAY)
    return started


async def test_a_write_borrows_acts_reads_back_and_leaves_no_live_credential(
    executor: Executor, surroundings: World, bank: ServiceDatabase
) -> None:
    answer = await executor.propose(pay())
    await executor.commit(answer)
    plan = await executor.until(answer.plan_id, "SUCCEEDED")
    assert json.loads(plan.steps[0].output_json) == {"rows": [{"cents": 105}]}
    assert await _cents(bank) == 105
    async with asyncio.timeout(10):
        while not all(grant.dead for grant in surroundings.broker.grants.values()):
            await asyncio.sleep(0.05)
    assert sum(grant.write for grant in surroundings.broker.grants.values()) == 1


async def test_the_grant_is_stored_before_it_is_redeemed_and_a_failed_redeem_sends_nothing(
    executor: Executor, surroundings: World, bank: ServiceDatabase
) -> None:
    answer = await executor.propose(pay())
    stored: list[int] = []

    async def look() -> None:
        conn = await _owner(surroundings)
        stored.append(await conn.fetchval("SELECT count(*) FROM attempt WHERE grant_id IS NOT NULL"))
        await conn.close()

    surroundings.broker.before_redeem_write = look
    surroundings.broker.error, surroundings.broker.error_on = CredentialsUnavailable(), "issue"
    await executor.commit(answer)
    plan = await executor.until(answer.plan_id, "HALTED")
    assert plan.reason_code == "CREDENTIALS_UNAVAILABLE"
    assert await _cents(bank) == 100
    surroundings.broker.error = None
    await executor.until(answer.plan_id, "SUCCEEDED", seconds=30)
    assert await _cents(bank) == 105
    async with asyncio.timeout(10):
        while "not_sent" not in _outcomes(surroundings):
            await asyncio.sleep(0.05)
    assert stored[0] == 1


@pytest.mark.parametrize(
    ("life_ms", "answer", "next_action"), [(900, QueueFull, "RETRY"), (60_000, DecisionInvalid, "NONE")]
)
async def test_a_preview_that_the_broker_calls_expired_is_an_invitation_to_propose_again(
    executor: Executor, surroundings: World, life_ms: int, answer: type[ServiceError], next_action: str
) -> None:
    surroundings.policy.life_ms = life_ms
    surroundings.broker.error, surroundings.broker.error_on = DecisionInvalid(), "issue"
    with pytest.raises(ServiceError) as caught:
        await executor.propose(pay(), key="k")
    assert (type(caught.value), caught.value.next_action) == (answer, next_action)
    surroundings.policy.life_ms, surroundings.broker.error = 60_000, None
    assert (await executor.propose(pay(), key="k")).plan.state == "PROPOSED"


@pytest.mark.parametrize(
    ("life_ms", "reason"),
    [
        pytest.param(900, "CREDENTIALS_UNAVAILABLE", id="it had aged on the way"),
        pytest.param(60_000, "POLICY_CHANGED", id="it lived: then it is wrong"),
    ],
)
async def test_a_plan_whose_decision_aged_before_its_grant_comes_back_by_itself(
    executor: Executor, surroundings: World, bank: ServiceDatabase, life_ms: int, reason: str
) -> None:
    answer = await executor.propose(pay(timeout_seconds=55))  # longer than the commit's decision: a fresh one is asked
    surroundings.broker.error, surroundings.broker.error_on = CredentialsUnavailable(), "exchange"
    await executor.commit(answer)
    surroundings.policy.life_ms = life_ms
    surroundings.broker.error, surroundings.broker.error_on = DecisionInvalid(), "issue"
    plan = await executor.until(answer.plan_id, "HALTED", seconds=60)
    assert plan.reason_code == reason
    surroundings.policy.life_ms, surroundings.broker.error = 60_000, None
    if reason == "CREDENTIALS_UNAVAILABLE":
        await executor.until(answer.plan_id, "SUCCEEDED", seconds=60)
        assert await _cents(bank) == 105
    else:
        assert await _cents(bank) == 100


async def test_a_wrapper_that_another_path_made_is_not_used(
    executor: Executor, surroundings: World, bank: ServiceDatabase
) -> None:
    answer = await executor.propose(pay())
    surroundings.broker.stolen = True
    await executor.commit(answer)
    await executor.until(answer.plan_id, "HALTED")
    assert await _cents(bank) == 100
    surroundings.broker.stolen = False
    await executor.until(answer.plan_id, "SUCCEEDED", seconds=30)


async def test_a_doubt_waits_until_the_old_credential_is_verified_dead(
    executor: Executor, surroundings: World, bank: ServiceDatabase
) -> None:
    blocker = await asyncpg.connect(bank.dsn)
    await blocker.execute("BEGIN")
    await blocker.execute("SELECT * FROM account FOR UPDATE")
    answer = await executor.propose(pay(timeout_seconds=30))
    await executor.commit(answer)
    async with asyncio.timeout(10):
        while "report" not in surroundings.broker.calls[-1:]:
            await asyncio.sleep(0.05)
    surroundings.broker.dead_after = 3
    await _take_lease_away(surroundings, answer.plan_id)
    other = await surroundings.start()
    await asyncio.sleep(1.5)
    plan = (await other.get(answer.plan_id)).plan
    assert plan.steps[0].state in ("INTENT", "IN_DOUBT")  # not dead yet: no verdict
    await blocker.execute("ROLLBACK")
    await blocker.close()
    await other.until(answer.plan_id, "SUCCEEDED", seconds=60)
    assert await _cents(bank) == 105


async def test_an_attempt_that_was_never_redeemed_was_never_sent(
    executor: Executor, surroundings: World, bank: ServiceDatabase
) -> None:
    going = asyncio.Event()

    async def hold() -> None:
        await going.wait()

    surroundings.broker.before_redeem_write = hold
    answer = await executor.propose(pay())
    await executor.commit(answer)
    async with asyncio.timeout(10):
        while not any(grant.write for grant in surroundings.broker.grants.values()):
            await asyncio.sleep(0.02)
    await _take_lease_away(surroundings, answer.plan_id)
    other = await surroundings.start()
    async with asyncio.timeout(20):
        while "not_sent" not in _outcomes(surroundings):
            await asyncio.sleep(0.05)
    surroundings.broker.before_redeem_write = None
    going.set()
    await other.until(answer.plan_id, "SUCCEEDED", seconds=60)
    assert await _cents(bank) == 105


async def test_no_byte_that_is_kept_or_shown_holds_the_credential(executor: Executor, surroundings: World) -> None:
    answer = await executor.propose(pay())
    await executor.commit(answer)
    plan = await executor.until(answer.plan_id, "SUCCEEDED")
    failed = await executor.propose(pay(cents=10**12))  # does not fit: the driver's message quotes the row
    await executor.commit(failed)
    await executor.until(failed.plan_id, "FAILED_NO_EFFECT")
    haystack = [plan.SerializeToString(), *surroundings.ledger.log]
    haystack += [request.SerializeToString() for request in surroundings.ledger.requests]
    haystack += [event.SerializeToString() for event in await executor.watch(failed.plan_id)]
    conn = await _owner(surroundings)
    for table in ("plan", "step", "attempt", "event", "outbox", "commit_use"):
        rows = await conn.fetch(f"SELECT t::text FROM {table} t")
        haystack += [row[0].encode() for row in rows]
    await conn.close()
    secrets = [surroundings.broker.login.password.encode(), b"CANARY-LEASE", b"s.token"]
    assert len(haystack) > 20
    for secret in secrets:
        assert not any(secret in item or secret.hex().encode() in item for item in haystack), secret


def _login(dsn: str) -> tuple[str, str]:
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(dsn)
    return unquote(parts.username or ""), unquote(parts.password or "")


def _outcomes(surroundings: World) -> list[str]:
    return [
        request.event.step_outcome.outcome
        for request in surroundings.ledger.requests
        if request.event.WhichOneof("event") == "step_outcome"
    ]


async def _cents(bank: ServiceDatabase) -> int:
    conn = await asyncpg.connect(bank.dsn)
    try:
        return int(await conn.fetchval("SELECT cents FROM account WHERE id = 'a'"))
    finally:
        await conn.close()


async def _owner(surroundings: World) -> Any:
    url = surroundings.engine.url
    return await asyncpg.connect(
        host=url.host, port=url.port, user="counterseal_executor_owner", password="owner", database=url.database
    )


async def _take_lease_away(surroundings: World, plan_id: str) -> None:
    conn = await _owner(surroundings)
    await conn.execute("UPDATE plan SET lease_epoch = lease_epoch + 1, lease_until = NULL WHERE plan_id = $1", plan_id)
    await conn.close()
