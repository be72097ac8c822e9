"""The whole retail workload without the services: observe, the real rules, the real SQL, the rows that are left.

What the services add (tokens, grants, the ledger) is `make tau`'s; this says that tools and rules are right.
"""

from decimal import Decimal

import pytest
from examples.retail.catalogue import descriptors
from examples.retail.workload import cents, in_cents, read_shop, read_tasks, same_rows, tool_names

from support.postgres import FreshDatabase
from support.retail import open_bench, retail_data
from support.retail_policy import ask, retail_policy

COUNTS = {"tasks-dev.json": 20, "tasks-reads.json": 15, "tasks-more.json": 79, "tasks-foreign.json": 10}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if count > 10 else []) for name, count in COUNTS.items()]
)
async def test_every_task_leaves_the_expected_rows_and_refuses_exactly_what_must_be_refused(
    name: str, fresh_database: FreshDatabase
) -> None:
    data = retail_data()
    bench = await open_bench(fresh_database, read_shop(data))
    policy = retail_policy()
    tasks = read_tasks(data / name)
    assert len(tasks) == COUNTS[name]
    for task in tasks:
        for action in task.actions:
            observed = await bench.observe(action.tool, action.args)
            answer = ask(policy, bench.tools, action.tool, action.args, observed, task.user_id)
            assert (answer.outcome == "DENY") == (action.refused is not None), (task.id, action, answer.reason_codes)
            if answer.outcome == "DENY":
                assert answer.reason_codes
                continue
            assert answer.outcome == "ALLOW"
            await bench.run(action.tool, action.args)
        assert same_rows(await bench.database.changed_rows(), task.expected), task.id
        await bench.database.reset()
        assert await bench.database.changed_rows() == {"orders": {}, "users": {}}
    await bench.database.close()


def test_every_tool_of_the_workload_has_a_descriptor() -> None:
    assert {f"retail.{name}" for name in tool_names(retail_data())} == {t.name for t in descriptors()} - {
        "retail.restore"
    }


def test_the_policy_names_the_exact_descriptors() -> None:
    """A changed SQL statement is a changed digest: the catalogue must have been written for these very texts."""
    policy = retail_policy()
    assert {name: tool.entry.digest for name, tool in policy.tools.items()} == {
        tool.reference: tool.digest for tool in descriptors()
    }


def test_rows_that_an_agent_wrote_down_itself_cannot_be_put_back() -> None:
    policy, tools = retail_policy(), {tool.name.removeprefix("retail."): tool for tool in descriptors()}
    for args in ({"order": "{}", "customer": None}, {"order": None, "customer": '{"user_id": "ana"}'}):
        answer = ask(policy, tools, "restore", args, {}, "ana")
        assert (answer.outcome, answer.reason_codes) == ("DENY", ("INPUT_INVALID",))


def test_amounts_are_compared_as_cents() -> None:
    assert cents(Decimal("6.9199999999999875")) == 692
    assert in_cents({"a": [6.92, 692, Decimal("0.1"), True, "1"]}) == {"a": [692, 69200, 10, True, "1"]}
    assert not same_rows({"orders": {"x": {"amount": 1.0}}}, {"orders": {"x": {"amount": 1.01}}})
