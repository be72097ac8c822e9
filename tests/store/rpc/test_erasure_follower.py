"""Policy, credentials and executor follow an erasure on their own databases, against a real ledger."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.clock import system_clock
from counterseal.ids import new_id
from counterseal.ledger import entry as entries
from counterseal.rpc.erasure import ErasureFollower, remember
from counterseal.rpc.ledger_client import LedgerClient
from counterseal.rpc.ledger_wire import new_entry
from counterseal.rpc.outbox import Outbox
from counterseal_executor.states import PLAN_TERMINAL
from support import canary
from support.audit import AuditServer, audit_server
from support.entries import DIGEST, NOW
from support.erasing import order, state
from support.payloads import admin, asked, search
from support.postgres import FreshDatabase, ServiceDatabase
from support.requirements import requirement

SECRET = "the-secret-of-ana"
SEALED = f'{{"rationale":"{SECRET}"}}'.encode()


@dataclass
class Producer:
    """A service's database with its outbox and follower, and the ledger behind it."""

    service: str
    database: ServiceDatabase
    server: AuditServer
    engine: AsyncEngine
    outbox: Outbox
    follower: ErasureFollower

    async def record(self, *requests: ledger_pb2.NewEntry) -> None:
        async with self.engine.begin() as conn:
            await self.outbox.put(conn, *requests)
        for request in requests:
            await self.outbox.deliver(request.event_id)

    async def heard(self, job_id: str) -> None:
        """Follow the ledger until the order has arrived."""
        stopping = asyncio.Event()
        tail = asyncio.create_task(self.follower.follow(stopping))
        async with asyncio.timeout(20):
            while not await admin(self.database, "SELECT 1 FROM erasure_job WHERE job_id = $1::uuid", job_id):
                await asyncio.sleep(0.05)
        tail.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tail

    async def erased(self) -> bool:
        return bool(await admin(self.database, "SELECT 1 FROM erasure_job WHERE erase_time IS NOT NULL"))

    async def deliver(self) -> None:
        async with asyncio.timeout(20):
            while await admin(self.database, "SELECT 1 FROM outbox WHERE ack_time IS NULL AND refusal IS NULL"):
                await self.outbox.relay_once()
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def producer(fresh_database: FreshDatabase, service: str) -> AsyncIterator[Producer]:
    database = fresh_database(service)
    engine = create_async_engine(database.sqlalchemy_url, pool_size=3, max_overflow=0)
    try:
        async with (
            audit_server(fresh_database("audit"), publish=False) as server,
            server.channel(f"svc/{service}") as channel,
        ):
            client = LedgerClient(channel)
            outbox = Outbox(engine, client, on_ack=remember)
            follower = ErasureFollower(engine, channel, outbox, "prod", 35, system_clock, new_id)
            yield Producer(service, database, server, engine, outbox, follower)
            await client.close()
    finally:
        await engine.dispose()


def own_entry(service: str) -> ledger_pb2.NewEntry:
    """An entry of each service that names the person and seals something."""
    common: dict[str, Any] = {
        "event_id": new_id(),
        "event_time_ms": NOW,
        "tenant": "acme",
        "environment": "prod",
        "subject": "user:ana",
        "request_id": "r-1",
    }
    if service == "executor":
        return asked("user:ana", SECRET)
    if service == "credentials":
        data: dict[str, Any] = {"grant_type": "oidc", "scope": ["plan.read"], "ttl_seconds": 300, "workload": "w"}
        return new_entry("token.exchanged", data, **common)
    data = {
        "task_id": new_id(),
        "verdict": "approve",
        "approver": "user:ana",
        "card_digest": DIGEST,
        "approval_digest": DIGEST,
        "count": 1,
        "need": 1,
        "expire_time_ms": NOW,
    }
    return new_entry("approval.recorded", data, sealed={"comment": SECRET}, plan_digest=DIGEST, **common)


async def insert(database: ServiceDatabase, table: str, **values: Any) -> None:
    marks = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await admin(database, f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", *values.values())


async def fill_executor(database: ServiceDatabase, subject: str, state: str) -> str:
    plan, attempt, now = new_id(), new_id(), datetime.now(UTC)
    await insert(
        database,
        "plan",
        plan_id=plan,
        tenant="acme",
        plan_digest=plan,
        body=SEALED,
        nonce_digest=plan,
        rationale=SEALED,
        idempotency_key=plan,
        request_digest="sha256:x",
        subject=subject,
        request_id="r-1",
        txn="t",
        scopes=[],
        expire_time=now,
        deadline_seconds=1,
        create_time=now,
        state={"done": "SUCCEEDED", "live": "RUNNING"}[state],
        decision=SEALED,
    )
    await insert(
        database,
        "step",
        plan_id=plan,
        step_id="s1",
        position=0,
        tool="t",
        tool_digest="d",
        target="bank",
        effect="E1",
        state="VERIFIED",
        output=SEALED,
    )
    await insert(
        database,
        "attempt",
        attempt_id=attempt,
        plan_id=plan,
        step_id="s1",
        n=1,
        undo=False,
        tool_digest="d",
        effect_key="e",
        args=SEALED,
        intent_event_id=attempt,
        start_time=now,
        timeout_seconds=1,
        grant_id=attempt,
        marker=SEALED,
        before_image=SEALED,
        result=SEALED,
        revoke_time=now,
    )
    await insert(
        database,
        "commit_use",
        plan_id=plan,
        tenant="acme",
        nonce_digest=plan,
        idempotency_key=plan,
        plan_digest=plan,
        decision_id="d",
        statement=SEALED,
        signature=b"s",
        key="k",
        commit_time=now,
    )
    await insert(
        database,
        "event",
        plan_id=plan,
        seq=1,
        tenant="acme",
        event_id=plan,
        type="plan.changed",
        step_id="",
        event_time_ms=1,
        data=SEALED,
        state="RUNNING",
    )
    return plan


async def end_executor(database: ServiceDatabase) -> None:
    await admin(database, "UPDATE plan SET state = 'SUCCEEDED'")


async def fill_credentials(database: ServiceDatabase, subject: str, state: str) -> str:
    grant, now = new_id(), datetime.now(UTC)
    await insert(
        database,
        "grants",
        grant_id=grant,
        tenant="acme",
        idempotency_key=grant,
        request_digest="d",
        state={"done": "REVOKED", "live": "BOUND"}[state],
        purpose="READ",
        attempt_id=grant,
        plan_digest="p",
        step="s",
        tool="t",
        tool_digest="d",
        action="a",
        mode="ro",
        tier=60,
        ttl_seconds=60,
        target="bank",
        decision_id="d",
        decision_digest="d",
        request_id="r-1",
        txn="t",
        subject=subject,
        agent="bot",
        act=f'{{"act": {{"sub": "{SECRET}"}}}}',
        scopes=[],
        epochs=[],
        holder="h",
        vault_accessor="a",
        not_after=now,
        create_time=now,
        verify_time=now if state == "done" else None,
    )
    return grant


async def end_credentials(database: ServiceDatabase) -> None:
    await admin(database, "UPDATE grants SET state = 'REVOKED', verify_time = now()")


async def fill_policy(database: ServiceDatabase, subject: str, state: str) -> str:
    task, now = new_id(), datetime.now(UTC)
    await insert(
        database,
        "decision",
        decision_id=task,
        tenant="acme",
        purpose="COMMIT",
        outcome="ALLOW",
        reason_codes=[],
        plan_digest=task,
        request_id="r-1",
        subject=subject,
        agent="bot",
        snapshot_id="s",
        event_id=task,
        class_level=1,
        steps=b"{}",
        record=SEALED,
        statement=SEALED,
    )
    await insert(
        database,
        "approval_task",
        task_id=task,
        tenant="acme",
        plan_digest=task,
        card_digest="c",
        card=SEALED,
        decision_id=task,
        state={"done": "USED", "live": "PENDING"}[state],
        basis=b"{}",
        request_id="r-1",
        subject=subject,
        agent="bot",
        excluded=[subject],
        decide_by=now,
        valid_for_ms=1,
        summary=SECRET,
    )
    await insert(
        database,
        "approval_vote",
        vote_id=task,
        task_id=task,
        tenant="acme",
        person_id=subject,
        approver=subject,
        roles=[],
        approved=True,
        digest="d",
        document=SEALED,
        epochs=b"",
        signed=False,
    )
    return task


async def end_policy(database: ServiceDatabase) -> None:
    await admin(database, "UPDATE approval_task SET state = 'EXPIRED'")


Fill = Callable[[ServiceDatabase, str, str], Any]
FILLS: dict[str, Fill] = {
    "executor": fill_executor,
    "credentials": fill_credentials,
    "policy": fill_policy,
}
ENDS = {"executor": end_executor, "credentials": end_credentials, "policy": end_policy}


async def found(database: ServiceDatabase, *words: str) -> set[str]:
    places = await canary.tables(database.admin_dsn, database.name.split("_")[-1])
    return {hit.where for hit in canary.scan(dict.fromkeys(words, "word"), places)}


@requirement("erasure:producers-follow")
@pytest.mark.parametrize("service", ["executor", "credentials", "policy"])
async def test_a_service_erases_its_copies_and_says_so(fresh_database: FreshDatabase, service: str) -> None:
    async with producer(fresh_database, service) as parts:
        await parts.record(own_entry(service))
        assert await found(parts.database, "user:ana") == {f"{service}.person_pseudonym.person"}, (
            "the outbox is stripped"
        )
        fill = FILLS[service]
        await fill(parts.database, "user:ana", "done")
        await fill(parts.database, "user:bob", "done")
        await fill(parts.database, "user:ana", "live")
        assert await found(parts.database, SECRET)
        job = await order(parts.server.parts)
        await parts.heard(job.job_id)
        await parts.follower.work()
        assert not await parts.erased(), "something of the person is still live"
        assert await found(parts.database, "user:ana"), "and keeps what it needs"
        await ENDS[service](parts.database)
        await parts.follower.work()
        assert await parts.erased()
        await parts.deliver()
        rows = await admin(parts.database, "SELECT count FROM erasure_job")
        assert rows[0]["count"] >= 2
        assert await found(parts.database, "user:ana") == set()
        assert len(await found(parts.database, SECRET)) >= 1, "the other person's rows are as they were"
        await parts.server.parts.retention.eraser.advance(job.job_id)
        assert (await state(parts.server.parts, job.job_id)).reported == tuple(sorted(("audit", service)))


@requirement("erasure:producers-follow")
@pytest.mark.parametrize("service", ["executor", "credentials", "policy"])
async def test_nothing_is_left_in_live_files_once_the_tables_are_written_anew(
    fresh_database: FreshDatabase, service: str
) -> None:
    async with producer(fresh_database, service) as parts:
        await parts.record(own_entry(service))
        await FILLS[service](parts.database, "user:ana", "done")
        job = await order(parts.server.parts)
        await parts.heard(job.job_id)
        await parts.follower.work()
        assert await parts.erased()
        await parts.deliver()
        await admin(parts.database, "VACUUM FULL")
        live = await search(parts.database, {"secret": SECRET.encode(), "person": b"user:ana"})
        assert live["secret"] == []


@requirement("erasure:producers-follow")
async def test_policy_waits_for_the_executor(fresh_database: FreshDatabase) -> None:
    async with producer(fresh_database, "policy") as parts:
        follower = replace(parts.follower, after=frozenset({"executor"}))
        await parts.record(own_entry("policy"))
        await fill_policy(parts.database, "user:ana", "done")
        job = await order(parts.server.parts)
        await parts.heard(job.job_id)
        await follower.work()
        assert not await parts.erased()
        assert await found(parts.database, "user:ana")
        await admin(parts.database, "UPDATE erasure_job SET reported = '{executor}'")
        await follower.work()
        assert await parts.erased()


@requirement("erasure:producers-follow")
async def test_an_order_is_read_again_by_a_database_that_was_restored(fresh_database: FreshDatabase) -> None:
    async with producer(fresh_database, "credentials") as parts:
        await parts.record(own_entry("credentials"))
        await fill_credentials(parts.database, "user:ana", "done")
        job = await order(parts.server.parts)
        await parts.heard(job.job_id)
        await parts.follower.work()
        await parts.deliver()
        assert await found(parts.database, "user:ana") == set()
        # A backup of before the order: its rows, its place in the log, nothing of the job.
        await admin(parts.database, "TRUNCATE erasure_job, erasure_position")
        await admin(parts.database, "UPDATE grants SET subject = 'user:ana'")
        await admin(parts.database, "INSERT INTO person_pseudonym VALUES ('acme', 'user:ana', $1)", job.person)
        await parts.heard(job.job_id)
        await parts.follower.work()
        assert await parts.erased()
        await parts.deliver()
        assert await found(parts.database, "user:ana") == set()


@requirement("erasure:producers-follow")
async def test_what_waits_in_the_outbox_holds_the_report_up(fresh_database: FreshDatabase) -> None:
    async with producer(fresh_database, "executor") as parts:
        await parts.record(own_entry("executor"))
        job = await order(parts.server.parts)
        await parts.heard(job.job_id)
        late = asked("user:ana", SECRET)
        async with parts.engine.begin() as conn:
            await parts.outbox.put(conn, late)
            await conn.execute(sa.text("SELECT 1"))
        await parts.follower.work()
        assert not await parts.erased()
        await parts.outbox.deliver(late.event_id)
        await parts.follower.work()
        assert await parts.erased()


async def test_an_entry_that_the_ledger_refused_is_emptied_too(fresh_database: FreshDatabase) -> None:
    async with producer(fresh_database, "executor") as parts:
        await parts.record(own_entry("executor"))
        stuck = asked("user:ana", SECRET)
        async with parts.engine.begin() as conn:
            await parts.outbox.put(conn, stuck)
        await admin(parts.database, "UPDATE outbox SET refusal = 'INPUT_INVALID' WHERE ack_time IS NULL")
        job = await order(parts.server.parts)
        await parts.heard(job.job_id)
        await parts.follower.work()
        assert await parts.erased()
        assert await found(parts.database, "user:ana", SECRET) == set()


async def test_a_person_who_came_back_is_still_found_by_the_next_order(fresh_database: FreshDatabase) -> None:
    async with producer(fresh_database, "credentials") as parts:
        await parts.record(own_entry("credentials"))
        old = await fill_credentials(parts.database, "user:ana", "done")
        new = await fill_credentials(parts.database, "user:ana", "done")
        await admin(
            parts.database, "UPDATE grants SET create_time = now() + interval '1 hour' WHERE grant_id = $1::uuid", new
        )
        job = await order(parts.server.parts)
        await parts.heard(job.job_id)
        await parts.follower.work()
        assert await parts.erased()
        left = await admin(parts.database, "SELECT grant_id::text FROM grants WHERE subject = 'user:ana'")
        assert [row["grant_id"] for row in left] == [new]
        assert old != new
        assert await admin(parts.database, "SELECT 1 FROM person_pseudonym WHERE person = 'user:ana'")


async def test_the_runtime_role_cannot_remove_what_lives(fresh_database: FreshDatabase) -> None:
    """The one function that it may call knows what is live; there is no other way to the bytes."""
    async with producer(fresh_database, "executor") as parts:
        await fill_executor(parts.database, "user:ana", "live")
        async with parts.engine.begin() as conn:
            await conn.execute(sa.text("SELECT set_config('counterseal.tenant', 'acme', true)"))
            row = (await conn.execute(sa.text("SELECT * FROM erase_person('acme', 'user:ana', 'p_x', now())"))).one()
            assert (row.erased, row.live) == (0, 1)
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                async with conn.begin_nested():
                    await conn.execute(sa.text("UPDATE plan SET body = ''"))
        ((body,),) = await admin(parts.database, "SELECT body FROM plan")
        assert body == SEALED


def test_what_the_executor_erases_are_plans_in_a_terminal_state() -> None:
    import importlib

    migration = importlib.import_module("counterseal_executor.migrations.versions.0003_erasure")
    assert set(migration.ENDED) == PLAN_TERMINAL


async def test_an_entry_that_is_another_tenants_is_not_taken(fresh_database: FreshDatabase) -> None:
    from counterseal.api.audit.v1 import reader_pb2, retention_pb2
    from counterseal.errors import LedgerUnavailable
    from counterseal.ledger.tree import leaf_hash

    async with producer(fresh_database, "credentials") as parts:
        job = await order(parts.server.parts)
        log = await parts.server.parts.log()
        row = await parts.server.parts.reader.by_event_id(log.log_id, job.event_id)
        assert row is not None
        good = reader_pb2.LedgerEntry(index=row.index, entry=row.entry, leaf_hash=row.leaf_hash)
        bad = reader_pb2.LedgerEntry(index=row.index, entry=row.entry, leaf_hash=leaf_hash(b"x"))
        where = retention_pb2.LogPosition(origin=log.origin, next_index=9)
        for tenant, entry in (("globex", good), ("acme", bad)):
            message = retention_pb2.TailErasuresResponse(tenant=tenant, position=where, entries=[entry])
            with pytest.raises(LedgerUnavailable):
                await parts.follower.note(message)
        assert entries.parse(row.entry).type == "erasure.ordered"
        assert not await admin(parts.database, "SELECT 1 FROM erasure_position")
