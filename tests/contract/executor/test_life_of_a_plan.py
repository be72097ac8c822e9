"""A plan from proposal to its end, as its agent and the ledger see it."""

from support.executor import Executor, World, refund


async def test_a_plan_is_proposed_committed_executed_and_read_back(executor: Executor, surroundings: World) -> None:
    answer = await executor.propose(refund(key="ch_7", value="refunded"))
    assert answer.plan.state == "PROPOSED"
    committed = await executor.commit(answer)
    assert committed.state == "COMMITTED"
    plan = await executor.until(answer.plan_id, "SUCCEEDED")
    assert [step.state for step in plan.steps] == ["KEPT"]
    item = surroundings.sim.get("ch_7")
    assert item is not None
    assert item.value == "refunded"
    assert [effect.tool for effect in surroundings.sim.effects()] == ["shop.refund"]


async def test_watch_is_gapless_resumable_and_ends_after_the_terminal_event(executor: Executor) -> None:
    answer = await executor.propose()
    await executor.commit(answer)
    events = await executor.watch(answer.plan_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events] == [
        "plan.proposed",
        "plan.committed",
        "plan.changed",
        "step.changed",
        "step.intent",
        "step.outcome",
        "step.verified",
        "step.changed",
        "plan.ended",
    ]
    assert [event.terminal for event in events] == [False] * 8 + [True]
    assert await executor.watch(answer.plan_id, after_seq=4) == events[4:]
    assert await executor.watch(answer.plan_id, after_seq=9) == []
