"""What a step must leave at the target, in its agent's own words: in the bytes, and compared at the read-back."""

import pytest

from counterseal.api.executor.v1 import plan_pb2
from counterseal.canonical import parse_canonical
from counterseal.errors import NotCanonical, PlanInvalid
from counterseal.identity import acting_for
from counterseal.ids import new_id
from counterseal.ledger import entry as entries
from support.executor import AGENT, Executor, World, proposed, refund
from support.requirements import requirement

UNDO = {"tool": "shop.restore@1.0.0", "args": {"key": "ch_1", "value": {"$before": "/0/value"}}}


def post(ref: str, value: object) -> dict[str, object]:
    return {"ref": ref, "value_json": value}


def verdicts(surroundings: World) -> list[str]:
    listed = [request.event for request in surroundings.ledger.requests]
    return [event.step_verified.verdict for event in listed if event.WhichOneof("event") == "step_verified"]


@requirement("plan:postconditions")
async def test_a_step_that_left_what_it_promised_is_verified(executor: Executor, surroundings: World) -> None:
    answer = await executor.propose(refund(post=[post("value", "refunded"), post("exists", True)]))
    step = parse_canonical(answer.canonical_plan)["steps"][0]
    assert step["post"] == [
        {"kind": "tool_state", "ref": "value", "value": "refunded"},
        {"kind": "tool_state", "ref": "exists", "value": True},
    ]
    assert {one["ref"] for one in step["pre"]} == {"exists", "version"}, "the server's own, and not mixed up with it"
    await executor.commit(answer)
    await executor.until(answer.plan_id, "SUCCEEDED")
    await surroundings.delivered()
    assert verdicts(surroundings) == ["ok"]


@requirement("plan:postconditions")
@pytest.mark.parametrize("missed", [post("value", "paid out"), post("exists", 1), post("nobody", None)])
async def test_one_that_did_not_is_misapplied_and_taken_back(
    executor: Executor, surroundings: World, missed: dict[str, object]
) -> None:
    """The tool's own check passes; 1 is not true, and a value that nothing observes is not null."""
    surroundings.sim.put("ch_1", "paid")
    answer = await executor.propose(refund(undo=UNDO, post=[post("version", 2), missed]))
    await executor.commit(answer)
    await executor.until(answer.plan_id, "ROLLED_BACK")
    item = surroundings.sim.get("ch_1")
    assert item is not None
    assert item.value == "paid"
    await surroundings.delivered()
    assert verdicts(surroundings) == ["bad", "ok"]
    (began,) = [e for e in map(entries.parse, surroundings.ledger.log) if e.type == "compensation.started"]
    assert began.data["cause"] == "PRECONDITION_CHANGED"


@requirement("plan:postconditions")
async def test_postconditions_are_part_of_what_is_approved(executor: Executor) -> None:
    plain = await executor.propose(refund(key="a"))
    promised = await executor.propose(refund(key="a", post=[post("value", "refunded")]))
    with_other = await executor.propose(refund(key="a", post=[post("value", "Refunded")]))
    assert len({plain.plan_digest, promised.plan_digest, with_other.plan_digest}) == 3
    assert "post" not in parse_canonical(plain.canonical_plan)["steps"][0]


@pytest.mark.parametrize("text", [b"", b"1,2", b'1,"x":2', b"1}", b'"a', b"NaN", b"1e400", b"[" * 40 + b"]" * 40])
async def test_what_is_not_one_json_value_is_refused_by_its_place(executor: Executor, text: bytes) -> None:
    step = proposed(refund())
    step.post.add(kind="tool_state", ref="value", value_json=text)
    request = plan_pb2.ProposePlanRequest(idempotency_key=new_id(), objective="x", steps=[step])
    with acting_for(AGENT), pytest.raises(NotCanonical) as caught:
        await executor.plans.ProposePlan(request, None)
    assert caught.value.metadata["pointer"].startswith("/steps/0/post/0/value")


async def test_what_nobody_could_read_back_is_refused(executor: Executor) -> None:
    look = {"id": "s1", "tool": "shop.look@1.0.0", "target": "shop", "args": {"key": "a"}}
    with pytest.raises(PlanInvalid, match="only reads"):
        await executor.propose({**look, "post": [post("exists", False)]})
