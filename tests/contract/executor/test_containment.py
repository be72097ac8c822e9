"""The barrier: when a stop is acknowledged, no intent in its scope becomes durable any more."""

import asyncio
import time

import pytest
import sqlalchemy as sa

from counterseal.api.executor.v1 import operator_pb2
from counterseal.errors import Contained, InputInvalid, RoleRequired, WrongState
from counterseal_executor import database as db
from counterseal_executor.connectors.sim_world import Fault
from counterseal_executor.containment import store as containment
from support.executor import AGENT, IDA, Executor, World, refund
from support.requirements import requirement

SCOPE = "tenant:acme"


async def test_a_halt_stops_plans_before_and_after_their_gate_and_says_when(
    executor: Executor, surroundings: World
) -> None:
    proposed = await executor.propose()
    surroundings.ledger.down = True  # keeps the next plan at its gate
    committed = await executor.propose(refund(key="ch_2"))
    await executor.commit(committed)
    answer = await executor.halt(SCOPE)
    assert answer.state.stopped
    assert answer.state.epoch == 1
    assert answer.HasField("stopped_time")
    assert answer.HasField("quiesced_time")
    assert answer.open_intent_count == 0
    surroundings.ledger.down = False
    assert (await executor.until(proposed.plan_id, "CANCELLED")).reason_code == "CONTAINED"
    assert (await executor.until(committed.plan_id, "HALTED")).reason_code == "CONTAINED"
    assert surroundings.sim.effects() == []
    async with asyncio.timeout(10):
        while not {"containment.stopped", "containment.quiesced"} <= set(surroundings.ledger.types):
            await asyncio.sleep(0.05)


async def test_a_halt_without_policy_takes_the_next_epoch_and_is_idempotent(executor: Executor) -> None:
    first = await executor.halt(SCOPE)
    again = await executor.halt(SCOPE)
    assert (first.state.epoch, again.state.epoch) == (1, 1)
    later = await executor.halt(SCOPE, 7)
    assert later.state.epoch == 7
    older = await executor.halt(SCOPE, 3)
    assert (older.state.epoch, older.state.stopped) == (7, True)
    barrier = await executor.operator.GetBarrier(operator_pb2.GetBarrierRequest(), None)
    assert [(s.scope, s.epoch, s.stopped) for s in barrier.states] == [(SCOPE, 7, True)]


@pytest.mark.parametrize("scope", ["", "acme", "tenant:", "tenant:ac/me", "plan:1", "agent:acme", "nation:x"])
async def test_text_that_names_no_scope_is_refused(executor: Executor, scope: str) -> None:
    with pytest.raises(InputInvalid):
        await executor.halt(scope)


async def test_only_the_stream_lifts_and_a_lift_resumes_nothing_by_itself(
    executor: Executor, surroundings: World
) -> None:
    surroundings.sim.script("shop.refund", Fault("delay", seconds=1.0))
    answer = await executor.propose(refund("s1"), refund("s2", key="ch_2", needs=["s1"]))
    await executor.commit(answer)
    await _until_intent(executor, answer.plan_id)
    await executor.halt(SCOPE, 1, seconds=0.4)
    plan = await executor.until(answer.plan_id, "HALTED")
    with pytest.raises(Contained):
        await executor.resume(answer.plan_id)
    surroundings.policy.stream(SCOPE, 2, stopped=False)
    surroundings.policy.epochs[SCOPE] = 2
    await _until_lifted(executor)
    async with asyncio.timeout(10):
        while plan.steps[0].state == "INTENT":  # the stalled call comes back, and the fence refuses it
            plan = (await executor.get(answer.plan_id)).plan
            await asyncio.sleep(0.02)
    assert (plan.state, plan.steps[0].state) == ("HALTED", "READY")
    with pytest.raises(RoleRequired):
        await executor.resume(answer.plan_id, caller=AGENT)
    await executor.resume(answer.plan_id, caller=IDA)
    plan = await executor.until(answer.plan_id, "SUCCEEDED")
    assert len(surroundings.sim.effects()) == 2
    with pytest.raises(WrongState):
        await executor.resume(plan.plan_id)


async def test_an_older_epoch_on_the_stream_is_no_silent_lift(executor: Executor, surroundings: World) -> None:
    await executor.halt(SCOPE, 5)
    surroundings.policy.stream(SCOPE, 4, stopped=False)
    surroundings.policy.stream(SCOPE, 5, stopped=False)
    await asyncio.sleep(0.3)
    barrier = await executor.operator.GetBarrier(operator_pb2.GetBarrierRequest(), None)
    assert [(s.epoch, s.stopped) for s in barrier.states] == [(5, True)]


@requirement("containment:stopped")
async def test_a_stop_after_the_check_and_before_the_effect_is_seen_by_the_fence(
    executor: Executor, surroundings: World
) -> None:
    surroundings.sim.script("shop.refund", Fault("delay", seconds=0.8))  # stalls between the intent and the effect
    answer = await executor.propose()
    await executor.commit(answer)
    await _until_intent(executor, answer.plan_id)
    halted = await executor.halt(SCOPE, seconds=20)
    assert halted.HasField("quiesced_time")
    plan = await executor.until(answer.plan_id, "HALTED")
    assert plan.steps[0].state == "READY"
    assert surroundings.sim.effects() == []


@requirement("containment:stopped")
async def test_halting_under_sixteen_busy_workers_leaves_no_late_intent(
    executor: Executor, surroundings: World
) -> None:
    """16 workers make intents as fast as they can; none is durable after the stop was acknowledged."""
    late = 0
    latencies = []
    for round_ in range(10):
        late_here, latency = await _round(surroundings, f"tenant:t{round_}")
        late += late_here
        latencies.append(latency)
    assert late == 0
    assert sorted(latencies)[len(latencies) // 2] < 1.0


@requirement("containment:stopped")
async def test_lock_and_read_in_one_statement_would_let_late_intents_through(surroundings: World) -> None:
    """The trap that `share_barrier` guards: the statement's snapshot is older than its wait for the lock."""
    async with surroundings.engine.connect() as stopper:
        await stopper.begin()
        await db.hold_barrier(stopper)
        seen: dict[str, bool] = {}

        async def worker(name: str) -> None:
            async with surroundings.engine.begin() as conn:
                if name == "one statement":
                    row = await db.one(
                        conn,
                        f"SELECT pg_advisory_xact_lock_shared({db.BARRIER_KEY}),"
                        " EXISTS (SELECT 1 FROM barrier WHERE scope = 'tenant:acme' AND stopped)",
                    )
                    seen[name] = bool(row[1])
                else:
                    await db.share_barrier(conn)
                    try:
                        await containment.refuse_contained(conn, {SCOPE: 0})
                        seen[name] = False
                    except Contained:
                        seen[name] = True

        workers = [asyncio.create_task(worker(name)) for name in ("one statement", "two statements")]
        await asyncio.sleep(0.3)
        await stopper.execute(sa.text("INSERT INTO barrier VALUES ('tenant:acme', 1, true, 'TEST', clock_timestamp())"))
        await stopper.commit()
        await asyncio.gather(*workers)
    assert seen == {"one statement": False, "two statements": True}


async def _round(surroundings: World, scope: str) -> tuple[int, float]:
    stopped_at: list[float] = []
    late = 0
    going = True

    async def worker() -> None:
        nonlocal late
        while going:
            async with surroundings.engine.begin() as conn:
                await db.share_barrier(conn)
                try:
                    await containment.refuse_contained(conn, {scope: 0})
                except Contained:
                    return
                await conn.execute(sa.text("SELECT pg_sleep(0.002)"))
                if stopped_at:
                    late += 1

    workers = [asyncio.create_task(worker()) for _ in range(16)]
    await asyncio.sleep(0.05)
    started = time.perf_counter()
    async with surroundings.engine.begin() as conn:
        await db.hold_barrier(conn)
        await conn.execute(
            sa.text("INSERT INTO barrier VALUES (:scope, 1, true, 'TEST', clock_timestamp())"), {"scope": scope}
        )
    stopped_at.append(time.perf_counter())
    await asyncio.gather(*workers)
    going = False
    return late, stopped_at[0] - started


async def _until_intent(executor: Executor, plan_id: str) -> None:
    async with asyncio.timeout(20):
        while (await executor.get(plan_id)).plan.steps[0].state != "INTENT":
            await asyncio.sleep(0.01)


async def _until_lifted(executor: Executor) -> None:
    async with asyncio.timeout(5):
        while True:
            barrier = await executor.operator.GetBarrier(operator_pb2.GetBarrierRequest(), None)
            if all(not state.stopped for state in barrier.states):
                return
            await asyncio.sleep(0.02)
