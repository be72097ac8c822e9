"""The broker against its attackers, on a real Vault, a real target and a real database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from counterseal.clock import system_clock
from counterseal.documents.decision import ScopeEpoch
from counterseal.errors import (
    AttemptRevoked,
    Contained,
    ContainmentStale,
    DecisionInvalid,
    GrantLimit,
    IdempotencyKeyReused,
    InputInvalid,
    IntentMissing,
    LedgerUnavailable,
    NotFound,
    PlanBytesNeeded,
    PlanDigestMismatch,
    PlanInvalid,
    PriorGrantLive,
    ServiceError,
    TokenRevoked,
    ToolChanged,
    WrongState,
)
from counterseal.ids import new_id
from counterseal.vault import Login, VaultRefused
from counterseal.vault.broker import Life
from counterseal_credentials.containment.engine import ScopeState
from counterseal_credentials.grants.death import PATIENCE_SECONDS
from support.credentials import EXECUTOR, Desk, desk, login_works, obliged, tool
from support.openbao import Provisioned
from support.postgres import FreshDatabase
from support.requirements import requirement


@pytest_asyncio.fixture
async def broker(provisioned: Provisioned, fresh_database: FreshDatabase) -> AsyncIterator[Desk]:
    async with desk(provisioned, fresh_database("credentials")) as made:
        yield made


@requirement("credential:verified-dead")
async def test_a_grant_lends_one_login_that_works_and_is_verified_dead_after_its_revocation(
    broker: Desk, provisioned: Provisioned
) -> None:
    case = broker.case()
    grant, login = await broker.lend(case)
    assert login.username.startswith(f"g-{grant.grant_id.replace('-', '')}-")
    assert await login_works(provisioned, login)
    ended = await broker.lender.revoke("acme", case.asked.attempt_id, "DONE", None, 10)
    assert (ended.verified_dead, ended.never_redeemed) == (True, False)
    assert ended.verify_time is not None
    assert not await login_works(provisioned, login)
    entries = await broker.recorded()
    kinds = [entry["type"] for entry in entries]
    assert kinds == ["credential.granted", "credential.revoked"]
    assert entries[1]["data"]["verified_dead"] is True
    for secret in (login.password, login.username, login.lease_id):
        assert all(secret.encode() not in data for data in broker.ledger.log)


@requirement("credential:redeemed-once")
async def test_a_grant_is_redeemed_once(broker: Desk) -> None:
    case = broker.case()
    grant = await broker.issue(case)
    results = await asyncio.gather(
        *(broker.lender.redeem(case.caller, grant.grant_id) for _ in range(8)), return_exceptions=True
    )
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert all(isinstance(result, (WrongState, dict)) for result in results if isinstance(result, BaseException))


@requirement("credential:redeemed-once")
async def test_the_wrapper_opens_once(broker: Desk) -> None:
    case = broker.case()
    redeemed = await broker.lender.redeem(case.caller, (await broker.issue(case)).grant_id)
    assert await broker.vault.wrapping_lookup(redeemed.wrapped.wrapping_token) == redeemed.wrapped.creation_path
    await broker.vault.unwrap_token(redeemed.wrapped.wrapping_token)
    with pytest.raises(VaultRefused):
        await broker.vault.unwrap_token(redeemed.wrapped.wrapping_token)


@requirement("credential:redeemed-once")
@pytest.mark.parametrize(
    "changes", [{"peer": EXECUTOR.replace("executor", "policy")}, {"tenant": "evil"}, {"txn": "x"}]
)
async def test_another_holder_gets_the_answer_of_what_does_not_exist(broker: Desk, changes: dict[str, Any]) -> None:
    case = broker.case()
    grant = await broker.issue(case)
    for grant_id in (grant.grant_id, new_id(), "nonsense"):
        with pytest.raises(NotFound) as caught:
            await broker.lender.redeem(replace(case.caller, **changes), grant_id)
        assert caught.value.message == "there is no such grant"


async def test_a_tombstone_before_the_issue_refuses_writing_and_permits_probing(broker: Desk) -> None:
    case = broker.case()
    ended = await broker.lender.revoke("acme", case.asked.attempt_id, "RECOVERY", None, 1)
    assert (ended.never_redeemed, ended.verified_dead) == (True, True)
    with pytest.raises(AttemptRevoked):
        await broker.issue(case)
    probe = replace(case, asked=replace(case.asked, purpose="READ", idempotency_key=new_id()))
    await broker.lend(probe)


@requirement("credential:redeemed-once")
async def test_a_tombstone_between_issue_and_redeem_is_seen(broker: Desk) -> None:
    case = broker.case()
    grant = await broker.issue(case)
    ended = await broker.lender.revoke("acme", case.asked.attempt_id, "RECOVERY", None, 1)
    assert ended.never_redeemed
    with pytest.raises((AttemptRevoked, WrongState)):
        await broker.lender.redeem(case.caller, grant.grant_id)
    assert await broker.state(grant) == "FAILED"


@requirement("step:one-live-attempt")
async def test_two_live_writing_grants_of_one_step_are_impossible(broker: Desk) -> None:
    first = broker.case()
    second = broker.with_intent(
        replace(first, asked=replace(first.asked, attempt_id=new_id(), idempotency_key=new_id()))
    )
    await broker.lend(first)
    with pytest.raises(PriorGrantLive):
        await broker.issue(second)
    assert (await broker.lender.revoke("acme", first.asked.attempt_id, "RECOVERY", None, 10)).verified_dead
    await broker.lend(second)


@requirement("step:one-live-attempt")
async def test_of_many_attempts_at_once_one_gets_the_step(broker: Desk) -> None:
    first = broker.case()
    cases = [
        broker.with_intent(replace(first, asked=replace(first.asked, attempt_id=new_id(), idempotency_key=new_id())))
        for _ in range(12)
    ]
    results = await asyncio.gather(*(broker.issue(case) for case in cases), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert {type(result) for result in results if isinstance(result, BaseException)} == {PriorGrantLive}


async def test_issue_is_idempotent_on_its_key_and_refuses_other_content(broker: Desk) -> None:
    case = broker.case()
    grants = await asyncio.gather(*(broker.issue(case) for _ in range(6)))
    assert len({grant.grant_id for grant in grants}) == 1
    assert await broker.scalar("SELECT n FROM live_count WHERE agent = 'refund-bot'") == 1
    with pytest.raises(IdempotencyKeyReused):
        await broker.issue(replace(case, asked=replace(case.asked, purpose="READ")))


FORGERIES: dict[str, dict[str, Any]] = {
    "expired": {"issue_time_ms": system_clock() - 70_000, "expire_time_ms": system_clock() - 10_000},
    "from the future": {"issue_time_ms": system_clock() + 600_000, "expire_time_ms": system_clock() + 660_000},
    "of another environment": {"environment": "staging"},
    "for another audience": {"audience": ("executor",)},
    "of another tenant": {"tenant": "evil"},
    "of another subject": {"subject": "user:eve"},
    "of another transaction": {"txn": "0199d0a0-0000-7000-8000-00000000dead"},
    "of another request": {"request_id": "0199d0a0-0000-7000-8000-00000000dead"},
    "of another agent": {"act": {"sub": "other-bot", "version": "1"}},
    "without the actor": {"act": None},
    "denied": {"outcome": "DENY"},
    "awaiting approval": {"outcome": "REQUIRE_APPROVAL"},
    "a preview": {"purpose": "PREVIEW"},
    "a compensation for a forward step": {"purpose": "COMPENSATE"},
    "without the step": {"steps": ()},
}


@pytest.mark.parametrize("what", FORGERIES)
async def test_a_decision_that_does_not_cover_the_effect_lends_nothing(broker: Desk, what: str) -> None:
    case = broker.case()
    with pytest.raises(DecisionInvalid):
        await broker.issue(replace(case, statement=replace(case.statement, **FORGERIES[what])))
    assert await broker.scalar("SELECT count(*) FROM grants") == 0
    denied = [entry for entry in await broker.recorded() if entry["type"] == "credential.denied"]
    assert [entry["data"]["reason_code"] for entry in denied] == ["DECISION_INVALID"]


async def test_a_decision_signed_by_another_key_or_under_an_unknown_kid_is_refused(broker: Desk) -> None:
    from support.signer import LocalSigner

    case = broker.case()
    with pytest.raises(DecisionInvalid):
        await broker.issue(case, key="decision-prod:9")
    with pytest.raises(DecisionInvalid):
        await broker.issue(case, key="ctx-prod:1")
    own, broker.signer = broker.signer, LocalSigner("decision-prod:1", b"\x07" * 32)
    forged, real = broker.signer, own.public_key

    async def genuine(_: str) -> bytes:
        return real

    broker.lender._decision_key = genuine
    assert forged.public_key != real
    with pytest.raises(DecisionInvalid):
        await broker.issue(case)


async def test_other_bytes_under_the_decision_are_refused(broker: Desk) -> None:
    case = broker.case()
    changed = case.plan.body.replace(b'"amount_minor":1500', b'"amount_minor":1501')
    assert changed != case.plan.body
    with pytest.raises(PlanDigestMismatch):
        await broker.issue(case, plan=changed)
    with pytest.raises(PlanBytesNeeded):
        await broker.issue(case, plan=b"")


async def test_role_and_target_come_from_the_descriptor_that_the_plan_names(broker: Desk) -> None:
    case = broker.case()
    with pytest.raises(ToolChanged):
        await broker.issue(case, tool=tool(credential_role="admin").body)
    with pytest.raises(InputInvalid):
        await broker.issue(replace(case, asked=replace(case.asked, target="crm")))
    with pytest.raises(PlanInvalid):
        await broker.issue(replace(case, asked=replace(case.asked, step_id="s2")))
    with pytest.raises(PlanInvalid):
        await broker.issue(replace(case, asked=replace(case.asked, undo=True)))


async def test_an_effect_needs_the_plans_continuation_token(broker: Desk) -> None:
    case = broker.case()
    for scope in (frozenset({"plan.commit"}), frozenset({f"undo:{case.plan.digest}"}), frozenset()):
        with pytest.raises(DecisionInvalid):
            await broker.issue(replace(case, caller=replace(case.caller, scope=scope)))


@pytest.mark.parametrize(
    "falsified",
    [
        {"attempt_id": "0199d0a0-0000-7000-8000-00000000dead"},
        {"step": "s2"},
        {"tool_digest": "sha256:" + "00" * 32},
        {"target": "crm"},
        {"plan_digest": "sha256:" + "11" * 32},
        {"tenant": "evil"},
    ],
)
async def test_an_intent_of_something_else_lends_nothing(broker: Desk, falsified: dict[str, Any]) -> None:
    case = broker.case()
    other = broker.with_intent(case, **falsified)
    case = replace(case, asked=replace(case.asked, intent_event_id=other.asked.intent_event_id))
    with pytest.raises(IntentMissing):
        await broker.issue(case)


@requirement("effect:intent-first")
@pytest.mark.parametrize("event_id", ["", "x", "0199d0a0-0000-7000-8000-00000000dead"])
async def test_without_an_intent_in_the_ledger_nothing_is_lent(broker: Desk, event_id: str) -> None:
    case = broker.case()
    with pytest.raises(IntentMissing):
        await broker.issue(replace(case, asked=replace(case.asked, intent_event_id=event_id)))


async def test_a_reading_grant_cannot_write(broker: Desk, provisioned: Provisioned) -> None:
    _, login = await broker.lend(broker.case(purpose="READ"))
    connection = await asyncpg.connect(provisioned.cluster.dsn("shop_acme", login.username, login.password))
    assert await connection.fetchval("SELECT count(*) FROM orders") == 100
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("UPDATE orders SET state = 'x'")
    await connection.close()


@requirement("credential:bounded-life")
async def test_life_is_bounded_by_step_reading_limit_and_obligation(broker: Desk) -> None:
    case = broker.case(step={"timeout_seconds": 30})
    for asked in (
        replace(case.asked, ttl_seconds=41),
        replace(case.asked, ttl_seconds=0),
        replace(case.asked, ttl_seconds=61, purpose="READ"),
    ):
        with pytest.raises(InputInvalid):
            await broker.issue(replace(case, asked=asked))
    with pytest.raises(InputInvalid):
        await broker.issue(obliged(case, 5))
    await broker.issue(replace(case, asked=replace(case.asked, ttl_seconds=40)))


async def test_a_stale_containment_stream_lends_only_for_reading(broker: Desk) -> None:
    case = broker.case()
    grant = await broker.issue(case)
    broker.fresh = False
    with pytest.raises(ContainmentStale):
        await broker.issue(broker.case())
    with pytest.raises(ContainmentStale):
        await broker.lender.redeem(case.caller, grant.grant_id)
    await broker.lend(broker.case(purpose="READ"))


async def test_live_grants_per_agent_are_limited_and_the_count_falls_at_the_end(broker: Desk) -> None:
    broker.settings = replace(broker.settings, agent_limit=3)
    broker.replica()
    cases = [broker.case() for _ in range(3)]
    for case in cases:
        await broker.issue(case)
    with pytest.raises(GrantLimit):
        await broker.issue(broker.case())
    await broker.lender.revoke("acme", cases[0].asked.attempt_id, "DONE", None, 5)
    await broker.issue(broker.case())


async def test_with_the_ledger_down_an_effects_credential_does_not_leave(
    broker: Desk, provisioned: Provisioned
) -> None:
    case = broker.case()
    grant = await broker.issue(case)
    broker.ledger.down = True
    with pytest.raises(LedgerUnavailable):
        await broker.lender.redeem(case.caller, grant.grant_id)
    assert await broker.state(grant) == "REVOKING"
    broker.ledger.down = False
    await broker.reconciler.dying_once()
    assert await broker.state(grant) == "REVOKED"


async def test_a_process_that_dies_while_binding_leaves_a_failed_grant(broker: Desk) -> None:
    case = broker.case()
    grant = await broker.issue(case)
    await broker.lender._bind(case.caller, grant.grant_id)
    await broker.reconciler.end_overdue()
    assert await broker.state(grant) == "BINDING"
    await _age(broker, "bind_time", 31)
    await broker.reconciler.end_overdue()
    assert await broker.state(grant) == "FAILED"
    with pytest.raises(WrongState):
        await broker.lender.redeem(case.caller, grant.grant_id)


async def test_a_replica_that_was_paused_while_redeeming_answers_nothing_and_kills_its_token(broker: Desk) -> None:
    case = broker.case()
    grant = await broker.issue(case)
    bound = await broker.lender._bind(case.caller, grant.grant_id)
    wrapped = await broker.broker.create_token(bound.role(broker.environment), grant.grant_id, 20)
    await _age(broker, "bind_time", 31)
    await broker.reconciler.end_overdue()
    with pytest.raises(WrongState):
        await broker.lender._keep(case.caller, bound, wrapped)
    await asyncio.sleep(0.1)
    token = await broker.vault.unwrap_token(wrapped.wrapping_token)
    with pytest.raises(VaultRefused):  # the wrapper still opens; what was in it is dead
        await broker.vault.read_login(bound.role(broker.environment).credential_path, token)


@requirement("credential:bounded-life")
@requirement("credential:bounded-life")
async def test_a_grant_past_its_life_is_killed_by_the_reconciler(broker: Desk, provisioned: Provisioned) -> None:
    grant, login = await broker.lend(broker.case())
    await _age(broker, "not_after", 60)
    await broker.reconciler.end_overdue()
    await broker.reconciler.dying_once()
    assert await broker.state(grant) == "REVOKED"
    assert not await login_works(provisioned, login)


@requirement("credential:bounded-life")
async def test_an_unreported_lease_is_found_and_killed(broker: Desk, provisioned: Provisioned) -> None:
    case = broker.case()
    login = await broker.take(case, await broker.issue(case), report=False)
    ended = await broker.lender.revoke("acme", case.asked.attempt_id, "RECOVERY", None, 10)
    assert ended.verified_dead
    assert not await login_works(provisioned, login)


async def test_a_lease_of_another_role_cannot_be_reported(broker: Desk) -> None:
    case = broker.case()
    grant = await broker.issue(case)
    with pytest.raises(InputInvalid):
        await broker.lender.report(EXECUTOR, grant.tenant, grant.grant_id, "db/prod/evil/creds/shop--rw--60/x")
    with pytest.raises(NotFound):
        await broker.lender.report(EXECUTOR.replace("executor", "x"), grant.tenant, grant.grant_id, "x")


async def test_a_trip_stops_issue_and_redeem_and_kills_what_is_lent(broker: Desk, provisioned: Provisioned) -> None:
    lent, waiting = broker.case(), broker.case()
    grant, login = await broker.lend(lent)
    requested = await broker.issue(waiting)
    state = await broker.barrier.stop(ScopeState("tenant:acme", 0, True, "OPERATOR"))
    assert (state.epoch, state.stopped) == (1, True)
    with pytest.raises(Contained):
        await broker.issue(broker.case())
    with pytest.raises((Contained, WrongState)):
        await broker.lender.redeem(waiting.caller, requested.grant_id)
    done = await broker.barrier.progress(state, 10)
    assert (done.credential_count, done.revoked_count, done.revoked_epoch) == (1, 1, 1)
    assert await broker.state(grant) == "REVOKED"
    assert await broker.state(requested) == "FAILED"
    assert not await login_works(provisioned, login)
    revoked = [entry for entry in await broker.recorded() if entry["type"] == "containment.revoked"]
    assert [entry["data"]["credential_count"] for entry in revoked] == [1]


@pytest.mark.parametrize("kind", ["environment", "tenant", "agent", "request", "tool", "plan"])
async def test_every_kind_of_scope_stops_its_grants_and_no_others(broker: Desk, kind: str) -> None:
    mine, other = broker.case(), broker.case(tenant="evil")
    scope = {
        "environment": "environment:prod",
        "tenant": "tenant:acme",
        "agent": "agent:acme/refund-bot",
        "request": f"request:acme/{mine.statement.request_id}",
        "tool": "tool:acme/shop.refund",
        "plan": f"plan:{mine.plan.digest}",
    }[kind]
    first, _ = await broker.lend(mine)
    second, _ = await broker.lend(other)
    state = await broker.barrier.stop(ScopeState(scope, 0, True, "OPERATOR"))
    assert (await broker.barrier.progress(state, 10)).revoked_epoch == state.epoch
    assert await broker.state(first) == "REVOKED"
    assert await broker.state(second) == ("REVOKED" if kind == "environment" else "BOUND")


@requirement("credential:verified-dead")
async def test_a_trip_under_busy_redeemers_leaves_no_live_grant(broker: Desk) -> None:
    cases = [broker.case() for _ in range(12)]
    grants = [await broker.issue(case) for case in cases]
    redeeming = [
        asyncio.create_task(broker.lender.redeem(case.caller, grant.grant_id))
        for case, grant in zip(cases, grants, strict=True)
    ]
    await asyncio.sleep(0.01)
    state = await broker.barrier.stop(ScopeState("tenant:acme", 0, True, "OPERATOR"))
    assert await broker.scalar("SELECT count(*) FROM grants WHERE state = 'BOUND'") == 0
    results = await asyncio.gather(*redeeming, return_exceptions=True)
    assert all(not isinstance(result, BaseException) or isinstance(result, ServiceError) for result in results)
    assert await broker.scalar("SELECT count(*) FROM grants WHERE state = 'BOUND'") == 0
    assert (await broker.barrier.progress(state, 15)).revoked_epoch == state.epoch
    assert await broker.scalar("SELECT count(*) FROM grants WHERE state NOT IN ('REVOKED', 'FAILED')") == 0
    assert await broker.scalar("SELECT sum(n) FROM live_count") == 0


async def test_after_a_lift_old_decisions_and_tokens_stay_dead(broker: Desk) -> None:
    case = broker.case()
    state = await broker.barrier.stop(ScopeState("tenant:acme", 0, True, "OPERATOR"))
    await broker.barrier.adopt(ScopeState("tenant:acme", state.epoch + 1, False, "LIFTED"))
    with pytest.raises(Contained):
        await broker.issue(case)
    renewed = replace(case.statement, containment=(ScopeEpoch("tenant:acme", state.epoch + 1),))
    with pytest.raises(TokenRevoked):
        await broker.issue(replace(case, statement=renewed))
    caller = replace(case.caller, epochs={"tenant:acme": state.epoch + 1})
    await broker.issue(replace(case, statement=renewed, caller=caller))


async def test_a_late_or_repeated_message_never_lifts(broker: Desk) -> None:
    scope = "agent:acme/refund-bot"
    await broker.barrier.stop(ScopeState(scope, 5, True, "OPERATOR"))
    for told in (ScopeState(scope, 5, False), ScopeState(scope, 4, False), ScopeState(scope, 3, True)):
        await broker.barrier.adopt(told)
    await broker.barrier.stop(ScopeState(scope, 2, True, "OPERATOR"))
    known = {state.scope: state for state in await broker.barrier.everything()}
    assert (known[scope].epoch, known[scope].stopped) == (5, True)


async def test_the_kill_goes_on_after_a_crash_of_the_process_that_was_told(
    broker: Desk, provisioned: Provisioned
) -> None:
    grant, login = await broker.lend(broker.case())
    broker.barrier._start = lambda state: None  # type: ignore[method-assign] # it died right after its commit
    state = await broker.barrier.stop(ScopeState("agent:acme/refund-bot", 0, True, "OPERATOR"))
    async with reconciling(broker.replica()) as other:
        assert (await other.barrier.progress(state, 30)).revoked_epoch == state.epoch
    assert await broker.state(grant) == "REVOKED"
    assert not await login_works(provisioned, login)


async def test_a_vault_that_is_slower_than_one_pass_is_asked_again_until_the_login_is_dead(
    broker: Desk, provisioned: Provisioned, caplog: pytest.LogCaptureFixture
) -> None:
    grant, login = await broker.lend(broker.case())
    token_life, slow_until = broker.broker.token_life, asyncio.get_running_loop().time() + PATIENCE_SECONDS + 1

    async def slow(accessor: str) -> Life:  # what Vault answers while a token is on its queue
        life = await token_life(accessor)
        return Life.DYING if asyncio.get_running_loop().time() < slow_until else life

    broker.broker.token_life = slow  # type: ignore[method-assign]
    state = await broker.barrier.stop(ScopeState("agent:acme/refund-bot", 0, True, "OPERATOR"))
    async with reconciling(broker):
        assert (await broker.barrier.progress(state, 1)).revoked_epoch < state.epoch
        assert await broker.state(grant) == "REVOKING"
        assert (await broker.barrier.progress(state, 30)).revoked_epoch == state.epoch
    assert await broker.state(grant) == "REVOKED"
    assert not await login_works(provisioned, login)
    reasons = {getattr(record, "error", "") for record in caplog.records}
    assert "NotDead" in reasons, "whoever reads the log learns what is waited for"


@requirement("tenant:isolated")
async def test_one_tenants_grants_are_invisible_to_another(broker: Desk) -> None:
    from counterseal_credentials.database import transaction
    from counterseal_credentials.grants import store

    grant = await broker.issue(broker.case())
    async with transaction(broker.engine, "evil") as connection:
        assert await store.get(connection, grant.grant_id) is None
        assert await store.newest(connection, "acme", "", "", 10) == []


async def test_a_case_of_another_tenants_database_reaches_only_its_own(broker: Desk, provisioned: Provisioned) -> None:
    _, login = await broker.lend(broker.case(tenant="evil"))
    assert await login_works(provisioned, login, "evil")
    assert not await login_works(provisioned, login, "acme")


@asynccontextmanager
async def reconciling(broker: Desk) -> AsyncIterator[Desk]:
    """The reconciler's own loops, as every replica runs them."""
    stopping = asyncio.Event()
    running = asyncio.create_task(broker.reconciler.run(stopping))
    try:
        yield broker
    finally:
        stopping.set()
        await running


async def _age(broker: Desk, column: str, seconds: int) -> None:
    """Move a time into the past, as the owner: the runtime role may not."""
    connection = await asyncpg.connect(broker.database.admin_dsn)
    await connection.execute(f"UPDATE grants SET {column} = clock_timestamp() - interval '{seconds} s'")
    await connection.close()


async def test_a_tenant_is_not_reported_revoked_while_a_login_that_no_grant_knows_still_lives(
    broker: Desk, provisioned: Provisioned
) -> None:
    operator = await provisioned.operator()
    answer = await operator.call("GET", "db/prod/acme/creds/shop--rw--60")
    stray = Login(answer["data"]["username"], answer["data"]["password"], answer["lease_id"], 60)
    assert await login_works(provisioned, stray)
    revoke_prefix = broker.broker.revoke_prefix

    async def slow(prefix: str) -> None:  # Vault's queue is long: nothing has died yet
        del prefix

    broker.broker.revoke_prefix = slow  # type: ignore[method-assign]
    state = await broker.barrier.stop(ScopeState("tenant:acme", 0, True, "OPERATOR"))
    assert (await broker.barrier.progress(state, 0.5)).revoked_epoch < state.epoch
    assert await login_works(provisioned, stray), "it is alive, so REVOKED would have been a lie"
    broker.broker.revoke_prefix = revoke_prefix  # type: ignore[method-assign]
    assert (await broker.barrier.progress(state, 10)).revoked_epoch == state.epoch
    assert not await login_works(provisioned, stray)
    operator.close()


async def test_a_broker_that_may_not_sweep_any_more_never_reports_revoked(
    broker: Desk, provisioned: Provisioned
) -> None:
    operator = await provisioned.operator()
    path = "sys/policies/acl/svc--prod--credentials"
    policy = (await operator.call("GET", path))["data"]["policy"]
    await operator.call("POST", path, {"policy": policy.replace("/creds/sweep", "/creds/nothing")})
    try:
        grant, _ = await broker.lend(broker.case())
        state = await broker.barrier.stop(ScopeState("tenant:acme", 0, True, "OPERATOR"))
        assert (await broker.barrier.progress(state, 1.5)).revoked_epoch < state.epoch
        assert await broker.state(grant) == "REVOKING"
    finally:
        await operator.call("POST", path, {"policy": policy})
        operator.close()
    assert (await broker.barrier.progress(state, 15)).revoked_epoch == state.epoch
    assert await broker.state(grant) == "REVOKED"


async def test_no_secret_of_a_grant_is_in_the_database_the_ledger_or_a_log(
    broker: Desk, provisioned: Provisioned, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    case = broker.case()
    grant = await broker.issue(case)
    redeemed = await broker.lender.redeem(case.caller, grant.grant_id)
    token = await broker.vault.unwrap_token(redeemed.wrapped.wrapping_token)
    login = await broker.vault.read_login(redeemed.credential_path, token)
    await broker.lender.report(EXECUTOR, "acme", grant.grant_id, login.lease_id)
    with pytest.raises(WrongState):
        await broker.lender.redeem(case.caller, grant.grant_id)
    await broker.lender.revoke("acme", case.asked.attempt_id, "DONE", None, 15)
    await broker.recorded()
    secrets = {redeemed.wrapped.wrapping_token, token, login.password}
    seen = {"log": caplog.text, "repr": repr((redeemed, login)), "ledger": repr(broker.ledger.log)}
    connection = await asyncpg.connect(broker.database.admin_dsn)
    for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        rows = await connection.fetch(f'SELECT t::text AS row FROM "{row["tablename"]}" t')
        seen[row["tablename"]] = "\n".join(item["row"] for item in rows)
        if row["tablename"] == "outbox":
            requests = await connection.fetch("SELECT request FROM outbox")
            seen["outbox requests"] = repr([bytes(item["request"]) for item in requests])
    await connection.close()
    assert grant.grant_id in seen["grants"]
    found = {place for place, text in seen.items() for secret in secrets if secret in text}
    assert found == set()


async def test_a_redeem_under_way_is_recorded_before_the_process_goes(broker: Desk) -> None:
    case = broker.case()
    grant = await broker.issue(case)
    create, made = broker.broker.create_token, asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        wrapped = await create(*arguments)
        made.set()
        await asyncio.sleep(0.3)  # the token exists in Vault, and its accessor is stored nowhere yet
        return wrapped

    broker.broker.create_token = slow  # type: ignore[assignment, method-assign]
    caller = asyncio.create_task(broker.lender.redeem(case.caller, grant.grant_id))
    await made.wait()
    caller.cancel()  # the server's drain gives up the call
    await asyncio.gather(caller, return_exceptions=True)
    assert await broker.state(grant) == "BINDING"
    await broker.lender.close()
    assert await broker.state(grant) == "BOUND"
    assert (await broker.lender.revoke("acme", case.asked.attempt_id, "DONE", None, 15)).verified_dead
