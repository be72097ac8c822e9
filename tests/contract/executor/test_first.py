from support.executor import Executor, World


async def test_a_plan_is_proposed_committed_executed_and_read_back(executor: Executor, surroundings: World) -> None:
    answer = await executor.propose()
    assert answer.plan.state == "PROPOSED"
    committed = await executor.commit(answer)
    assert committed.state == "COMMITTED"
    plan = await executor.until(answer.plan_id, "SUCCEEDED")
    assert [step.state for step in plan.steps] == ["KEPT"]
    print(surroundings.ledger.types)
    print([(e.seq, e.type, e.state) for e in await executor.watch(answer.plan_id)])
