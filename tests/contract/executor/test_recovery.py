"""What a crash, a lost answer, a zombie or a silent neighbour leaves behind, and what becomes of it."""

import asyncio

import pytest

from counterseal.api.executor.v1 import operator_pb2
from counterseal.errors import CredentialsUnavailable, InputInvalid, NotFound, WrongState
from counterseal_executor.connectors.sim_world import Fault
from support.executor import IDA, Executor, World, refund
from support.requirements import requirement

APPLIED = operator_pb2.STEP_RESOLUTION_APPLIED
ABSENT = operator_pb2.STEP_RESOLUTION_ABSENT
UNKNOWN = operator_pb2.STEP_RESOLUTION_UNKNOWN


def outcomes(surroundings: World) -> list[str]:
    return [
        request.event.step_outcome.outcome
        for request in surroundings.ledger.requests
        if request.event.WhichOneof("event") == "step_outcome"
    ]


@requirement("plan:truthful-end")
async def test_a_lost_answer_is_doubt_and_the_probe_ends_it_without_a_second_effect(
    executor: Executor, surroundings: World
) -> None:
    surroundings.sim.script("shop.refund", Fault("lose_answer"))
    answer = await executor.propose(_short(refund()))
    await executor.commit(answer)
    await executor.until(answer.plan_id, "SUCCEEDED", seconds=30)
    assert len(surroundings.sim.effects()) == 1
    events = [event.type for event in await executor.watch(answer.plan_id)]
    assert events.count("step.intent") == 1
    assert events.count("step.resolved") == 1
    await _until_outcome(surroundings, "unknown")


@requirement("plan:truthful-end")
async def test_a_lost_request_is_doubt_and_the_probe_lets_it_be_sent_again(
    executor: Executor, surroundings: World
) -> None:
    surroundings.sim.script("shop.refund", Fault("lose_request"))
    answer = await executor.propose(_short(refund()))
    await executor.commit(answer)
    plan = await executor.until(answer.plan_id, "SUCCEEDED", seconds=30)
    assert plan.steps[0].attempt_count == 2
    assert len(surroundings.sim.effects()) == 1


@requirement("plan:truthful-end")
async def test_what_nobody_can_be_asked_about_waits_for_a_person_and_is_never_called_failed(
    executor: Executor, surroundings: World
) -> None:
    surroundings.sim.script("shop.opaque", Fault("lose_answer"))
    answer = await executor.propose(_short(refund(tool="shop.opaque@1.0.0")))
    await executor.commit(answer)
    plan = await executor.until(answer.plan_id, "HALTED", seconds=30)
    assert (plan.reason_code, plan.steps[0].state) == ("IN_DOUBT", "IN_DOUBT")
    doubts = await _doubts(executor)
    assert [(d.plan_id, d.step_id, d.undo) for d in doubts] == [(answer.plan_id, "s1", False)]
    with pytest.raises(WrongState):
        await executor.resume(answer.plan_id)
    with pytest.raises(InputInvalid):
        await executor.resolve(answer.plan_id, "s1", 0)
    with pytest.raises(NotFound):
        await executor.resolve(answer.plan_id, "s9", APPLIED)
    assert await executor.resolve(answer.plan_id, "s1", APPLIED, caller=IDA) == "APPLIED"
    await executor.until(answer.plan_id, "SUCCEEDED")
    assert len(surroundings.sim.effects()) == 1


async def test_a_person_says_that_it_did_not_happen_and_the_plan_ends_without_effect(
    executor: Executor, surroundings: World
) -> None:
    surroundings.sim.script("shop.opaque", Fault("lose_request"))
    answer = await executor.propose(_short(refund(tool="shop.opaque@1.0.0")))
    await executor.commit(answer)
    await executor.until(answer.plan_id, "HALTED", seconds=30)
    assert await executor.resolve(answer.plan_id, "s1", ABSENT) == "NOT_APPLIED"
    await executor.until(answer.plan_id, "FAILED_NO_EFFECT")


async def test_a_keyed_target_is_sent_the_same_key_again(executor: Executor, surroundings: World) -> None:
    surroundings.sim.script("shop.keyed", Fault("lose_answer"))
    answer = await executor.propose(_short(refund(tool="shop.keyed@1.0.0")))
    await executor.commit(answer)
    plan = await executor.until(answer.plan_id, "SUCCEEDED", seconds=30)
    assert plan.steps[0].attempt_count == 2
    effects = surroundings.sim.effects()
    assert len(effects) == 1


@requirement("effect:intent-first")
async def test_without_the_ledger_nothing_is_sent_and_the_plan_finishes_when_it_is_back(
    executor: Executor, surroundings: World
) -> None:
    answer = await executor.propose()
    surroundings.ledger.down = True
    await executor.commit(answer)
    await asyncio.sleep(1.0)
    assert surroundings.sim.effects() == []
    assert (await executor.get(answer.plan_id)).plan.state == "COMMITTED"
    surroundings.ledger.down = False
    await executor.until(answer.plan_id, "SUCCEEDED", seconds=30)
    assert surroundings.ledger.types.count("plan.committed") == 1


@requirement("effect:intent-first")
async def test_a_ledger_that_fails_between_intent_and_effect_means_not_sent(
    executor: Executor, surroundings: World
) -> None:
    surroundings.sim.script("shop.refund", Fault("delay", seconds=0.8))
    answer = await executor.propose(refund("s1"), refund("s2", key="ch_2", needs=["s1"]))
    await executor.commit(answer)
    await _until_acknowledged(surroundings)
    surroundings.ledger.down = True
    plan = await executor.until(answer.plan_id, "HALTED")
    assert plan.reason_code == "LEDGER_UNAVAILABLE"
    assert [effect.key for effect in surroundings.sim.effects()] == ["ch_1"]
    surroundings.ledger.down = False
    await executor.until(answer.plan_id, "SUCCEEDED", seconds=30)
    await _until_outcome(surroundings, "not_sent")
    async with asyncio.timeout(5):
        while len(outcomes(surroundings)) < surroundings.ledger.types.count("step.intent"):
            await asyncio.sleep(0.05)
    assert set(outcomes(surroundings)) == {"applied", "not_sent"}
    assert outcomes(surroundings).count("applied") == 2


@pytest.mark.slow
@requirement("effect:intent-first")
async def test_a_plan_that_waits_for_a_service_tries_again_after_growing_pauses(
    executor: Executor, surroundings: World
) -> None:
    surroundings.sim.script("shop.refund", Fault("delay", seconds=0.8))
    answer = await executor.propose(refund("s1"), refund("s2", "b", needs=["s1"]))
    await executor.commit(answer)
    await _until_acknowledged(surroundings)
    surroundings.ledger.down = True
    await executor.until(answer.plan_id, "HALTED")
    await asyncio.sleep(4)
    plan = (await executor.get(answer.plan_id)).plan
    assert plan.steps[1].attempt_count <= 4
    surroundings.ledger.down = False
    await executor.until(answer.plan_id, "SUCCEEDED", seconds=30)


async def test_every_intent_is_in_the_ledger_before_its_effect(executor: Executor, surroundings: World) -> None:
    for number in range(5):
        surroundings.sim.script("shop.refund", Fault("delay", seconds=0.3))
        answer = await executor.propose(refund(key=f"ch_{number}"))
        await executor.commit(answer)
        await asyncio.sleep(0.25)
        intents = surroundings.ledger.types.count("step.intent")
        effects = len(surroundings.sim.effects())
        assert intents > effects or effects == number
        await executor.until(answer.plan_id, "SUCCEEDED")


async def test_a_plan_whose_worker_died_is_taken_over_by_another_process(
    executor: Executor, surroundings: World
) -> None:
    surroundings.sim.script("shop.refund", Fault("delay", seconds=30))
    answer = await executor.propose(_short(refund(), 40))
    await executor.commit(answer)
    await _until_step(executor, answer.plan_id, "INTENT")
    await surroundings.stop(executor)
    other = await surroundings.start()
    await other.until(answer.plan_id, "SUCCEEDED", seconds=30)
    assert len(surroundings.sim.effects()) == 1


@requirement("step:one-live-attempt")
async def test_a_zombie_that_wakes_up_after_the_takeover_changes_nothing(
    executor: Executor, surroundings: World
) -> None:
    """The old worker stalls in the connector past its lease; the fence refuses it when it wakes."""
    surroundings.sim.script("shop.refund", Fault("delay", seconds=6))
    answer = await executor.propose(_short(refund(), 40))
    await executor.commit(answer)
    await _until_step(executor, answer.plan_id, "INTENT")
    await _lose_lease(surroundings, answer.plan_id)
    other = await surroundings.start()
    await other.until(answer.plan_id, "SUCCEEDED", seconds=30)
    assert len(surroundings.sim.effects()) == 1
    await asyncio.sleep(6)
    assert len(surroundings.sim.effects()) == 1


async def test_a_broker_that_is_away_pauses_the_plan_and_nothing_is_sent(
    executor: Executor, surroundings: World
) -> None:
    answer = await executor.propose()
    surroundings.broker.error, surroundings.broker.error_on = CredentialsUnavailable(), "exchange"
    await executor.commit(answer)
    await asyncio.sleep(0.5)
    assert surroundings.sim.effects() == []
    surroundings.broker.error = None
    await executor.until(answer.plan_id, "SUCCEEDED", seconds=30)


async def _until_acknowledged(surroundings: World) -> None:
    """The first intent is in the ledger; its effect is still to come."""
    async with asyncio.timeout(20):
        while "step.intent" not in surroundings.ledger.types:
            await asyncio.sleep(0.01)


async def _until_outcome(surroundings: World, outcome: str) -> None:
    """The ledger follows: what is no intent is relayed behind the worker's back."""
    async with asyncio.timeout(10):
        while outcome not in outcomes(surroundings):
            await asyncio.sleep(0.05)


def _short(step: dict[str, object], seconds: int = 1) -> dict[str, object]:
    return {**step, "timeout_seconds": seconds}


async def _doubts(executor: Executor) -> list[operator_pb2.InDoubtStep]:
    from counterseal.identity import acting_for
    from support.executor import OMAR

    with acting_for(OMAR):
        return list((await executor.operator.ListInDoubt(operator_pb2.ListInDoubtRequest(), None)).steps)


async def _until_step(executor: Executor, plan_id: str, state: str) -> None:
    async with asyncio.timeout(10):
        while (await executor.get(plan_id)).plan.steps[0].state != state:
            await asyncio.sleep(0.02)


async def _lose_lease(surroundings: World, plan_id: str) -> None:
    """Let another worker own the plan, as if this process had been paused for longer than its lease."""
    import sqlalchemy as sa

    async with surroundings.engine.begin() as conn:
        await conn.execute(sa.text("SELECT set_config('counterseal.tenant', '*', true)"))
        await conn.execute(
            sa.text("UPDATE plan SET lease_epoch = lease_epoch + 1, lease_until = NULL WHERE plan_id = :id"),
            {"id": plan_id},
        )
