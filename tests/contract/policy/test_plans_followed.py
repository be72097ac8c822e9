"""What the ledger says of a plan moves its approval task: USED by the commit, WITHDRAWN by an end without one."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal.api.audit.v1 import reader_pb2
from counterseal.api.policy.v1 import approval_pb2 as pb
from counterseal.canonical import canonical, parse_canonical
from counterseal.clock import system_clock
from counterseal.documents.decision import parse_statement
from counterseal.documents.effects import commit_event_id
from counterseal.errors import LedgerUnavailable, WrongState
from counterseal.ids import new_id
from counterseal.ledger import entry as entries
from counterseal.rpc.ledger_wire import new_entry
from counterseal_policy.approvals import cursor, sweeper
from counterseal_policy.approvals.engine import after_plan
from counterseal_policy.approvals.follower import _plan_event
from counterseal_policy.decisions.decider import Answer
from support.policy_service import ENVIRONMENT, Service, human, plan, policy_service
from support.postgres import FreshDatabase
from support.requirements import requirement

LEA, LEO = human("lea", "payments_lead"), human("leo", "payments_lead")
DIGEST = "sha256:" + "ab" * 32


async def approved(service: Service, **changes: Any) -> tuple[Answer, str]:
    """A plan that two leads approved; returns the answer that asked for it, and the plan's digest."""
    wanted = plan(5000, **changes)
    asked = await service.authorize(wanted)
    for voter in (LEA, LEO):
        request = pb.ApproveTaskRequest(
            task_id=asked.task_id or "", plan_digest=wanted.digest, card_digest=asked.card_digest or ""
        )
        await service.call(voter, service.approvals.ApproveTask, request)
    return asked, wanted.digest


def tell(service: Service, kind: str, digest: str, data: dict[str, Any], event_id: str | None = None) -> None:
    """Let the executor write to the ledger."""
    service.ledger.append(
        new_entry(
            kind,
            data,
            event_id=event_id or new_id(),
            event_time_ms=system_clock(),
            tenant="acme",
            environment=ENVIRONMENT,
            plan_digest=digest,
        )
    )


def committed(service: Service, digest: str) -> None:
    data = {"decision_id": new_id(), "snapshot_id": DIGEST, "approvals": []}
    tell(service, "plan.committed", digest, data, commit_event_id(digest))


def ended(service: Service, digest: str, state: str) -> None:
    counts = ("step_count", "applied_count", "compensated_count", "intent_count", "cost_minor")
    tell(service, "plan.ended", digest, {"state": state, **dict.fromkeys(counts, 0)})


async def shown(service: Service, task_id: str | None) -> Any:
    """The state as people see it."""
    request = pb.GetApprovalRequest(task_id=task_id or "")
    return (await service.call(LEA, service.approvals.GetApproval, request)).task.state


async def types(service: Service) -> list[str]:
    await asyncio.sleep(0.4)
    await service.outbox.relay_once()
    return [entries.parse(data).type for data in service.ledger.log]


@requirement("approval:used-or-withdrawn")
async def test_after_the_commit_the_task_reads_used_and_stays_so(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked, digest = await approved(service)
        assert await service.plans.follow() == 0
        assert await shown(service, asked.task_id) == pb.APPROVAL_STATE_APPROVED
        committed(service, digest)
        assert await service.plans.follow() == 1
        assert await shown(service, asked.task_id) == pb.APPROVAL_STATE_USED
        request = pb.WithdrawVoteRequest(task_id=asked.task_id or "")
        with pytest.raises(WrongState):
            await service.call(LEA, service.approvals.WithdrawVote, request)
        await service.sql("UPDATE approval_task SET valid_until = clock_timestamp() - interval '1 s'")
        assert await sweeper.sweep(service.engine, service.outbox, ENVIRONMENT, system_clock, new_id) == 0
        ended(service, digest, "SUCCEEDED")
        assert await service.plans.follow() == 0
        assert await shown(service, asked.task_id) == pb.APPROVAL_STATE_USED
        assert {"approval.withdrawn", "approval.expired"}.isdisjoint(await types(service))


@requirement("approval:used-or-withdrawn")
async def test_the_votes_of_a_committed_plan_go_on_counting_until_their_time_is_over(
    fresh_database: FreshDatabase,
) -> None:
    """The executor asks again before each step; people are not asked again for what they approved."""
    async with policy_service(fresh_database) as service:
        asked, digest = await approved(service)
        committed(service, digest)
        await service.plans.follow()
        for stopped_since in (False, True):
            if stopped_since:  # and lifted: what goes on then is the word of who lifted and resumed
                await service.sql(
                    "INSERT INTO containment (scope, tenant, epoch, stopped, reason_code)"
                    " VALUES ('tenant:acme', 'acme', 2, false, 'LIFTED')"
                )
            renewed = await service.authorize(plan(5000), "COMMIT")
            assert renewed.evaluation.reason_codes == ("APPROVED",)
            assert renewed.signed is not None
            statement = parse_statement(renewed.signed.statement)
            assert (statement.task_id, len(statement.votes)) == (asked.task_id, 2)
        other = await service.authorize(plan(5000, nonce="aa" * 16), "COMMIT")
        assert other.signed is None, "of these bytes only"
        await service.sql("UPDATE approval_task SET valid_until = clock_timestamp() - interval '1 s'")
        late = await service.authorize(plan(5000), "COMMIT")
        assert (late.signed, late.evaluation.reason_codes[0]) == (None, "APPROVAL_EXPIRED")
        assert late.task_id not in (None, asked.task_id)
        assert await shown(service, asked.task_id) == pb.APPROVAL_STATE_USED


@requirement("approval:used-or-withdrawn")
async def test_a_plan_that_ended_without_a_commit_withdraws_its_task_once(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database, replicas=2) as (one, two):
        pending = await one.authorize(plan(5000, nonce="aa" * 16))
        asked, digest = await approved(one)
        ended(one, digest, "WITHDRAWN")
        ended(one, plan(5000, nonce="aa" * 16).digest, "EXPIRED")
        assert sum(await asyncio.gather(one.plans.follow(), two.plans.follow())) == 2
        for task_id in (asked.task_id, pending.task_id):
            assert await shown(one, task_id) == pb.APPROVAL_STATE_WITHDRAWN
        assert (await types(one)).count("approval.withdrawn") == 2
        (first, *_) = [e for e in map(entries.parse, one.ledger.log) if e.type == "approval.withdrawn"]
        assert first.data["cause"] == "plan_ended"
        vote = pb.ApproveTaskRequest(
            task_id=pending.task_id, plan_digest=plan(5000, nonce="aa" * 16).digest, card_digest=pending.card_digest
        )
        with pytest.raises(WrongState):
            await one.call(LEA, one.approvals.ApproveTask, vote)


async def test_a_log_is_read_from_the_oldest_open_question_on_and_no_part_twice(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        assert await service.plans.follow() == 0
        assert service.ledger.lists == [], "nobody was asked anything"
        for number in range(5):
            ended(service, plan(1, nonce=f"{number:032x}").digest, "SUCCEEDED")
        service.ledger.page_size = 2
        before = len(service.ledger.log_of("acme"))
        _, digest = await approved(service)
        await service.plans.follow()
        assert service.ledger.lists[0] == ("acme", before)
        reached = len(service.ledger.log_of("acme"))
        committed(service, digest)
        service.ledger.lists.clear()
        assert await service.plans.follow() == 1
        assert service.ledger.lists == [("acme", reached)]


@requirement("approval:used-or-withdrawn")
@pytest.mark.parametrize("new_entries", [0, 1, 40], ids=["shorter", "with one entry", "longer than the one before"])
async def test_a_log_is_read_to_its_end_before_the_one_that_continues_it_is_from_its_beginning(
    fresh_database: FreshDatabase, new_entries: int
) -> None:
    async with policy_service(fresh_database) as service:
        service.ledger.page_size = 7
        tasks = [await approved(service, nonce=f"{number:032x}") for number in range(5)]
        await service.plans.follow()
        committed(service, tasks[0][1])
        service.ledger.continue_logs()
        committed(service, tasks[1][1])
        for number in range(new_entries):
            ended(service, plan(1, nonce=f"{number + 100:032x}").digest, "SUCCEEDED")
        committed(service, tasks[4][1])
        service.ledger.continue_logs()
        service.ledger.continue_logs()  # a log that nothing was written to
        committed(service, tasks[2][1])
        assert await service.plans.follow() == 4
        for asked, _ in (*tasks[:3], tasks[4]):
            assert await shown(service, asked.task_id) == pb.APPROVAL_STATE_USED
        service.ledger.lists.clear()
        committed(service, tasks[3][1])
        assert await service.plans.follow() == 1
        assert service.ledger.lists == [("acme", 1)], "and nothing was read twice"


async def test_a_ledger_that_lost_entries_is_left_alone_until_its_log_is_continued(
    fresh_database: FreshDatabase,
) -> None:
    async with policy_service(fresh_database) as service:
        asked, digest = await approved(service)
        await service.plans.follow()
        del service.ledger.log[1:]
        assert await service.plans.follow() == 0
        ended(service, digest, "SUCCEEDED")  # in the place of an entry that was read
        assert await service.plans.follow() == 0
        service.ledger.continue_logs()
        committed(service, digest)
        assert await service.plans.follow() == 1
        assert await shown(service, asked.task_id) == pb.APPROVAL_STATE_USED


async def test_what_the_ledger_sends_is_checked_before_a_task_is_moved(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        asked, digest = await approved(service)
        committed(service, digest)
        true = service.ledger.log[-1]
        document = parse_canonical(true)
        foreign = {**document, "srv": {**document["srv"], "producer": "policy"}}
        for wrong in (canonical(foreign), canonical({**document, "tenant": "globex"}), true[:-1]):
            service.ledger.log[-1] = wrong
            service.ledger.log_of = lambda tenant: service.ledger.log  # as if it were acme's
            with pytest.raises(LedgerUnavailable):
                await service.plans.follow()
            assert await shown(service, asked.task_id) == pb.APPROVAL_STATE_APPROVED
        service.ledger.log[-1] = true
        with pytest.raises(LedgerUnavailable):
            _plan_event(reader_pb2.LedgerEntry(entry=true, leaf_hash=bytes(32)), "acme")
        service.ledger.down = True
        with pytest.raises(LedgerUnavailable):
            await service.plans.follow()
        service.ledger.down = False
        assert await service.plans.follow() == 1


async def test_one_tenants_malformed_log_holds_up_no_others_tasks(
    fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = cursor.starts

    async def starts(connection: AsyncConnection) -> list[tuple[str, int]]:
        return [("aaa", 0), *await known(connection)]

    monkeypatch.setattr(cursor, "starts", starts)
    async with policy_service(fresh_database) as service:
        asked, digest = await approved(service)
        committed(service, digest)
        honest, bad = service.ledger.log_of, [b'{"type":"plan.committed"']
        service.ledger.log_of = lambda tenant: bad if tenant == "aaa" else honest(tenant)
        with pytest.raises(LedgerUnavailable):
            await service.plans.follow()
        assert await shown(service, asked.task_id) == pb.APPROVAL_STATE_USED


@pytest.mark.parametrize(
    ("state", "event", "plan_state", "after"),
    [
        ("APPROVED", "plan.committed", "", "USED"),
        ("PENDING", "plan.committed", "", None),  # asked anew for a running plan
        ("APPROVED", "plan.ended", "WITHDRAWN", "WITHDRAWN"),
        ("APPROVED", "plan.ended", "CANCELLED", "WITHDRAWN"),
        ("APPROVED", "plan.ended", "SUCCEEDED", "USED"),
        ("APPROVED", "plan.ended", "ROLLED_BACK", "USED"),
        ("PENDING", "plan.ended", "SUCCEEDED", "WITHDRAWN"),
        ("PENDING", "plan.ended", "EXPIRED", "WITHDRAWN"),
    ],
)
def test_what_becomes_of_a_task(state: str, event: str, plan_state: str, after: str | None) -> None:
    assert after_plan(state, event, plan_state) == after
