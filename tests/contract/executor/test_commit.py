"""The commit gate: exactly the approved bytes, once, and only while everything still holds."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from counterseal.api.executor.v1 import plan_pb2, tool_pb2
from counterseal.documents.decision import Obligation
from counterseal.errors import (
    ApprovalRequired,
    Contained,
    ContainmentStale,
    DecisionInvalid,
    IdempotencyKeyReused,
    LedgerUnavailable,
    NotFound,
    PlanDigestMismatch,
    PlanExpired,
    PolicyUnavailable,
    PreconditionChanged,
    QueueFull,
    ToolChanged,
    WrongState,
)
from counterseal.identity import acting_for
from counterseal_executor.connectors.sim_world import Fault
from support.executor import AGENT, OMAR, SIM_TOOLS, Executor, World, refund
from support.requirements import requirement
from support.signer import LocalSigner


@requirement("commit:one-accepted")
async def test_of_forty_concurrent_commits_on_two_replicas_one_is_accepted(
    executor: Executor, surroundings: World
) -> None:
    other = await surroundings.start()
    await asyncio.sleep(0.3)
    answer = await executor.propose()
    commits = [(executor if n % 2 else other).commit(answer, key=f"key-{n}") for n in range(40)]
    results = await asyncio.gather(*commits, return_exceptions=True)
    assert sum(isinstance(r, plan_pb2.Plan) for r in results) == 1
    # On a busy machine some wait longer for the plan's row than the gate may; they are told to try again.
    assert {type(r) for r in results if not isinstance(r, plan_pb2.Plan)} <= {WrongState, QueueFull}
    await executor.until(answer.plan_id, "SUCCEEDED")
    assert surroundings.ledger.types.count("plan.committed") == 1
    assert len(surroundings.sim.effects()) == 1


async def test_the_same_key_gets_the_same_answer_and_another_plan_is_refused_under_it(executor: Executor) -> None:
    answer = await executor.propose()
    first = await executor.commit(answer, key="once")
    again = await executor.commit(answer, key="once")
    assert again.plan_id == first.plan_id
    other = await executor.propose(refund(key="ch_2"))
    with pytest.raises(IdempotencyKeyReused):
        await executor.commit(other, key="once")


@requirement("commit:all-hold")
@pytest.mark.parametrize("at", [0, 40, -1])
async def test_one_changed_byte_of_the_stored_plan_and_nothing_runs(
    executor: Executor, surroundings: World, at: int
) -> None:
    answer = await executor.propose()
    body = bytearray(answer.canonical_plan)
    body[at] ^= 1
    await _as_owner(surroundings, "UPDATE plan SET body = $1 WHERE plan_id = $2", bytes(body), answer.plan_id)
    with pytest.raises(PlanDigestMismatch):
        await executor.commit(answer)
    assert surroundings.sim.effects() == []


@requirement("commit:all-hold")
async def test_a_digest_changed_with_the_bytes_is_not_the_one_that_was_echoed(
    executor: Executor, surroundings: World
) -> None:
    answer = await executor.propose()
    other = await executor.propose(refund(key="somebody-else"))
    await _as_owner(surroundings, "DELETE FROM step WHERE plan_id = $1", other.plan_id)
    await _as_owner(surroundings, "DELETE FROM event WHERE plan_id = $1", other.plan_id)
    await _as_owner(surroundings, "DELETE FROM plan WHERE plan_id = $1", other.plan_id)
    await _as_owner(
        surroundings,
        "UPDATE plan SET body = $1, plan_digest = $2 WHERE plan_id = $3",
        other.canonical_plan,
        other.plan_digest,
        answer.plan_id,
    )
    with pytest.raises(PlanDigestMismatch):
        await executor.commit(answer)
    assert surroundings.sim.effects() == []


async def test_the_service_itself_has_no_right_to_change_a_plan_or_a_commit(surroundings: World) -> None:
    url = surroundings.engine.url
    conn = await asyncpg.connect(
        host=url.host, port=url.port, user=url.username, password=url.password, database=url.database
    )
    try:
        for statement in (
            "UPDATE plan SET body = ''",
            "UPDATE plan SET plan_digest = ''",
            "UPDATE commit_use SET statement = ''",
            "DELETE FROM commit_use",
            "DELETE FROM plan",
            "DELETE FROM event",
            "UPDATE event SET data = ''",
            "UPDATE tool SET body = ''",
            "DELETE FROM attempt",
            "TRUNCATE plan CASCADE",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)
    finally:
        await conn.close()


async def test_another_digest_than_the_plans_is_refused(executor: Executor) -> None:
    answer = await executor.propose()
    other = await executor.propose(refund(key="ch_2"))
    with pytest.raises(PlanDigestMismatch):
        await executor.commit(answer, digest=other.plan_digest)


@requirement("tenant:isolated")
async def test_a_plan_of_another_agent_or_tenant_does_not_exist(executor: Executor) -> None:
    answer = await executor.propose()
    for stranger in (
        replace(AGENT, tenant="globex"),
        replace(AGENT, subject="user:eve"),
        replace(AGENT, agent="other-bot"),
    ):
        with pytest.raises(NotFound):
            await executor.commit(answer, caller=stranger)
        with pytest.raises(NotFound):
            await executor.get(answer.plan_id, caller=stranger)


@requirement("commit:all-hold")
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"plan_digest": "sha256:" + "00" * 32}, "plan digest"),
        ({"tenant": "globex"}, "tenant"),
        ({"environment": "staging"}, None),
        ({"subject": "user:eve"}, "subject"),
        ({"agent": "other-bot"}, "agent"),
        ({"agent_version": "1"}, "agent version"),
        ({"purpose": "PREVIEW"}, "purpose"),
        ({"outcome": "REQUIRE_APPROVAL"}, "outcome"),
        ({"audience": ("credentials",)}, None),
        ({"steps": ()}, None),
    ],
)
async def test_a_signed_decision_for_anything_else_commits_nothing(
    executor: Executor, surroundings: World, changes: dict[str, object], field: str | None
) -> None:
    answer = await executor.propose()
    surroundings.policy.changes = changes
    with pytest.raises(DecisionInvalid) as caught:
        await executor.commit(answer)
    assert field is None or caught.value.metadata["field"] == field
    assert (await executor.get(answer.plan_id)).plan.state == "PROPOSED"


@requirement("commit:all-hold")
async def test_a_forged_decision_is_refused(executor: Executor, surroundings: World) -> None:
    answer = await executor.propose()
    surroundings.policy.signer = LocalSigner("decision-prod:1", b"\x02" * 32)
    with pytest.raises(DecisionInvalid):
        await executor.commit(answer)
    surroundings.policy.signer = LocalSigner("ctx-prod:1")
    with pytest.raises(DecisionInvalid):
        await executor.commit(answer)


async def test_a_decision_with_an_obligation_that_nobody_here_knows_is_refused(
    executor: Executor, surroundings: World
) -> None:
    answer = await executor.propose()
    surroundings.policy.obligations = (Obligation("dance", {}),)
    with pytest.raises(DecisionInvalid, match="dance"):
        await executor.commit(answer)


@requirement("commit:all-hold")
async def test_a_decision_that_expires_while_the_gate_is_locked_commits_nothing_and_may_be_tried_again(
    executor: Executor, surroundings: World
) -> None:
    answer = await executor.propose()
    surroundings.policy.life_ms = 700
    lock = await _connect(surroundings)
    await lock.execute("BEGIN")
    await lock.execute("SELECT pg_advisory_xact_lock(hashtextextended('counterseal.barrier', 0))")
    commit = asyncio.create_task(executor.commit(answer, key="k"))
    await asyncio.sleep(1.2)
    await lock.execute("ROLLBACK")
    await lock.close()
    with pytest.raises(QueueFull, match="aged") as caught:
        await commit
    assert caught.value.next_action == "RETRY", "slow is not wrong"
    assert (await executor.get(answer.plan_id)).plan.state == "PROPOSED"
    surroundings.policy.life_ms = 60_000
    await executor.commit(answer, key="k")


async def test_a_gate_that_waits_too_long_for_a_lock_says_so_and_writes_nothing(
    executor: Executor, surroundings: World
) -> None:
    answer = await executor.propose()
    lock = await _connect(surroundings)
    await lock.execute("BEGIN")
    await lock.execute("SELECT pg_advisory_xact_lock(hashtextextended('counterseal.barrier', 0))")
    with pytest.raises(QueueFull):
        await executor.commit(answer, key="k")
    await lock.execute("ROLLBACK")
    await lock.close()
    assert (await executor.commit(answer, key="k")).state == "COMMITTED"


async def test_a_plan_that_waits_for_approval_stays_proposed(executor: Executor, surroundings: World) -> None:
    answer = await executor.propose()
    surroundings.policy.outcome["COMMIT"] = "REQUIRE_APPROVAL"
    with pytest.raises(ApprovalRequired) as caught:
        await executor.commit(answer)
    assert caught.value.metadata["task_id"] == "task-1"
    assert (await executor.get(answer.plan_id)).plan.state == "PROPOSED"
    surroundings.policy.outcome["COMMIT"] = "ALLOW"
    assert (await executor.commit(answer)).state == "COMMITTED"


async def test_a_denial_at_the_gate_ends_the_plan_with_its_reason(executor: Executor, surroundings: World) -> None:
    answer = await executor.propose()
    surroundings.policy.outcome["COMMIT"] = "DENY"
    surroundings.policy.reasons["COMMIT"] = ["LIMIT_EXCEEDED"]
    plan = await executor.commit(answer)
    assert (plan.state, plan.reason_code) == ("REJECTED", "LIMIT_EXCEEDED")
    with pytest.raises(WrongState):
        await executor.commit(answer)


async def test_without_policy_nothing_is_committed(executor: Executor, surroundings: World) -> None:
    answer = await executor.propose()
    surroundings.policy.error = PolicyUnavailable()
    with pytest.raises(PolicyUnavailable):
        await executor.commit(answer)
    assert (await executor.get(answer.plan_id)).plan.state == "PROPOSED"


async def test_a_retired_tool_stops_the_commit(executor: Executor) -> None:
    answer = await executor.propose()
    with acting_for(OMAR):
        await executor.tools.RetireTool(tool_pb2.RetireToolRequest(tool="shop.refund@1.0.0"), None)
    with pytest.raises(ToolChanged):
        await executor.commit(answer)


async def test_an_expired_plan_is_refused_and_then_ends(executor: Executor, surroundings: World) -> None:
    answer = await executor.propose()
    await _as_owner(
        surroundings, "UPDATE plan SET expire_time = now() - interval '1 s' WHERE plan_id = $1", answer.plan_id
    )
    with pytest.raises((PlanExpired, WrongState)):
        await executor.commit(answer)
    await executor.until(answer.plan_id, "EXPIRED")


@requirement("commit:all-hold")
async def test_what_changed_at_the_target_since_the_proposal_stops_the_commit(
    executor: Executor, surroundings: World
) -> None:
    surroundings.sim.put("ch_1", "paid")
    answer = await executor.propose()
    surroundings.sim.put("ch_1", "disputed")
    with pytest.raises(PreconditionChanged):
        await executor.commit(answer)
    assert surroundings.sim.effects() == []


async def test_what_changes_after_the_gate_is_caught_inside_the_write(executor: Executor, surroundings: World) -> None:
    surroundings.sim.put("ch_1", "paid")
    surroundings.sim.script("shop.refund", Fault("delay", seconds=0.8))
    answer = await executor.propose()
    await executor.commit(answer)
    await asyncio.sleep(0.4)
    surroundings.sim.put("ch_1", "disputed")
    plan = await executor.until(answer.plan_id, "FAILED_NO_EFFECT")
    assert plan.steps[0].reason_code == "PRECONDITION_CHANGED"
    assert surroundings.sim.effects() == []


async def test_a_silent_containment_stream_stops_everything_above_read_only(surroundings: World) -> None:
    executor = await surroundings.start(containment_stale_seconds=0.05)
    await executor.register(*SIM_TOOLS)
    write, read = await executor.propose(), await executor.propose(_look())
    surroundings.policy.silent = True
    await asyncio.sleep(0.3)
    with pytest.raises(ContainmentStale):
        await executor.commit(write)
    assert (await executor.commit(read)).state == "COMMITTED"


async def test_a_stopped_scope_refuses_at_the_gate_whatever_policy_says(executor: Executor) -> None:
    answer = await executor.propose()
    await executor.halt("tool:acme/shop.refund")
    with pytest.raises((Contained, WrongState)):
        await executor.commit(answer)


def _look() -> dict[str, object]:
    return {"id": "s1", "tool": "shop.look@1.0.0", "target": "shop", "args": {"key": "ch_1"}}


async def _connect(surroundings: World) -> asyncpg.Connection:
    url = surroundings.engine.url
    return await asyncpg.connect(
        host=url.host, port=url.port, user="counterseal_executor_owner", password="owner", database=url.database
    )


async def _as_owner(surroundings: World, sql: str, *args: object) -> None:
    conn = await _connect(surroundings)
    try:
        await conn.execute(sql, *args)
    finally:
        await conn.close()


@requirement("commit:ledger-signs")
async def test_a_ledger_that_does_not_answer_lets_nothing_be_committed(executor: Executor, surroundings: World) -> None:
    answer = await executor.propose()
    surroundings.ledger.unreadable = True
    with pytest.raises(LedgerUnavailable):
        await executor.commit(answer)
    assert (await executor.get(answer.plan_id)).plan.state == "PROPOSED"
    surroundings.ledger.unreadable = False
    await executor.commit(answer)
