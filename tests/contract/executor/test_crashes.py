"""SIGKILL, at named moments and at random ones: no effect without an intent, none twice, no plan left behind."""

import asyncio
import contextlib
import random
from collections import Counter

import pytest

from counterseal.canonical import parse_canonical
from counterseal_executor.connectors.sim_world import Fault
from support.executor import SIM_TOOLS, Executor, World, refund


@pytest.fixture
async def idle(surroundings: World) -> Executor:
    """An executor that proposes and commits and leaves the work to other processes."""
    executor = await surroundings.start(max_workers=0)
    await executor.register(*SIM_TOOLS)
    return executor


@pytest.mark.parametrize(
    ("tool", "moment", "intents"),
    [
        pytest.param("shop.refund", "crash_before", 2, marks=pytest.mark.slow),
        ("shop.refund", "crash_after", 1),
        pytest.param("shop.append", "crash_before", 2, marks=pytest.mark.slow),
        pytest.param("shop.append", "crash_after", 1, marks=pytest.mark.slow),
        pytest.param("shop.keyed", "crash_after", 2, marks=pytest.mark.slow),
    ],
)
async def test_a_process_that_dies_around_its_effect_is_followed_by_one_that_finds_out(
    idle: Executor, surroundings: World, tool: str, moment: str, intents: int
) -> None:
    surroundings.sim.script(tool, Fault(moment))
    answer = await idle.propose(refund(tool=f"{tool}@1.0.0", timeout_seconds=1))
    await idle.commit(answer)
    async with _restarting(surroundings) as deaths:
        await idle.until(answer.plan_id, "SUCCEEDED", seconds=60)
    assert deaths[0] == 1
    assert len(surroundings.sim.effects()) == 1
    events = [event.type for event in await idle.watch(answer.plan_id)]
    assert events.count("step.intent") >= intents
    assert events.count("step.intent") == events.count("step.outcome")


async def test_an_opaque_effect_around_which_its_process_died_is_doubt_for_a_person(
    idle: Executor, surroundings: World
) -> None:
    surroundings.sim.script("shop.opaque", Fault("crash_after"))
    answer = await idle.propose(refund(tool="shop.opaque@1.0.0", timeout_seconds=1))
    await idle.commit(answer)
    async with _restarting(surroundings):
        plan = await idle.until(answer.plan_id, "HALTED", seconds=60)
    assert (plan.reason_code, plan.steps[0].state) == ("IN_DOUBT", "IN_DOUBT")


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_killed_at_random_moments_every_plan_ends_truthfully(idle: Executor, surroundings: World) -> None:
    """Replayable by its seed; the moments fall before and after every durable write of a step."""
    moments = random.Random(20261122)
    plans = []
    for number in range(8):
        steps = [
            refund("s1", f"k{number}", number, tool="shop.append@1.0.0", timeout_seconds=1),
            refund("s2", f"m{number}", number, tool="shop.append@1.0.0", timeout_seconds=1, needs=["s1"]),
        ]
        answer = await idle.propose(*steps)
        await idle.commit(answer)
        plans.append(answer.plan_id)
    process = surroundings.spawn_process()
    try:
        for _ in range(6):
            await asyncio.sleep(1.2 + moments.random())
            process.kill()
            process.wait()
            process = surroundings.spawn_process()
        for plan_id in plans:
            await idle.until(plan_id, "SUCCEEDED", seconds=120)
    finally:
        process.kill()
        process.wait()
    effects = Counter(effect.key for effect in surroundings.sim.effects())
    assert effects == Counter([f"k{n}" for n in range(8)] + [f"m{n}" for n in range(8)])
    attempts = {
        parse_canonical(entry)["data"]["attempt_id"]
        for entry, kind in zip(surroundings.ledger.log, surroundings.ledger.types, strict=True)
        if kind == "step.intent"
    }
    assert {effect.attempt_id for effect in surroundings.sim.effects()} <= attempts
    assert surroundings.ledger.types.count("plan.committed") == len(plans)


@contextlib.asynccontextmanager
async def _restarting(surroundings: World):  # type: ignore[no-untyped-def]
    """A worker process that is started again whenever it dies; yields how often it did."""
    deaths = [0]
    processes = [surroundings.spawn_process()]

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.1)
            if processes[-1].poll() is not None:
                deaths[0] += 1
                processes.append(surroundings.spawn_process())

    task = asyncio.create_task(watch())
    try:
        yield deaths
    finally:
        task.cancel()
        processes[-1].kill()
        processes[-1].wait()
