"""Another tenant's token: refused, or answered as what does not exist is answered.

Every method that reads a token is called with globex's tokens and acme's real ids, and again with ids that nobody
has; the two answers must be the same, and no answer may hold anything of acme's.
"""

import dataclasses
import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from counterseal.api.executor.v1 import plan_pb2
from counterseal.api.policy.v1 import containment_pb2, decision_pb2
from counterseal.canonical import digest, parse_canonical
from counterseal.ids import new_id
from counterseal.rpc.method_table import METHODS, PEOPLE
from support import bank
from support.matrix import METHODS as CONTRACT
from support.matrix import Answer, Door, door, filled, served_by, spiffe
from support.requirements import requirement
from support.suite import Suite, reason_of

PROPOSE = "/counterseal.api.executor.v1.PlanService/ProposePlan"
AUTHORIZE = "/counterseal.api.policy.v1.DecisionService/AuthorizePlan"
TRIP = "/counterseal.api.policy.v1.ContainmentService/TripContainment"
STRANGER = {"tenant": bank.OTHER_TENANT}
GLOBEX_AGENT = f"agent/{bank.OTHER_AGENT}"


@dataclasses.dataclass(frozen=True)
class Acme:
    """What acme has: real ids by the names of request fields, and marks that must not appear elsewhere."""

    ids: Mapping[str, Any]
    plan: bytes
    marks: tuple[bytes, ...]


@pytest_asyncio.fixture
async def gate(suite: Suite) -> AsyncIterator[Door]:
    async with door(suite) as opened:
        yield opened


@pytest_asyncio.fixture
async def acme(suite: Suite) -> Acme:
    """Make a plan that ran, one that waits for approval, and their entries."""
    async with suite.agent() as request:
        done = await request.propose(bank.draft(bank.refund("a-7", 11)))
        await request.commit(done.plan_id, done.plan_digest)
        plan = await request.wait(done.plan_id)
        waiting = await request.propose(bank.draft(bank.refund("a-8", bank.APPROVAL_ABOVE + 1)))
    await suite.outboxes_drained()
    async with suite.person("omar") as omar:
        task = next(task for task in await omar.approvals() if task.plan_digest == waiting.plan_digest)
        entries = await omar.entries(plan_digest=done.plan_digest)
        grants = await omar.grants()
        snapshot = done.plan.decision.snapshot_id
    event_id = plan.steps[0].intent_event_id
    return Acme(
        {
            "plan_id": waiting.plan_id,
            "plan_digest": waiting.plan_digest,
            "task_id": task.task_id,
            "card_digest": task.card_digest,
            "event_id": event_id,
            "index": entries[0].index,
            "from_index": 0,
            "tree_size": 1,
            "from_size": 1,
            "to_size": 2,
            "tool": "bank.refund@1.0.0",
            "grant_id": grants[0].grant_id,
            "attempt_id": grants[0].attempt_id,
            "snapshot_id": snapshot,
            "scope": f"tenant:{bank.TENANT}",
            "epoch": 1,
            "step_id": "s1",
            "resolution": 1,
            "idempotency_key": new_id(),
            "comment": "mine now",
            "reason_code": "OPERATOR_STOP",
        },
        done.body,
        (
            waiting.plan_id.encode(),
            done.plan_id.encode(),
            done.plan_digest.encode(),
            waiting.plan_digest.encode(),
            task.task_id.encode(),
            event_id.encode(),
            grants[0].grant_id.encode(),
            b"bank.refund",
        ),
    )


def nobodys(ids: Mapping[str, Any]) -> dict[str, Any]:
    """Return ids of the same form that nobody has."""
    none = "sha256:" + hashlib.sha256(new_id().encode()).hexdigest()
    changes = dict.fromkeys(("plan_id", "task_id", "event_id", "grant_id", "attempt_id"), new_id())
    changes |= dict.fromkeys(("plan_digest", "card_digest", "snapshot_id"), none)
    return {**ids, **changes, "tool": "none.such@1.0.0", "scope": "tenant:initech"}


async def as_globex(gate: Door, method: str, peer: str, ids: Mapping[str, Any]) -> Answer:
    """Call as globex's agent, or as a person at globex with every role."""
    if peer == "agent":
        chain = ({"sub": bank.OTHER_AGENT, "version": "1.0.0", "owner": "user:ida"},)
        token = await gate.token(peer, chain=chain, requester=spiffe(GLOBEX_AGENT), **STRANGER)
        return await gate.call(method, peer, token, request=filled(method, ids), uris=(spiffe(GLOBEX_AGENT),))
    return await gate.call(method, peer, await gate.token(peer, **STRANGER), request=filled(method, ids))


@requirement("tenant:isolated")
async def test_another_tenants_ids_are_answered_as_ids_that_nobody_has(suite: Suite, gate: Door, acme: Acme) -> None:
    before, tombs = await suite.row_counts(), await _tombstones(suite)
    for method in CONTRACT:
        rule = METHODS[method]
        # A hold is placed in one's own log whatever it names, and answers with what it was sent and a new id.
        if rule.token == "none" or method.endswith("/PlaceHold"):
            continue
        for peer in rule.peers:
            real = await as_globex(gate, method, peer, acme.ids)
            none = await as_globex(gate, method, peer, nobodys(acme.ids))
            assert real.outcome == none.outcome, (method, peer, real, none)
            assert _without_ids(real.text, acme.ids) == _without_ids(none.text, acme.ids), (method, peer)
            shown = b"".join(real.messages) + real.text.encode()
            assert not [mark for mark in acme.marks if mark in shown], (method, peer)
    await suite.outboxes_drained()
    changed = {name for name, count in (await suite.row_counts()).items() if before.get(name) != count}
    assert await _tombstones(suite) == tombs
    kept = {"plan", "step", "commit_use", "approval_vote", "approval_task", "grants", "containment", "tool"}
    assert {name for name in changed if name.split(".")[1] in kept} == set()
    async with suite.person("omar") as omar:
        assert not [state for state in await omar.containments() if state.stopped]


async def _tombstones(suite: Suite) -> int:
    """Count acme's own tombstones: globex may leave as many as it likes, under its own name."""
    rows = await suite.sql(
        "counterseal_credentials", "SELECT count(*) AS n FROM attempt WHERE tenant = $1", bank.TENANT
    )
    return int(rows[0]["n"])


def _without_ids(text: str, ids: Mapping[str, Any]) -> str:
    """Leave out the id that a message repeats because the caller sent it."""
    for value in ids.values():
        text = text.replace(str(value), "") if isinstance(value, str) and len(value) > 8 else text
    return text.replace("none.such@1.0.0", "").replace("tenant:initech", "")


@requirement("tenant:isolated")
async def test_another_tenants_lists_are_empty_of_ours(suite: Suite, gate: Door, acme: Acme) -> None:
    for method in CONTRACT:
        rule = METHODS[method]
        if not method.split("/")[2].startswith(("List", "Export", "Tail", "Watch")) or rule.token == "none":
            continue
        for peer in rule.peers:
            if peer not in (*PEOPLE, "agent"):
                continue
            answer = await as_globex(gate, method, peer, {"from_index": 0})
            shown = b"".join(answer.messages) + answer.text.encode()
            assert not [mark for mark in acme.marks if mark in shown], (method, peer)


@requirement("tenant:isolated")
async def test_a_foreign_tool_and_target_are_as_unknown_as_ones_that_do_not_exist(suite: Suite, gate: Door) -> None:
    answers = []
    for tool, target in (("bank.refund@1.0.0", "bank"), ("none.such@1.0.0", "nowhere")):
        step = plan_pb2.ProposedStep(id="s1", tool=tool, target=target, args_json=b'{"account":"a-1","amount_cents":1}')
        request = plan_pb2.ProposePlanRequest(idempotency_key=new_id(), objective="x", steps=[step])
        chain = ({"sub": bank.OTHER_AGENT, "version": "1.0.0", "owner": "user:ida"},)
        token = await gate.token("agent", chain=chain, requester=spiffe(GLOBEX_AGENT), **STRANGER)
        answer = await gate.call(PROPOSE, "agent", token, request=request, uris=(spiffe(GLOBEX_AGENT),))
        answers.append((answer.code, answer.reason, answer.text.replace(tool, "").replace(target, "")))
    assert answers[0] == answers[1]
    assert answers[0][1] == "PLAN_INVALID"


@requirement("tenant:isolated")
async def test_a_plan_of_one_tenant_gets_no_decision_under_another_tenants_token(gate: Door, acme: Acme) -> None:
    assert parse_canonical(acme.plan)["tenant"] == bank.TENANT
    for tenant in (bank.OTHER_TENANT, "initech"):
        token = await gate.token("svc/executor", tenant=tenant)
        request = decision_pb2.AuthorizePlanRequest(
            canonical_plan=acme.plan,
            plan_digest=digest("plan", acme.plan),
            purpose=1,  # type: ignore[arg-type]
            tool_descriptors=[bank.TOOLS["refund"].body, bank.TOOLS["reverse"].body],
        )
        answer = await gate.call(AUTHORIZE, "svc/executor", token, request=request)
        if answer.code == "OK":
            decided = decision_pb2.AuthorizePlanResponse.FromString(answer.messages[0])
            assert decided.decision.outcome == 2, decided
            assert not decided.HasField("signed_decision")
        else:
            assert answer.reason in ("CONTEXT_MISMATCH", "TENANT_MISMATCH", "NOT_FOUND", "INPUT_INVALID"), answer


@requirement("tenant:isolated")
@pytest.mark.parametrize(
    "scope", [f"tenant:{bank.TENANT}", f"agent:{bank.TENANT}/{bank.AGENT}", f"tool:{bank.TENANT}/bank.refund"]
)
async def test_an_operator_of_one_tenant_cannot_stop_another(suite: Suite, gate: Door, scope: str) -> None:
    request = containment_pb2.TripContainmentRequest(scope=scope, reason_code="OPERATOR_STOP")
    answer = await gate.call(TRIP, "cli", await gate.token("cli", **STRANGER), request=request)
    assert answer.reason in ("INPUT_INVALID", "NOT_FOUND", "CONTEXT_MISMATCH"), answer
    rows = await suite.sql("counterseal_policy", "SELECT scope FROM containment WHERE stopped AND scope = $1", scope)
    assert rows == []


@requirement("tenant:isolated")
async def test_a_person_of_another_tenant_gets_no_token_for_this_one_whatever_their_roles(suite: Suite) -> None:
    async with suite.person("gus", tenant=bank.TENANT) as gus:
        for call in (gus.approvals(), gus.plans(), gus.tools(), gus.entries(), gus.trip("tenant:acme", "X_Y_Z")):
            assert await reason_of(call) == "TENANT_MISMATCH"
    async with suite.person("gus", tenant=bank.OTHER_TENANT) as gus:
        assert await gus.plans() == []
    async with suite.agent("gus") as request:
        assert await reason_of(request.propose(bank.draft(bank.refund("a-1", 1)))) == "TENANT_MISMATCH"


def test_every_service_has_methods_that_the_isolation_test_calls() -> None:
    called = {served_by(method) for method in CONTRACT if METHODS[method].token != "none"}
    assert called == {"policy", "credentials", "audit", "executor"}
