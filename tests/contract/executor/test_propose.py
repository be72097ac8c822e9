"""Proposing: strict, idempotent, and no oracle about what the target says."""

import json
from dataclasses import replace

import pytest

from counterseal.canonical import digest, parse_canonical
from counterseal.documents.plan import parse_plan
from counterseal.errors import (
    IdempotencyKeyReused,
    InputInvalid,
    NotCanonical,
    NotFound,
    PlanInvalid,
    PolicyUnavailable,
    RoleRequired,
    SecondPersonRequired,
    ServiceError,
    WrongState,
)
from counterseal_executor.plans.size import MAX_SEALED_BYTES
from support.executor import AGENT, IDA, OMAR, Executor, World, refund, sim_tool
from support.requirements import requirement


async def test_the_answer_is_the_request_plus_the_server_fields_under_its_digest(
    executor: Executor, surroundings: World
) -> None:
    surroundings.sim.put("ch_1", "paid")
    answer = await executor.propose(refund(), rationale="the kettle leaks", confidence_ppm=900_000)
    plan = parse_plan(answer.canonical_plan)
    assert digest("plan", answer.canonical_plan) == answer.plan_digest == plan.digest
    assert (plan.tenant, plan.environment, plan.actor.subject, plan.actor.agent) == (
        "acme",
        "prod",
        "user:ana",
        "refund-bot",
    )
    assert [(c.ref, c.value) for c in plan.steps[0].pre] == [("exists", True), ("value", "paid"), ("version", 1)]
    assert plan.rationale_digest is not None
    assert b"leaks" not in answer.canonical_plan
    assert surroundings.policy.asked == ["PREVIEW", "PREVIEW"]


@requirement("approval:once-for-seen-bytes")
async def test_equal_proposals_are_different_plans_so_one_approval_cannot_serve_two(executor: Executor) -> None:
    one, two = await executor.propose(), await executor.propose()
    assert one.plan_digest != two.plan_digest


async def test_the_same_key_returns_the_same_plan_and_other_content_is_refused(executor: Executor) -> None:
    first = await executor.propose(key="k")
    again = await executor.propose(key="k")
    assert (again.plan_id, again.canonical_plan) == (first.plan_id, first.canonical_plan)
    with pytest.raises(IdempotencyKeyReused):
        await executor.propose(refund(key="other"), key="k")
    with pytest.raises(IdempotencyKeyReused):
        await executor.propose(key="k", caller=replace(AGENT, subject="user:eve"))


async def test_a_proposal_that_policy_did_not_answer_is_taken_up_again_under_its_key(
    executor: Executor, surroundings: World
) -> None:
    look = refund(tool="shop.look@1.0.0", args={"key": "a"})
    surroundings.policy.error = PolicyUnavailable()
    with pytest.raises(PolicyUnavailable):
        await executor.propose(look, key="k")
    surroundings.policy.error = None
    assert (await executor.propose(look, key="k")).plan.state == "PROPOSED"


@pytest.mark.parametrize("stage", ["draft", "plan"])
async def test_a_denied_proposal_shows_ids_and_reasons_and_nothing_that_was_read(
    executor: Executor, surroundings: World, stage: str
) -> None:
    surroundings.sim.put("ch_1", "SECRET-OF-THE-TARGET")
    if stage == "draft":
        surroundings.policy.outcome["PREVIEW"] = "DENY"
    else:
        surroundings.policy.outcome["AUTHORIZE"] = "DENY"
    surroundings.policy.reasons["PREVIEW"] = ["NOT_OWNER"]
    answer = await executor.propose(refund(key="ch_1"))
    assert answer.canonical_plan == b""
    assert (answer.plan.state, answer.plan.reason_code) == ("REJECTED", "NOT_OWNER")
    assert list(answer.plan.decision.reason_codes) == ["NOT_OWNER"]
    assert b"SECRET" not in answer.SerializeToString()
    shown = await executor.get(answer.plan_id)
    assert shown.canonical_plan == b""
    with pytest.raises(NotFound):
        await executor.commit(answer)


@pytest.mark.parametrize(
    ("step", "where"),
    [
        (refund(tool="shop.nothing@1.0.0"), "/steps/0/tool"),
        (refund(tool="shop.refund@9.0.0"), "/steps/0/tool"),
        (refund(target="bank"), "/steps/0/target"),
        (refund(args={"key": 7}), "/steps/0/args/key"),
        (refund(args={"key": "a", "value": "b", "amount": 1}), "/steps/0/args/amount"),
        (refund(args={"key": "a", "value": {"$ref": {"step": "s0", "ptr": "/x"}}}), "/steps/0/args/value"),
        (refund(args={"key": {"$secret": "shop"}}), "/steps/0/args/key"),
        (refund(args={"$sealed": "sha256:.."}), "/steps/0/args"),
        (refund(timeout_seconds=891), "/steps/0/timeout_seconds"),
        (refund(undo={"tool": "shop.look@1.0.0", "args": {"key": "a"}}), "/steps/0/undo/tool"),
        (refund(undo={"tool": "shop.opaque@1.0.0", "args": {"key": "a"}}), "/steps/0/undo/tool"),
        (refund(undo={"tool": "shop.restore@1.0.0", "args": {"key": 1}}), "/steps/0/undo/args/key"),
        (refund(tool="shop.look@1.0.0", args={"key": "a"}, undo={"tool": "shop.remove@1.0.0", "args": {}}), None),
        (refund(needs=["s9"]), "/steps/0/needs/0"),
    ],
)
async def test_what_cannot_run_here_is_refused_at_its_pointer(
    executor: Executor, surroundings: World, step: dict[str, object], where: str | None
) -> None:
    with pytest.raises(PlanInvalid) as caught:
        await executor.propose(step)
    assert where is None or caught.value.metadata["pointer"] == where
    assert surroundings.policy.asked == []


async def test_two_writes_on_one_target_need_an_order(executor: Executor) -> None:
    with pytest.raises(PlanInvalid, match="one must need the other"):
        await executor.propose(refund("s1"), refund("s2", "b"))
    await executor.propose(refund("s1"), refund("s2", "b", needs=["s1"]))


async def test_arguments_are_strict_json_and_no_number_is_rounded(executor: Executor) -> None:
    from counterseal.api.executor.v1 import plan_pb2

    async def with_args(text: bytes) -> bytes:
        from counterseal.identity import acting_for

        step = plan_pb2.ProposedStep(id="s1", tool="shop.refund@1.0.0", target="shop", args_json=text)
        request = plan_pb2.ProposePlanRequest(idempotency_key="k" + text.hex()[:100], objective="x", steps=[step])
        with acting_for(AGENT):
            return (await executor.plans.ProposePlan(request, None)).canonical_plan

    for bad in (b"", b"[]", b'{"key":"a","key":"b"}', b'{"key":"a","value":9007199254740993}', b'{"key":"\\ud800"}'):
        with pytest.raises(NotCanonical) as caught:
            await with_args(bad)
        assert caught.value.metadata["pointer"].startswith("/steps/0/args")
    body = await with_args(b'{"value":1e2, "key":"a"}')
    assert parse_canonical(body)["steps"][0]["args"] == {"key": "a", "value": 100}


async def test_a_superseding_proposal_withdraws_the_one_before(executor: Executor) -> None:
    old = await executor.propose()
    await executor.propose(refund(key="b"), supersedes=old.plan_id)
    assert (await executor.get(old.plan_id)).plan.state == "WITHDRAWN"
    with pytest.raises(PlanInvalid):
        await executor.propose(refund(key="c"), supersedes="0199d0a0-0000-7000-8000-00000000dead")


async def test_the_read_only_login_of_a_draft_is_given_back(executor: Executor, surroundings: World) -> None:
    answer = await executor.propose()
    await executor.commit(answer)
    await executor.until(answer.plan_id, "SUCCEEDED")
    assert all(grant.dead for grant in surroundings.broker.grants.values())


async def test_an_agent_lists_its_own_plans_and_people_with_a_role_the_tenants(executor: Executor) -> None:
    from counterseal.api.executor.v1 import plan_pb2
    from counterseal.identity import acting_for

    mine = [(await executor.propose(refund(key=str(n)))).plan_id for n in range(3)]
    stranger = replace(AGENT, subject="user:eve")
    seen = {}
    for name, caller in (("agent", AGENT), ("operator", OMAR), ("stranger", stranger)):
        with acting_for(caller):
            page = await executor.plans.ListPlans(plan_pb2.ListPlansRequest(page_size=2), None)
            rest = await executor.plans.ListPlans(
                plan_pb2.ListPlansRequest(page_size=2, page_token=page.next_page_token), None
            )
        seen[name] = [p.plan_id for p in page.plans] + ([p.plan_id for p in rest.plans] if page.next_page_token else [])
    assert seen["agent"] == seen["operator"] == mine[::-1]
    assert seen["stranger"] == []
    with acting_for(replace(AGENT, tenant="globex")), pytest.raises(InputInvalid):
        await executor.plans.ListPlans(plan_pb2.ListPlansRequest(page_token="AAAA"), None)


async def test_the_first_tools_are_registered_by_one_person_and_later_ones_by_two(
    executor: Executor, surroundings: World
) -> None:
    from counterseal.api.common.v1 import containment_pb2
    from counterseal.api.executor.v1 import tool_pb2
    from counterseal.canonical import canonical
    from counterseal.identity import acting_for

    document = sim_tool("shop.later", "put")
    first = await executor.register(document)
    assert not first.tools
    agreed = first.second_person.request_digest
    again = await executor.register(document)
    assert again.second_person.request_digest == agreed

    async def echo(caller: object, digest_: str) -> tool_pb2.RegisterToolResponse:
        request = tool_pb2.RegisterToolRequest(
            descriptors=[canonical(document)], second_person=containment_pb2.SecondPerson(request_digest=digest_)
        )
        with acting_for(caller):  # type: ignore[arg-type]
            return await executor.tools.RegisterTool(request, None)

    assert not (await echo(OMAR, agreed)).tools  # the same person twice is still one person
    with pytest.raises(SecondPersonRequired):
        await echo(IDA, "sha256:" + "00" * 32)
    done = await echo(IDA, agreed)
    assert [tool.tool for tool in done.tools] == ["shop.later@1.0.0"]
    with pytest.raises(WrongState):
        await executor.register(sim_tool("shop.later", "put", title="Another"))
    for caller in (AGENT, replace(OMAR, roles=frozenset({"approver"}))):
        with pytest.raises(RoleRequired):
            await executor.register(sim_tool("shop.more", "put"), caller=caller)


async def test_a_descriptor_that_nothing_here_can_run_is_refused(executor: Executor) -> None:
    for document in (
        sim_tool("shop.bad", "put", targets=["bank"]),
        sim_tool("shop.bad", "put", connector={"kind": "sim", "config": {"op": "dance", "key": "/key"}}),
        sim_tool("shop.bad", "put", extra=1),
    ):
        with pytest.raises(ServiceError):
            await executor.register(document)


async def test_an_agent_sees_a_tool_without_its_connectors_configuration(executor: Executor) -> None:
    from counterseal.api.executor.v1 import tool_pb2
    from counterseal.identity import acting_for

    request = tool_pb2.GetToolRequest(tool="shop.refund@1.0.0")
    with acting_for(AGENT):
        shown = (await executor.tools.GetTool(request, None)).tool
    with acting_for(OMAR):
        whole = (await executor.tools.GetTool(request, None)).tool
    assert shown.redacted
    assert b'"op"' not in shown.descriptor_json
    assert digest("tool", whole.descriptor_json) == whole.tool_digest == shown.tool_digest
    with acting_for(replace(OMAR, tenant="globex")), pytest.raises(NotFound):
        await executor.tools.GetTool(request, None)


async def test_a_plan_that_its_ledger_entry_just_holds_is_taken_and_one_byte_more_is_refused_with_the_numbers(
    executor: Executor, surroundings: World
) -> None:
    """The entry seals the plan's bytes as one text: what counts is that text, with every quote escaped."""

    def sized(plan: bytes) -> int:
        return len(json.dumps(plan.decode()))

    small = sized((await executor.propose(refund(value="x"))).canonical_plan)
    room = MAX_SEALED_BYTES - small
    largest = await executor.propose(refund(value="x" * (1 + room)))
    assert sized(largest.canonical_plan) == MAX_SEALED_BYTES
    with pytest.raises(PlanInvalid) as refused:
        await executor.propose(refund(value="x" * (2 + room)))
    assert refused.value.metadata == {"size": str(MAX_SEALED_BYTES + 1), "limit": str(MAX_SEALED_BYTES)}
    assert f"of {MAX_SEALED_BYTES + 1} bytes as a sealed text" in refused.value.message
    assert "split the plan" in refused.value.message
    await executor.commit(largest)
    await executor.until(largest.plan_id, "SUCCEEDED", seconds=60)
    await surroundings.delivered()
