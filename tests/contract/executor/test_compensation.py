"""Taking back: in reverse order, each undo a full step, read back; never over other people's work."""

import asyncio

import pytest
import sqlalchemy as sa

from counterseal.canonical import parse_canonical
from counterseal.errors import WrongState
from counterseal_executor.connectors.sim_world import Fault
from counterseal_executor.database import transaction
from support.executor import Executor, World, refund
from support.requirements import requirement


def restoring(step_id: str, key: str, **changes: object) -> dict[str, object]:
    """A write that is undone by putting the value before back."""
    undo = {"tool": "shop.restore@1.0.0", "args": {"key": key, "value": {"$before": "/0/value"}}}
    return refund(step_id, key, **{"undo": undo, **changes})


@requirement("plan:taken-back")
async def test_when_step_three_of_three_fails_two_and_one_are_undone_in_reverse_and_read_back(
    executor: Executor, surroundings: World
) -> None:
    for key in ("a", "b", "c"):
        surroundings.sim.put(key, f"old {key}")
    surroundings.sim.script("shop.append", Fault("refuse", detail="SHOP_CLOSED"))
    answer = await executor.propose(
        restoring("s1", "a"),
        restoring("s2", "b", needs=["s1"]),
        refund("s3", "c", tool="shop.append@1.0.0", needs=["s2"]),
    )
    await executor.commit(answer)
    plan = await executor.until(answer.plan_id, "ROLLED_BACK")
    assert [step.state for step in plan.steps] == ["COMPENSATED", "COMPENSATED", "NOT_APPLIED"]
    assert plan.steps[2].error_code == "SHOP_CLOSED"
    assert [surroundings.sim.get(key).value for key in ("a", "b", "c")] == ["old a", "old b", "old c"]  # type: ignore[union-attr]
    assert [(effect.tool, effect.key) for effect in surroundings.sim.effects()] == [
        ("shop.refund", "a"),
        ("shop.refund", "b"),
        ("shop.restore", "b"),
        ("shop.restore", "a"),
    ]
    types = [event.type for event in await executor.watch(answer.plan_id)]
    assert types.count("compensation.started") == types.count("compensation.ended") == 1
    assert types.index("compensation.started") < types.index("compensation.ended") < types.index("plan.ended")
    assert types.count("step.verified") == 4


async def test_a_first_step_that_fails_leaves_nothing_to_undo(executor: Executor, surroundings: World) -> None:
    surroundings.sim.script("shop.refund", Fault("refuse", detail="SHOP_CLOSED"))
    answer = await executor.propose(refund(), refund("s2", "b", needs=["s1"]))
    await executor.commit(answer)
    plan = await executor.until(answer.plan_id, "FAILED_NO_EFFECT")
    assert plan.reason_code == "TARGET_REFUSED"
    assert [step.state for step in plan.steps] == ["NOT_APPLIED", "SKIPPED"]
    assert surroundings.sim.effects() == []


async def test_a_retryable_refusal_is_tried_again_as_often_as_the_plan_says(
    executor: Executor, surroundings: World
) -> None:
    for _ in range(2):
        surroundings.sim.script("shop.refund", Fault("refuse", detail="BUSY", retryable=True))
    answer = await executor.propose(refund(retry_max=2))
    await executor.commit(answer)
    plan = await executor.until(answer.plan_id, "SUCCEEDED")
    assert plan.steps[0].attempt_count == 3
    assert len(surroundings.sim.effects()) == 1


@requirement("plan:taken-back")
async def test_an_undo_never_overwrites_what_others_did_since(executor: Executor, surroundings: World) -> None:
    surroundings.sim.put("a", "old")
    surroundings.sim.script("shop.append", Fault("delay", seconds=0.8))
    surroundings.sim.script("shop.append", Fault("refuse", detail="SHOP_CLOSED"))
    answer = await executor.propose(
        restoring("s1", "a"),
        refund("s2", "b", tool="shop.append@1.0.0", needs=["s1"]),
        refund("s3", "b", tool="shop.append@1.0.0", needs=["s2"]),
    )
    await executor.commit(answer)
    await _until_step(executor, answer.plan_id, 0, "VERIFIED")
    surroundings.sim.put("a", "somebody else's")
    plan = await executor.until(answer.plan_id, "NEEDS_ATTENTION")
    assert surroundings.sim.get("a").value == "somebody else's"  # type: ignore[union-attr]
    assert plan.steps[0].state in ("UNDO_FAILED", "VERIFIED")


@requirement("plan:taken-back")
async def test_an_effect_that_cannot_be_undone_is_said_to_stand(executor: Executor, surroundings: World) -> None:
    surroundings.sim.script("shop.append", Fault("refuse", detail="SHOP_CLOSED"))
    answer = await executor.propose(refund("s1", "a"), refund("s2", "b", tool="shop.append@1.0.0", needs=["s1"]))
    await executor.commit(answer)
    plan = await executor.until(answer.plan_id, "NEEDS_ATTENTION")
    assert [step.state for step in plan.steps] == ["KEPT", "NOT_APPLIED"]
    assert len(surroundings.sim.effects()) == 1


async def test_a_failed_step_that_says_hold_waits_for_a_person(executor: Executor, surroundings: World) -> None:
    surroundings.sim.put("a", "old")
    surroundings.sim.script("shop.append", Fault("refuse", detail="SHOP_CLOSED"))
    answer = await executor.propose(
        restoring("s1", "a"), refund("s2", "b", tool="shop.append@1.0.0", needs=["s1"], on_fail="hold")
    )
    await executor.commit(answer)
    plan = await executor.until(answer.plan_id, "NEEDS_ATTENTION")
    assert [step.state for step in plan.steps] == ["VERIFIED", "NOT_APPLIED"]


async def test_cancelling_a_proposal_withdraws_it_and_a_running_plan_is_taken_back(
    executor: Executor, surroundings: World
) -> None:
    surroundings.sim.put("a", "old")
    proposal = await executor.propose()
    assert (await executor.cancel(proposal.plan_id)).state == "WITHDRAWN"
    with pytest.raises(WrongState):
        await executor.cancel(proposal.plan_id)
    surroundings.sim.script("shop.append", Fault("delay", seconds=0.8))
    answer = await executor.propose(
        restoring("s1", "a"),
        refund("s2", "b", tool="shop.append@1.0.0", needs=["s1"], undo=_removing("b")),
        refund("s3", "c", needs=["s2"]),
    )
    await executor.commit(answer)
    await _until_step(executor, answer.plan_id, 1, "INTENT")
    await executor.cancel(answer.plan_id)
    plan = await executor.until(answer.plan_id, "ROLLED_BACK")
    assert [step.state for step in plan.steps] == ["COMPENSATED", "COMPENSATED", "SKIPPED"]
    assert surroundings.sim.get("a").value == "old"  # type: ignore[union-attr]
    assert surroundings.sim.get("b") is None


async def test_a_lost_answer_of_an_undo_is_probed_too(executor: Executor, surroundings: World) -> None:
    surroundings.sim.put("a", "old")
    surroundings.sim.script("shop.restore", Fault("lose_answer"))
    surroundings.sim.script("shop.append", Fault("refuse", detail="SHOP_CLOSED"))
    answer = await executor.propose(
        {**restoring("s1", "a"), "timeout_seconds": 1},
        refund("s2", "b", tool="shop.append@1.0.0", needs=["s1"]),
    )
    await executor.commit(answer)
    await executor.until(answer.plan_id, "ROLLED_BACK", seconds=30)
    assert [effect.tool for effect in surroundings.sim.effects()] == ["shop.refund", "shop.restore"]


async def test_what_a_probed_undo_had_answered_is_there_for_its_read_back(
    executor: Executor, surroundings: World
) -> None:
    # A read-back that asks for the write's own result would otherwise call a finished undo failed.
    surroundings.sim.put("a", "old")
    surroundings.sim.script("shop.restore", Fault("lose_answer"))
    surroundings.sim.script("shop.append", Fault("refuse", detail="SHOP_CLOSED"))
    answer = await executor.propose(
        {**restoring("s1", "a"), "timeout_seconds": 1},
        refund("s2", "b", tool="shop.append@1.0.0", needs=["s1"]),
    )
    await executor.commit(answer)
    await executor.until(answer.plan_id, "ROLLED_BACK", seconds=30)
    async with transaction(surroundings.engine, "*") as conn:
        query = "SELECT result, marker FROM attempt WHERE plan_id = CAST(:id AS uuid) AND undo"
        row = (await conn.execute(sa.text(query), {"id": answer.plan_id})).one()
    assert row.result is not None
    assert parse_canonical(bytes(row.result))["output"] == parse_canonical(bytes(row.marker)).get("output", {})


async def test_a_read_in_a_failed_plan_is_nothing_to_take_back(executor: Executor, surroundings: World) -> None:
    surroundings.sim.script("shop.refund", Fault("refuse", detail="SHOP_CLOSED"))
    answer = await executor.propose(
        refund("s1", "a", tool="shop.look@1.0.0", args={"key": "a"}), refund("s2", "b", needs=["s1"])
    )
    await executor.commit(answer)
    plan = await executor.until(answer.plan_id, "FAILED_NO_EFFECT")
    assert [step.state for step in plan.steps] == ["KEPT", "NOT_APPLIED"]


async def test_policy_that_no_longer_allows_the_plan_halts_it_between_steps(
    executor: Executor, surroundings: World
) -> None:
    surroundings.policy.life_ms = 12_000  # so that the second step needs a decision of its own
    surroundings.sim.script("shop.refund", Fault("delay", seconds=0.8))
    answer = await executor.propose(refund(timeout_seconds=1), refund("s2", "b", timeout_seconds=5, needs=["s1"]))
    await executor.commit(answer)
    await asyncio.sleep(0.4)
    surroundings.policy.outcome["COMMIT"] = "DENY"
    plan = await executor.until(answer.plan_id, "HALTED")
    assert plan.reason_code == "POLICY_CHANGED"
    assert [step.state for step in plan.steps] == ["VERIFIED", "PENDING"]
    assert len(surroundings.sim.effects()) == 1


def _removing(key: str) -> dict[str, object]:
    return {"tool": "shop.remove@1.0.0", "args": {"key": key}}


async def _until_step(executor: Executor, plan_id: str, index: int, state: str) -> None:
    async with asyncio.timeout(10):
        while (await executor.get(plan_id)).plan.steps[index].state != state:
            await asyncio.sleep(0.02)
