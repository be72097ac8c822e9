"""Approvals on a real database: bound to bytes and card, given by people who may, counted once, never too late."""

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from counterseal.api.policy.v1 import approval_pb2 as pb
from counterseal.canonical import digest, parse_canonical
from counterseal.clock import system_clock
from counterseal.documents.decision import parse_statement
from counterseal.errors import (
    ApproverIneligible,
    CardDigestMismatch,
    InputInvalid,
    NotFound,
    PlanDigestMismatch,
    RoleRequired,
    WrongState,
)
from counterseal.identity import Caller
from counterseal.ids import new_id
from counterseal.ledger import entry as entries
from counterseal_policy.approvals import sweeper
from counterseal_policy.decisions.decider import Answer
from support.policy_service import CONTEXT, DOCUMENTS, ENVIRONMENT, Service, agent, human, plan, policy_service
from support.postgres import FreshDatabase
from support.requirements import requirement

LEAD = "payments_lead"
LEA, LEO, LIA = (human(name, LEAD) for name in ("lea", "leo", "lia"))


async def ask(service: Service, amount: int = 5000, **changes: Any) -> Answer:
    """A plan that two leads must approve."""
    return await service.authorize(plan(amount, **changes))


async def approve(service: Service, answer: Answer, voter: Caller, **changes: Any) -> pb.ApprovalTask:
    digest_of_plan = changes.pop("plan_digest", None) or await plan_digest(service, answer)
    request = pb.ApproveTaskRequest(
        **{"task_id": answer.task_id, "plan_digest": digest_of_plan, "card_digest": answer.card_digest, **changes}
    )
    task = (await service.call(voter, service.approvals.ApproveTask, request)).task
    assert isinstance(task, pb.ApprovalTask)
    return task


async def plan_digest(service: Service, answer: Answer) -> str:
    ((found,),) = await service.sql(
        "SELECT plan_digest FROM approval_task WHERE task_id = CAST(:id AS uuid)", id=answer.task_id
    )
    return str(found)


async def states(service: Service) -> list[str]:
    return [row.state for row in await service.sql("SELECT state FROM approval_task ORDER BY create_time")]


@requirement("approval:once-for-seen-bytes")
async def test_two_leads_turn_exactly_these_bytes_into_an_allow(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked = await ask(service)
        assert asked.evaluation.reason_codes == ("APPROVAL_REQUIRED",)
        assert asked.signed is not None, "reading stays possible while people decide"
        assert parse_statement(asked.signed.statement).outcome == "REQUIRE_APPROVAL"
        assert (await service.authorize(plan(5000), "COMMIT")).signed is None
        assert (await approve(service, asked, LEA)).state == pb.APPROVAL_STATE_PENDING
        assert (await approve(service, asked, LEO)).state == pb.APPROVAL_STATE_APPROVED
        allowed = await service.authorize(plan(5000), "COMMIT")
        assert (allowed.evaluation.outcome, allowed.evaluation.reason_codes) == ("ALLOW", ("APPROVED",))
        assert allowed.signed is not None
        statement = parse_statement(allowed.signed.statement)
        assert (statement.task_id, statement.card_digest) == (asked.task_id, asked.card_digest)
        assert len(statement.votes) == 2
        recorded = [e.document["data"] for e in map(entries.parse, service.ledger.log) if e.type == "approval.recorded"]
        assert [(data["verdict"], data["count"], data["need"]) for data in recorded] == [
            ("approve", 1, 2),
            ("approve", 2, 2),
        ]
        assert {data["approval_digest"] for data in recorded} == set(statement.votes)
        other_amount = await service.authorize(plan(5001), "COMMIT")
        assert other_amount.signed is None
        same_intent = await service.authorize(plan(5000, nonce="aa" * 16), "COMMIT")
        assert same_intent.signed is None


async def test_the_card_is_made_once_and_kept_with_its_nonce(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        first, second = await ask(service), await ask(service)
        assert (first.task_id, first.card_digest) == (second.task_id, second.card_digest)
        got = await service.call(LEA, service.approvals.GetApproval, pb.GetApprovalRequest(task_id=first.task_id or ""))
        assert digest("decision-card", got.decision_card) == first.card_digest == got.task.card_digest
        card = parse_canonical(got.decision_card)
        assert len(card["nonce"]) == 32
        assert card["ours"]["class"]["level"] == 2
        assert card["ours"]["blast_radius"]["amounts"] == {"amount_minor": "5000"}
        assert "kettle" not in str({key: value for key, value in card.items() if key != "claimed_by_agent"})
        assert card["claimed_by_agent"]["objective"] == "Refund the broken kettle"
        listed = [e for e in map(entries.parse, service.ledger.log) if e.type == "approval.requested"]
        assert len(listed) == 1


@requirement("approval:once-for-seen-bytes")
async def test_a_vote_echoes_the_plan_and_the_card_that_were_seen(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        one, two = await ask(service, 5000), await ask(service, 6000)
        with pytest.raises(CardDigestMismatch):
            await approve(service, one, LEA, card_digest=two.card_digest)
        with pytest.raises(PlanDigestMismatch):
            await approve(service, one, LEA, plan_digest=await plan_digest(service, two))
        with pytest.raises(NotFound):
            await approve(service, one, LEA, task_id=new_id())
        with pytest.raises(NotFound):
            await approve(service, one, LEA, task_id="1; DROP TABLE approval_task")
        assert await service.sql("SELECT 1 FROM approval_vote") == []


INELIGIBLE = (
    (human("ana.second", LEAD, person_id="p-ana"), ApproverIneligible),
    (human("olga.admin", LEAD, person_id="p-olga"), ApproverIneligible),
    (human("lea", LEAD, chain=({"sub": "refund-bot"},), agent="refund-bot"), ApproverIneligible),
    (human("lea", "operator"), RoleRequired),
)


async def test_who_may_not_vote_is_refused_either_way_and_trying_is_recorded(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        service.decider.config = replace(service.decider.config, person_ids={"user:olga": "p-olga"})
        asked = await ask(service)
        digest_of_plan = await plan_digest(service, asked)
        for voter, error in INELIGIBLE:
            with pytest.raises(error):
                await approve(service, asked, voter)
            refusal = pb.RejectTaskRequest(
                task_id=asked.task_id or "",
                plan_digest=digest_of_plan,
                card_digest=asked.card_digest or "",
                comment="because",
            )
            with pytest.raises(error):
                await service.call(voter, service.approvals.RejectTask, refusal)
        assert await service.sql("SELECT 1 FROM approval_vote") == []
        await asyncio.sleep(0.4)
        await service.outbox.relay_once()
        refused = [e.document["data"] for e in map(entries.parse, service.ledger.log) if e.type == "call.refused"]
        expected = sorted(error.reason for _, error in INELIGIBLE for _ in range(2))
        assert sorted(data["reason_code"] for data in refused) == expected


@requirement("tenant:isolated")
async def test_another_tenants_task_does_not_exist(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked = await ask(service)
        eve = human("eve", LEAD, tenant="globex")
        digest_of_plan = await plan_digest(service, asked)
        with pytest.raises(NotFound):
            await approve(service, asked, eve, plan_digest=digest_of_plan)
        with pytest.raises(NotFound):
            await service.call(eve, service.approvals.GetApproval, pb.GetApprovalRequest(task_id=asked.task_id or ""))
        with pytest.raises(NotFound):
            await service.call(eve, service.approvals.WithdrawVote, pb.WithdrawVoteRequest(task_id=asked.task_id or ""))
        listed = await service.call(eve, service.approvals.ListApprovals, pb.ListApprovalsRequest())
        assert list(listed.tasks) == []


@requirement("approval:once-for-seen-bytes")
async def test_one_person_counts_once_whatever_the_accounts(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked = await ask(service)
        await approve(service, asked, LEA)
        for again in (LEA, human("lea.second", LEAD, person_id="p-lea")):
            with pytest.raises(WrongState):
                await approve(service, asked, again)
        assert await states(service) == ["PENDING"]


async def test_one_refusal_ends_the_task_and_the_plan_is_denied(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked = await ask(service)
        await approve(service, asked, LEA)
        request = pb.RejectTaskRequest(
            task_id=asked.task_id or "",
            plan_digest=await plan_digest(service, asked),
            card_digest=asked.card_digest or "",
            comment="not like this",
        )
        silent = pb.RejectTaskRequest(task_id=request.task_id)
        with pytest.raises(InputInvalid):
            await service.call(LEO, service.approvals.RejectTask, silent)
        await service.call(LEO, service.approvals.RejectTask, request)
        with pytest.raises(WrongState):
            await approve(service, asked, LIA)
        again = await service.authorize(plan(5000), "COMMIT")
        assert (again.evaluation.reason_codes, again.signed) == (("APPROVAL_REJECTED",), None)
        assert await states(service) == ["REJECTED"]


async def test_a_vote_taken_back_reopens_the_task(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked = await ask(service)
        await approve(service, asked, LEA)
        await approve(service, asked, LEO)
        allowed = await service.authorize(plan(5000), "COMMIT")
        taken = await service.call(
            LEA, service.approvals.WithdrawVote, pb.WithdrawVoteRequest(task_id=asked.task_id or "")
        )
        assert taken.task.state == pb.APPROVAL_STATE_PENDING
        assert taken.decision_expire_time.ToMilliseconds() == allowed.expire_time_ms
        assert (await service.authorize(plan(5000), "COMMIT")).signed is None
        with pytest.raises(NotFound):
            await service.call(LEA, service.approvals.WithdrawVote, pb.WithdrawVoteRequest(task_id=asked.task_id or ""))
        await approve(service, asked, LIA)
        assert (await service.authorize(plan(5000), "COMMIT")).evaluation.outcome == "ALLOW"


async def test_two_last_approvers_at_once_never_leave_the_task_stuck(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database, replicas=2) as (one, two):
        for number in range(25):
            asked = await ask(one, nonce=f"{number:032x}")
            results = await asyncio.gather(approve(one, asked, LEA), approve(two, asked, LEO))
            assert sorted(task.state for task in results) == [pb.APPROVAL_STATE_PENDING, pb.APPROVAL_STATE_APPROVED]


async def test_the_same_vote_twenty_times_at_once_counts_once(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked = await ask(service)
        results = await asyncio.gather(*(approve(service, asked, LEA) for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(result, WrongState) for result in results) == 19
        assert len(await service.sql("SELECT 1 FROM approval_vote")) == 1


async def test_a_vote_that_expires_while_it_waits_for_the_lock_does_not_count(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked = await ask(service)
        owner = await asyncpg.connect(service.owner_dsn)
        try:
            async with owner.transaction():
                await owner.execute("SELECT 1 FROM approval_task FOR UPDATE")
                voting = asyncio.create_task(approve(service, asked, LEA))
                await asyncio.sleep(0.2)
                # The row's own time runs out while the vote waits for its lock.
                await owner.execute("UPDATE approval_task SET decide_by = clock_timestamp() + interval '100 ms'")
                await asyncio.sleep(0.3)
            with pytest.raises(WrongState):
                await voting
        finally:
            await owner.close()
        assert await service.sql("SELECT 1 FROM approval_vote") == []


async def test_lock_and_clock_in_one_statement_would_see_the_expired_task_as_live(
    fresh_database: FreshDatabase,
) -> None:
    async with policy_service(fresh_database) as service:
        await ask(service)
        one, two = await asyncpg.connect(service.owner_dsn), await asyncpg.connect(service.owner_dsn)
        try:
            await one.execute("UPDATE approval_task SET decide_by = clock_timestamp() + interval '200 ms'")
            transaction = one.transaction()
            await transaction.start()
            await one.execute("SELECT 1 FROM approval_task FOR UPDATE")
            waiting = asyncio.create_task(
                two.fetchval("SELECT decide_by > clock_timestamp() FROM approval_task FOR UPDATE")
            )
            await asyncio.sleep(0.5)
            await transaction.rollback()
            assert await waiting is True, "the trap is gone: one statement would do"
            assert await two.fetchval("SELECT decide_by > clock_timestamp() FROM approval_task") is False
        finally:
            await one.close()
            await two.close()


async def test_an_approval_that_ran_out_asks_people_again_on_a_new_card(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked = await ask(service)
        await approve(service, asked, LEA)
        await approve(service, asked, LEO)
        await service.sql("UPDATE approval_task SET valid_until = clock_timestamp() - interval '1 s'")
        again = await service.authorize(plan(5000), "COMMIT")
        assert again.evaluation.reason_codes == ("APPROVAL_EXPIRED", "APPROVAL_REQUIRED")
        assert again.signed is None
        assert again.card_digest != asked.card_digest
        assert await states(service) == ["EXPIRED", "PENDING"]


async def test_a_decision_never_outlives_the_approval_it_rests_on(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked = await ask(service)
        await approve(service, asked, LEA)
        await approve(service, asked, LEO)
        await service.sql("UPDATE approval_task SET valid_until = clock_timestamp() + interval '5 s'")
        allowed = await service.authorize(plan(5000), "COMMIT")
        assert allowed.expire_time_ms <= system_clock() + 5000


async def test_the_sweeper_records_what_ran_out_once(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        await ask(service)
        assert await sweeper.sweep(service.engine, service.outbox, ENVIRONMENT, system_clock, new_id) == 0
        owner = await asyncpg.connect(service.owner_dsn)
        await owner.execute("UPDATE approval_task SET decide_by = clock_timestamp() - interval '1 s'")
        await owner.close()
        assert await sweeper.sweep(service.engine, service.outbox, ENVIRONMENT, system_clock, new_id) == 1
        assert await sweeper.sweep(service.engine, service.outbox, ENVIRONMENT, system_clock, new_id) == 0
        await asyncio.sleep(0.4)
        await service.outbox.relay_once()
        assert [e.type for e in map(entries.parse, service.ledger.log)].count("approval.expired") == 1


async def test_a_stricter_policy_voids_the_votes_and_a_looser_one_keeps_them(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked = await ask(service)
        await approve(service, asked, LEA)
        await approve(service, asked, LEO)
        loose = DOCUMENTS["rules.yaml"].replace(b"need: 2", b"need: 1")
        await service.activate(await service.publish({**DOCUMENTS, "rules.yaml": loose}))
        assert (await service.authorize(plan(5000), "COMMIT")).evaluation.reason_codes == ("APPROVED",)
        strict = DOCUMENTS["rules.yaml"].replace(b"need: 2", b"need: 3")
        await service.activate(await service.publish({**DOCUMENTS, "rules.yaml": strict}))
        again = await service.authorize(plan(5000), "COMMIT")
        assert (again.evaluation.outcome, again.signed) == ("REQUIRE_APPROVAL", None)
        assert "POLICY_CHANGED" in again.evaluation.reason_codes
        assert await states(service) == ["SUPERSEDED", "PENDING"]
        await asyncio.sleep(0.4)
        await service.outbox.relay_once()
        voided = [e.document["data"] for e in map(entries.parse, service.ledger.log) if e.type == "approval.withdrawn"]
        assert voided == [{"task_id": asked.task_id, "cause": "superseded"}]


async def test_a_higher_class_than_on_the_card_voids_the_votes(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked = await ask(service)
        await approve(service, asked, LEA)
        await approve(service, asked, LEO)
        higher = DOCUMENTS["tools.yaml"].replace(b"cost: 0", b"cost: 3")
        await service.activate(await service.publish({**DOCUMENTS, "tools.yaml": higher}))
        again = await service.authorize(plan(5000), "COMMIT")
        assert again.signed is None
        assert "POLICY_CHANGED" in again.evaluation.reason_codes


async def test_a_stop_since_the_vote_voids_it_also_after_the_lift(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked = await ask(service)
        await approve(service, asked, LEA)
        await service.sql(
            "INSERT INTO containment (scope, tenant, epoch, stopped, reason_code)"
            " VALUES ('tenant:acme', 'acme', 2, false, 'LIFTED')"
        )
        with pytest.raises(WrongState):
            await approve(service, asked, LEO)
        again = await service.authorize(plan(5000), "COMMIT")
        assert again.card_digest != asked.card_digest
        assert again.signed is None


async def test_an_agent_cannot_flood_people_with_tasks(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        service.decider.config = replace(service.decider.config, max_open_tasks=3)
        answers = [await ask(service, nonce=f"{number:032x}") for number in range(4)]
        assert [answer.evaluation.reason_codes for answer in answers[2:]] == [
            ("APPROVAL_REQUIRED",),
            ("APPROVAL_QUEUE_FULL",),
        ]
        assert (await ask(service, nonce=f"{0:032x}")).evaluation.outcome == "REQUIRE_APPROVAL"


async def test_taint_after_the_card_is_not_covered_by_the_votes(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        clean = await ask(service)
        tainted = await ask(service, taint=True)
        assert clean.task_id != tainted.task_id
        card = await service.call(
            LEA, service.approvals.GetApproval, pb.GetApprovalRequest(task_id=tainted.task_id or "")
        )
        assert parse_canonical(card.decision_card)["ours"]["taint"] is True
        assert "untrusted" in card.task.summary


async def test_twenty_decisions_about_one_plan_make_one_task(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        answers = await asyncio.gather(*(ask(service) for _ in range(20)))
        assert len({answer.task_id for answer in answers}) == 1


async def test_tasks_are_listed_in_pages_newest_first(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        made = [(await ask(service, nonce=f"{number:032x}")).task_id for number in range(5)]
        seen: list[str] = []
        token = ""
        while True:
            request = pb.ListApprovalsRequest(state=pb.APPROVAL_STATE_PENDING, page_size=2, page_token=token)
            page = await service.call(LEA, service.approvals.ListApprovals, request)
            seen += [task.task_id for task in page.tasks]
            token = page.next_page_token
            if not token:
                break
            wrong = pb.ListApprovalsRequest(page_token=token)
            with pytest.raises(InputInvalid):
                await service.call(LEA, service.approvals.ListApprovals, wrong)
        assert seen == made[::-1]
        with pytest.raises(RoleRequired):
            await service.call(human("nobody"), service.approvals.ListApprovals, pb.ListApprovalsRequest())


async def test_a_watcher_hears_of_a_task_and_of_its_change(fresh_database: FreshDatabase) -> None:
    from counterseal.identity import acting_for

    async with policy_service(fresh_database) as service:
        asked = await ask(service)
        executor = replace(agent(), token=None, tenant="", chain=())
        digest_of_plan = await plan_digest(service, asked)
        with acting_for(executor):
            stream = service.approvals.WatchApprovals(pb.WatchApprovalsRequest(plan_digest=digest_of_plan), CONTEXT)
            assert (await anext(stream)).task.state == pb.APPROVAL_STATE_PENDING
            await approve(service, asked, LEA)
            await approve(service, asked, LEO)
            with acting_for(executor):
                assert (await anext(stream)).task.state == pb.APPROVAL_STATE_APPROVED
            await stream.aclose()
