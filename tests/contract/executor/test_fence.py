"""Why a worker's write starts by updating the plan's own row: the weaker fence lets an old intent through."""

import asyncio

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal_executor import database as db
from counterseal_executor.plans.unit import Fenced
from support.executor import Executor, World

TAKE_OVER = "UPDATE plan SET lease_epoch = 2 WHERE plan_id = :plan_id"
READ_STEP = "SELECT state FROM step WHERE plan_id = :plan_id"
EXISTS_FENCE = (
    "UPDATE step SET state = 'INTENT' WHERE plan_id = :plan_id"
    " AND EXISTS (SELECT 1 FROM plan WHERE plan_id = :plan_id AND lease_epoch = 1)"
)
UPDATE_FENCE = "UPDATE plan SET seq = seq WHERE plan_id = :plan_id AND lease_epoch = 1"
INTENT = "UPDATE step SET state = 'INTENT' WHERE plan_id = :plan_id"


async def test_an_exists_fence_lets_an_intent_become_durable_after_the_takeover_read_ready(
    executor: Executor, surroundings: World
) -> None:
    plan_id = await _plan_with_epoch_one(executor, surroundings)
    async with _session(surroundings) as old, _session(surroundings) as new:
        assert await db.run(old, EXISTS_FENCE, plan_id=plan_id) == 1  # the old worker passes its check
        assert await db.run(new, TAKE_OVER, plan_id=plan_id) == 1  # and is taken over meanwhile
        seen = (await db.one(new, READ_STEP, plan_id=plan_id)).state
        await new.commit()
        await old.commit()
    surroundings.check_traces = False  # the step was moved by hand
    assert seen == "PENDING"  # the new owner believes that nothing was intended
    assert await _state(surroundings, plan_id) == "INTENT"  # and it is wrong


async def test_updating_the_plan_first_makes_the_takeover_wait_and_see_the_intent(
    executor: Executor, surroundings: World
) -> None:
    surroundings.check_traces = False  # the step is moved by hand
    plan_id = await _plan_with_epoch_one(executor, surroundings)
    async with _session(surroundings) as old, _session(surroundings) as new:
        assert await db.run(old, UPDATE_FENCE, plan_id=plan_id) == 1
        await db.run(old, INTENT, plan_id=plan_id)
        takeover = asyncio.create_task(db.run(new, TAKE_OVER, plan_id=plan_id))
        await asyncio.sleep(0.2)
        assert not takeover.done()
        await old.commit()
        await takeover
        assert (await db.one(new, READ_STEP, plan_id=plan_id)).state == "INTENT"
        await new.commit()


async def test_a_worker_with_an_older_epoch_changes_nothing(executor: Executor, surroundings: World) -> None:
    from counterseal_executor.plans.unit import change

    plan_id = await _plan_with_epoch_one(executor, surroundings)
    async with _session(surroundings) as new:
        await db.run(new, TAKE_OVER, plan_id=plan_id)
        await new.commit()
    maker = executor.plans._maker
    fenced = False
    try:
        async with change(surroundings.engine, maker, "acme", plan_id, epoch=1, barrier=True) as unit:
            unit.move_step("s1", "deps_met")
    except Fenced:
        fenced = True
    assert fenced
    assert await _state(surroundings, plan_id) == "PENDING"


class _session:  # noqa: N801 (reads as a function)
    """A transaction of our own loops, committed by the test."""

    def __init__(self, surroundings: World) -> None:
        self._connection = surroundings.engine.connect()

    async def __aenter__(self) -> AsyncConnection:
        conn = await self._connection.__aenter__()
        await conn.execute(sa.text("SELECT set_config('counterseal.tenant', '*', true)"))
        return conn

    async def __aexit__(self, *args: object) -> None:
        await self._connection.__aexit__(*args)


async def _plan_with_epoch_one(executor: Executor, surroundings: World) -> str:
    answer = await executor.propose()
    async with _session(surroundings) as conn:
        await db.run(conn, "UPDATE plan SET lease_epoch = 1 WHERE plan_id = :plan_id", plan_id=answer.plan_id)
        await conn.commit()
    return str(answer.plan_id)


async def _state(surroundings: World, plan_id: str) -> str:
    async with _session(surroundings) as conn:
        return str((await db.one(conn, READ_STEP, plan_id=plan_id)).state)
