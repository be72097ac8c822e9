"""The kill switch: durable before it is told, adopted from whoever was told directly, lifted by two people."""

import asyncio
from typing import Any

import asyncpg
import grpc
import pytest

from counterseal.api.common.v1 import containment_pb2 as common
from counterseal.api.policy.v1 import containment_pb2 as pb
from counterseal.errors import ExecutorUnavailable, InputInvalid, NotFound, RoleRequired, TokenRevoked, VersionMismatch
from counterseal.identity import Caller
from counterseal.ledger import entry as entries
from counterseal_policy.containment.engine import newer, owner, rose
from counterseal_policy.containment.peers import Peers
from support.policy_service import CONTEXT, Service, agent, human, plan, policy_service
from support.postgres import FreshDatabase
from support.requirements import requirement

OMAR = human("omar", "operator")
IDA = human("ida", "operator")
OPERATOR = Caller(peer="spiffe://counterseal.test/prod/operator", peer_kind="operator")


async def trip(service: Service, scope: str, caller: Caller = OMAR) -> pb.TripContainmentResponse:
    request = pb.TripContainmentRequest(scope=scope, reason_code="INCIDENT", note="something is wrong")
    answer = await service.call(caller, service.containment.TripContainment, request)
    assert isinstance(answer, pb.TripContainmentResponse)
    return answer


async def lift(service: Service, scope: str, epoch: int, caller: Caller, echo: str = "") -> Any:
    request = pb.LiftContainmentRequest(scope=scope, epoch=epoch)
    request.second_person.request_digest = echo
    return await service.call(caller, service.containment.LiftContainment, request)


@pytest.mark.parametrize(
    "scope",
    [
        "tenant:acme",
        "agent:acme/refund-bot",
        "tool:acme/shop.refund",
        "tool:acme/shop.unrefund",
        "request:acme/r-1",
        f"plan:{plan().digest}",
    ],
)
async def test_a_stopped_scope_denies_what_it_covers_on_record(fresh_database: FreshDatabase, scope: str) -> None:
    async with policy_service(fresh_database) as service:
        await service.authorize(plan(), "COMMIT")
        answer = await trip(service, scope)
        assert (answer.state.epoch, answer.state.stopped, answer.revoked_count) == (1, True, 2)
        assert answer.HasField("stopped_time")
        assert service.peers.stops == [(scope, 1)]
        for purpose in ("PREVIEW", "COMMIT", "COMPENSATE"):
            denied = await service.authorize(plan(), purpose)
            assert (denied.evaluation.reason_codes, denied.signed) == (("CONTAINED",), None)
        assert entries.parse(service.ledger.log[-1]).document["data"]["reason_codes"] == ["CONTAINED"]


async def test_the_environment_is_stopped_by_an_operators_certificate_without_a_token(
    fresh_database: FreshDatabase,
) -> None:
    async with policy_service(fresh_database) as service:
        with pytest.raises(RoleRequired):
            await trip(service, "environment:prod")
        await trip(service, "environment:prod", OPERATOR)
        assert (await service.authorize(plan(), "COMMIT")).evaluation.reason_codes == ("CONTAINED",)


@pytest.mark.parametrize(
    "scope", ["environment:staging", "galaxy:x", "tenant:", "agent:acme", "plan:acme", "tenant:globex", "tool:globex/a"]
)
async def test_scopes_of_others_and_nonsense_are_refused(fresh_database: FreshDatabase, scope: str) -> None:
    async with policy_service(fresh_database) as service:
        with pytest.raises(InputInvalid):
            await trip(service, scope)
        assert await service.sql("SELECT 1 FROM containment") == []


async def test_a_plan_of_another_tenant_cannot_be_named(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        await service.authorize(plan(), "COMMIT")
        eve = human("eve", "operator", tenant="globex")
        with pytest.raises(InputInvalid):
            await trip(service, f"plan:{plan().digest}", eve)
        stolen = await service.authorize(plan(), "COMMIT", agent(tenant="globex"))
        assert stolen.evaluation.reason_codes == ("TENANT_MISMATCH",)
        with pytest.raises(InputInvalid):
            await trip(service, f"plan:{plan().digest}", eve)


async def test_without_the_role_nobody_trips(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        with pytest.raises(RoleRequired):
            await trip(service, "tenant:acme", human("ana", "approver"))


async def test_a_lift_takes_two_people_the_epoch_and_the_next_one(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        await trip(service, "tenant:acme")
        for wrong in (0, 2):
            with pytest.raises(VersionMismatch):
                await lift(service, "tenant:acme", wrong, OMAR)
        with pytest.raises(NotFound):
            await lift(service, "agent:acme/other", 1, OMAR)
        asked = (await lift(service, "tenant:acme", 1, OMAR)).second_person.request_digest
        assert (await service.authorize(plan(), "COMMIT")).evaluation.outcome == "DENY"
        lifted = await lift(service, "tenant:acme", 1, IDA, asked)
        assert (lifted.state.epoch, lifted.state.stopped) == (2, False)
        assert (await service.authorize(plan(), "COMMIT")).evaluation.outcome == "ALLOW"
        with pytest.raises(VersionMismatch):
            await lift(service, "tenant:acme", 2, OMAR)


async def test_a_confirmation_for_one_epoch_does_not_lift_a_later_stop(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        await trip(service, "tenant:acme")
        asked = (await lift(service, "tenant:acme", 1, OMAR)).second_person.request_digest
        await trip(service, "tenant:acme")
        with pytest.raises(VersionMismatch):
            await lift(service, "tenant:acme", 1, IDA, asked)


@requirement("containment:stopped")
async def test_while_deciders_are_busy_no_allow_is_recorded_after_the_stop(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        plans = [plan(nonce=f"{n:032x}") for n in range(16)]

        async def decide(of: Any) -> None:
            for _ in range(4):
                await service.authorize(of, "COMMIT")

        busy = [asyncio.create_task(decide(of)) for of in plans]
        await asyncio.sleep(0.05)
        await trip(service, "tenant:acme")
        await asyncio.gather(*busy)
        late = await service.sql(
            "SELECT 1 FROM decision d, containment c WHERE d.outcome = 'ALLOW' AND d.create_time > c.update_time"
        )
        assert late == []
        assert await service.sql("SELECT 1 FROM decision WHERE outcome = 'DENY'") != []


BARRIER = "hashtextextended('counterseal.barrier', 0)"


async def test_a_decision_waits_for_a_stop_under_way_and_sees_it(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        await service.authorize(plan(nonce="11" * 16), "COMMIT")
        stop = await asyncpg.connect(service.owner_dsn)
        try:
            async with stop.transaction():
                await stop.execute(f"SELECT pg_advisory_xact_lock({BARRIER})")
                await stop.execute(
                    "INSERT INTO containment (scope, tenant, epoch, stopped, reason_code)"
                    " VALUES ('tenant:acme', 'acme', 1, true, 'INCIDENT')"
                )
                deciding = asyncio.create_task(service.authorize(plan(), "COMMIT"))
                await asyncio.sleep(0.5)
                assert not deciding.done(), "the decision did not wait for the barrier"
            assert (await deciding).evaluation.reason_codes == ("CONTAINED",)
        finally:
            await stop.close()


async def test_a_stop_waits_for_decisions_under_way(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        decision = await asyncpg.connect(service.owner_dsn)
        try:
            async with decision.transaction():
                await decision.execute(f"SELECT pg_advisory_xact_lock_shared({BARRIER})")
                tripping = asyncio.create_task(trip(service, "tenant:acme"))
                await asyncio.sleep(0.3)
                assert not tripping.done()
                assert service.peers.stops == []
            assert (await tripping).state.stopped
        finally:
            await decision.close()


async def test_what_executor_or_credentials_were_told_directly_is_adopted(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database, adopted=False) as service:
        told = common.ContainmentState(scope="tenant:acme", epoch=7, stopped=True, reason_code="OPERATOR")
        service.peers.barriers["executor"] = [told]
        await service.adoption._once("executor")
        await service.adoption._once("credentials")
        assert (await service.authorize(plan(), "COMMIT")).evaluation.reason_codes == ("CONTAINED",)
        older = common.ContainmentState(scope="tenant:acme", epoch=7, stopped=False)
        service.peers.barriers["credentials"] = [older]
        await service.adoption._once("credentials")
        assert service.board.states["tenant:acme"].stopped
        assert (await trip(service, "tenant:acme")).state.epoch == 8


async def test_an_agents_token_older_than_a_stop_stays_dead_and_people_can_still_look(
    fresh_database: FreshDatabase,
) -> None:
    async with policy_service(fresh_database) as service:
        await service.board.check_caller(agent())
        await trip(service, "agent:acme/refund-bot")
        with pytest.raises(TokenRevoked):
            await service.board.check_caller(agent(epochs={"agent:acme/refund-bot": 1}))
        asked = (await lift(service, "agent:acme/refund-bot", 1, OMAR)).second_person.request_digest
        await lift(service, "agent:acme/refund-bot", 1, IDA, asked)
        with pytest.raises(TokenRevoked):
            await service.board.check_caller(agent(epochs={"agent:acme/refund-bot": 0}))
        await service.board.check_caller(agent(epochs={"agent:acme/refund-bot": 2}))
        await service.board.check_caller(OMAR)


async def test_a_watcher_gets_everything_first_then_changes_and_heartbeats(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        await trip(service, "tenant:acme")
        stream = service.containment.WatchContainment(pb.WatchContainmentRequest(), CONTEXT)
        await service.board.refresh()
        first = await anext(stream)
        assert (first.full, [state.scope for state in first.states]) == (True, ["tenant:acme"])
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        await trip(service, "tool:acme/shop.refund")
        change = await waiting
        assert (change.full, [state.scope for state in change.states]) == (False, ["tool:acme/shop.refund"])
        beat = await anext(stream)
        assert list(beat.states) == []
        await stream.aclose()


async def test_without_a_fresh_view_no_heartbeat_is_sent(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        service.board._read_at = None
        stream = service.containment.WatchContainment(pb.WatchContainmentRequest(), CONTEXT)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await anext(stream)


async def test_a_list_shows_my_tenant_and_the_environment_only(fresh_database: FreshDatabase) -> None:
    async with policy_service(fresh_database) as service:
        await trip(service, "tenant:acme")
        await trip(service, "tenant:globex", OPERATOR)
        await trip(service, "environment:prod", OPERATOR)
        mine = await service.call(OMAR, service.containment.ListContainments, pb.ListContainmentsRequest())
        assert [state.scope for state in mine.states] == ["environment:prod", "tenant:acme"]
        every = await service.call(OPERATOR, service.containment.ListContainments, pb.ListContainmentsRequest())
        assert len(every.states) == 3


def test_epochs_only_rise_and_at_equal_epochs_stopped_wins() -> None:
    assert newer((2, False), (1, True))
    assert newer((1, True), (1, False))
    assert not newer((1, False), (1, True))
    assert not newer((0, True), (1, False))
    assert rose({"a": 1}, {})
    assert not rose({"a": 0}, {"a": 0})
    assert not rose({"a": 1}, {"a": 2})


def test_the_environments_own_scope_belongs_to_the_system() -> None:
    assert owner("environment:prod", "prod") == "_system"
    assert owner("agent:acme/bot", "prod") == "acme"


async def test_a_stop_names_the_services_that_did_not_answer_and_what_to_do() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as nobody:
        moments = await Peers(nobody, nobody).stop("tenant:acme", 1, "INCIDENT", 5.0)
        with pytest.raises(ExecutorUnavailable):
            await Peers(nobody, nobody).barrier("executor")
    assert moments.stopped_time_ms is None
    assert sorted(problem.split(": ")[:2] for problem in moments.problems) == [
        ["credentials", "CREDENTIALS_UNAVAILABLE"],
        ["executor", "EXECUTOR_UNAVAILABLE"],
    ]
    assert all(problem.endswith("(next: RETRY)") for problem in moments.problems)
