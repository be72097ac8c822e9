"""An executor whose database is older than the ledger: what it notices, when, and what it still does (I12)."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.api.executor.v1 import operator_pb2, plan_pb2, tool_pb2
from counterseal.clock import system_clock
from counterseal.documents.effects import commit_event_id
from counterseal.errors import LedgerUnavailable, ServiceError, StateBehindLedger
from counterseal.identity import acting_for
from counterseal.ids import new_id
from counterseal.ledger import entry as entries
from counterseal.rpc.ledger_wire import new_entry
from counterseal.rpc.method_table import METHODS
from counterseal_executor.restore.check import RestoreCheck
from support.executor import AGENT, OMAR, SIM_TOOLS, Executor, World, refund, sim_tool, world
from support.postgres import FreshDatabase
from support.requirements import requirement

READS = {"GetPlan", "ListPlans", "WatchPlan", "GetTool", "ListTools", "GetBarrier", "ListInDoubt"}


@contextlib.asynccontextmanager
async def restored(fresh_database: FreshDatabase, tmp_path: Path, past: World) -> AsyncIterator[World]:
    """The same ledger, and a database that knows nothing of what it holds: the oldest possible restore."""
    url = fresh_database("executor").sqlalchemy_url
    async with world(url, tmp_path / "world.sqlite", grpc.aio.insecure_channel(past.addresses["audit"])) as new:
        new.ledger = past.ledger
        yield new


async def _cursor(surroundings: World, tenant: str = "acme") -> int:
    async with surroundings.engine.begin() as connection:
        await connection.execute(sa.text("SELECT set_config('counterseal.tenant', '*', true)"))
        found = await connection.scalar(
            sa.text("SELECT next_index FROM ledger_cursor WHERE tenant = :t"), {"t": tenant}
        )
        return int(found or 0)


async def _lease_epochs(surroundings: World) -> int:
    """How often any plan was claimed."""
    async with surroundings.engine.begin() as connection:
        await connection.execute(sa.text("SELECT set_config('counterseal.tenant', '*', true)"))
        return int(await connection.scalar(sa.text("SELECT sum(lease_epoch) FROM plan")) or 0)


async def _compared(surroundings: World, tenant: str = "acme") -> None:
    """Wait until the cursor is at the end of the tenant's log."""
    async with asyncio.timeout(30):
        while await _cursor(surroundings, tenant) < len(surroundings.ledger.log_of(tenant)):
            await asyncio.sleep(0.05)


@requirement("restore:behind-ledger-refused")
async def test_a_fresh_database_under_an_old_ledger_is_found_at_the_tenants_first_change(
    executor: Executor, surroundings: World, fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    await surroundings.delivered()
    first = entries.parse(surroundings.ledger.log_of("acme")[0])
    async with restored(fresh_database, tmp_path, surroundings) as new:
        fresh = await new.start()
        with pytest.raises(StateBehindLedger) as refused:
            await fresh.register(*SIM_TOOLS)
        assert refused.value.metadata == {"index": "0", "event_id": first.event_id}
        assert "its operator must restore a backup" in refused.value.message
        assert fresh.runtime.unfit.is_set()
        async with new.engine.connect() as connection:
            assert await connection.scalar(sa.text("SELECT count(*) FROM outbox")) == 0, "nothing was changed"
        assert await _cursor(new) == 0, "the cursor moves only over entries that the database has"


async def _reason(call: Awaitable[Any]) -> str:
    try:
        await call
    except ServiceError as error:
        return error.reason
    return "served"


Call = Callable[[Executor], Awaitable[Any]]


def _as(caller: Any, service: str, method: str, request: Any) -> Call:
    async def call(executor: Executor) -> Any:
        with acting_for(caller):
            return await getattr(getattr(executor, service), method)(request, None)

    return call


CHANGES: dict[str, Call] = {
    "ProposePlan": lambda executor: executor.propose(),
    "VerifyPlan": _as(AGENT, "plans", "VerifyPlan", plan_pb2.VerifyPlanRequest(plan_id=new_id())),
    "CommitPlan": _as(AGENT, "plans", "CommitPlan", plan_pb2.CommitPlanRequest(plan_id=new_id())),
    "CancelPlan": _as(AGENT, "plans", "CancelPlan", plan_pb2.CancelPlanRequest(plan_id=new_id())),
    "RegisterTool": lambda executor: executor.register(sim_tool("shop.later", "put")),
    "RetireTool": _as(OMAR, "tools", "RetireTool", tool_pb2.RetireToolRequest(tool="shop.refund@1.0.0")),
    "ResumePlan": _as(OMAR, "operator", "ResumePlan", operator_pb2.ResumePlanRequest(plan_id=new_id())),
    "ResolveStep": _as(OMAR, "operator", "ResolveStep", operator_pb2.ResolveStepRequest(plan_id=new_id())),
}


@requirement("restore:behind-ledger-refused")
async def test_every_method_that_changes_something_is_refused_and_a_stop_is_taken_but_never_called_quiet(
    executor: Executor, surroundings: World, fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    await surroundings.delivered()
    methods = {name.rsplit("/", 1)[1] for name in METHODS if name.startswith("/counterseal.api.executor.")}
    assert methods == {*CHANGES, *READS, "HaltScope"}
    async with restored(fresh_database, tmp_path, surroundings) as new:
        fresh = await new.start()
        for name, call in CHANGES.items():
            assert await _reason(call(fresh)) == "STATE_BEHIND_LEDGER", name
        stopped = await fresh.halt("tenant:acme", seconds=1)
        assert stopped.state.stopped
        assert not stopped.HasField("quiesced_time"), "what is open is not known here"


@requirement("restore:behind-ledger-refused")
async def test_another_tenant_is_refused_too_and_learns_nothing_of_the_log_that_told(
    executor: Executor, surroundings: World, fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    await surroundings.delivered()
    async with restored(fresh_database, tmp_path, surroundings) as new:
        fresh = await new.start()
        with pytest.raises(StateBehindLedger):
            await fresh.register(*SIM_TOOLS)
        with pytest.raises(StateBehindLedger) as refused:
            await fresh.register(*SIM_TOOLS, caller=replace(OMAR, tenant="globex"))
        assert refused.value.metadata == {}
        assert "acme" not in refused.value.message


@requirement("restore:behind-ledger-refused")
async def test_while_the_ledger_is_away_nothing_is_claimed_and_the_first_answer_decides(
    executor: Executor, surroundings: World
) -> None:
    surroundings.broker.error, surroundings.broker.error_on = LedgerUnavailable(), "exchange"
    answer = await executor.propose()
    await executor.commit(answer)
    await surroundings.delivered()
    await surroundings.stop(executor)
    surroundings.broker.error = None
    surroundings.ledger.down = True
    owners = await _lease_epochs(surroundings)
    again = await surroundings.start()
    with pytest.raises(LedgerUnavailable):
        await again.propose()
    await asyncio.sleep(1.0)
    assert await _lease_epochs(surroundings) == owners
    surroundings.ledger.down = False
    await again.until(answer.plan_id, "SUCCEEDED", seconds=40)


@pytest.mark.slow
@requirement("restore:behind-ledger-refused")
async def test_replicas_at_work_never_take_each_others_entries_for_a_lost_future(
    executor: Executor, surroundings: World
) -> None:
    other = await surroundings.start()
    check: RestoreCheck = other.plans._restore
    answers = [await replica.propose(refund(key=f"k{n}")) for n, replica in enumerate([executor, other] * 3)]
    stop = asyncio.Event()

    async def compare() -> None:
        while not stop.is_set():
            await check._compare("acme")

    task = asyncio.create_task(compare())
    for replica, answer in zip([executor, other] * 3, answers, strict=True):
        await replica.commit(answer)
    for answer in answers:
        await executor.until(answer.plan_id, "SUCCEEDED", seconds=60)
    stop.set()
    await task
    assert check.current
    await surroundings.delivered()
    await check._compare("acme")
    assert await _cursor(surroundings) == len(surroundings.ledger.log_of("acme"))


@requirement("restore:behind-ledger-refused")
async def test_a_start_reads_what_came_since_the_last_comparison_and_not_the_whole_log(
    executor: Executor, surroundings: World
) -> None:
    await executor.propose()
    await surroundings.delivered()
    await executor.plans._restore._compare("acme")
    await _compared(surroundings)
    seen = len(surroundings.ledger.log_of("acme"))
    await surroundings.stop(executor)
    asked = surroundings.ledger.tails
    asked.clear()
    again = await surroundings.start()
    await again.propose()
    assert ("acme", seen) in asked
    assert ("acme", 0) not in asked


@requirement("restore:behind-ledger-refused")
async def test_a_commit_that_the_ledger_holds_with_other_content_stops_a_running_executor(
    executor: Executor, surroundings: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Restored under a running process: no start came in between, the ledger's own refusal tells."""
    answer = await executor.propose()
    await surroundings.delivered()
    surroundings.ledger.refuse[commit_event_id(answer.plan_digest)] = "IDEMPOTENCY_KEY_REUSED"
    with caplog.at_level(logging.CRITICAL):
        await executor.commit(answer)
        async with asyncio.timeout(20):
            await executor.runtime.unfit.wait()
    assert "holds another commit of plan" in caplog.text
    with pytest.raises(StateBehindLedger):
        await executor.propose()
    assert surroundings.sim.effects() == []


def _entry(kind: str, data: dict[str, Any]) -> ledger_pb2.NewEntry:
    digest = "sha256:" + "ab" * 32 if kind.startswith("plan.") else ""
    return new_entry(
        kind,
        data,
        event_id=new_id(),
        event_time_ms=system_clock(),
        tenant="acme",
        environment="prod",
        plan_digest=digest,
    )


@requirement("restore:behind-ledger-refused")
@pytest.mark.parametrize("where", ["end of the closed log", "beginning of the next"])
async def test_what_a_database_lacks_is_found_wherever_the_log_was_continued_meanwhile(
    executor: Executor, surroundings: World, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    await executor.propose()
    await surroundings.delivered()
    await executor.plans._restore._compare("acme")
    compared = await _cursor(surroundings)
    await surroundings.stop(executor)
    counts = ("step_count", "applied_count", "compensated_count", "intent_count", "cost_minor")
    later = _entry("plan.ended", {"state": "SUCCEEDED", **dict.fromkeys(counts, 0)})
    if where == "beginning of the next":
        surroundings.ledger.continue_logs()
    surroundings.ledger.append(later)
    if where == "end of the closed log":
        surroundings.ledger.continue_logs()
    for _ in range(compared + 5):  # the new log may be longer than what was compared of the old one
        surroundings.ledger.append(_entry("log.heartbeat", {"size": 1}))
    again = await surroundings.start()
    with pytest.raises(StateBehindLedger) as refused:
        await again.register(*SIM_TOOLS)
    assert refused.value.metadata["event_id"] == later.event_id
    assert ("of shard 1 of the log of acme" in caplog.text) == (where == "beginning of the next")
