"""Vault sealed, stopped and started again: nothing is called dead that is not known to be, and nothing is forgotten."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from counterseal.clock import system_clock
from counterseal.embedded.openbao import OpenBao, OpenBaoServer
from counterseal.embedded.postgres import Cluster
from counterseal.errors import CredentialsUnavailable
from counterseal.ids import new_id
from counterseal.vault import VaultUnavailable
from counterseal_credentials.containment.engine import ScopeState
from counterseal_credentials.tokens.keys import PublishedKeys
from support.credentials import Desk, desk, login_works
from support.openbao import Provisioned
from support.postgres import FreshDatabase


@dataclass(frozen=True, slots=True)
class Outage:
    """Vault's server object: `begin` stops it, `end` starts it again, unsealed, at the same address."""

    server: OpenBaoServer
    address: str

    def begin(self) -> None:
        self.server.stop()

    def end(self) -> None:
        assert self.server.start().address == self.address


@pytest.fixture
def outage(openbao_server: tuple[OpenBaoServer, OpenBao], postgres_cluster: Cluster) -> Iterator[Outage]:
    server, reached = openbao_server
    del postgres_cluster
    yield Outage(server, reached.address)
    if server.pid is None:
        server.start()


@pytest_asyncio.fixture
async def broker(provisioned: Provisioned, fresh_database: FreshDatabase, outage: Outage) -> AsyncIterator[Desk]:
    async with desk(provisioned, fresh_database("credentials")) as made:
        try:
            yield made
        finally:
            if outage.server.pid is None:
                outage.end()


async def test_while_vault_is_away_a_revoked_login_is_dying_and_never_called_dead(
    broker: Desk, provisioned: Provisioned, outage: Outage
) -> None:
    case = broker.case()
    grant, login = await broker.lend(case)
    outage.begin()
    ended = await broker.lender.revoke("acme", case.asked.attempt_id, "RECOVERY", None, 1)
    assert (ended.verified_dead, ended.verify_time) == (False, None)
    assert await broker.state(grant) == "REVOKING"
    assert await login_works(provisioned, login), "it is alive: saying otherwise would be a lie"
    await broker.reconciler.dying_once()
    assert await broker.state(grant) == "REVOKING"
    outage.end()
    ended = await broker.lender.revoke("acme", case.asked.attempt_id, "RECOVERY", None, 15)
    assert ended.verified_dead
    assert not await login_works(provisioned, login)


async def test_while_vault_is_away_a_redeem_fails_whole_and_the_step_can_be_tried_again(
    broker: Desk, outage: Outage
) -> None:
    case = broker.case()
    grant = await broker.issue(case)
    outage.begin()
    with pytest.raises(CredentialsUnavailable):
        await broker.lender.redeem(case.caller, grant.grant_id)
    assert await broker.state(grant) == "FAILED"
    outage.end()
    assert (await broker.lender.revoke("acme", case.asked.attempt_id, "RECOVERY", None, 1)).never_redeemed
    assert await broker.scalar("SELECT sum(n) FROM live_count") == 0


async def test_a_stop_is_durable_without_vault_and_the_kill_is_finished_when_it_is_back(
    broker: Desk, provisioned: Provisioned, outage: Outage
) -> None:
    grant, login = await broker.lend(broker.case())
    outage.begin()
    state = await broker.barrier.stop(ScopeState("tenant:acme", 0, True, "OPERATOR"))
    assert state.stopped
    done = await broker.barrier.progress(state, 1)
    assert (done.credential_count, done.revoked_count) == (1, 0)
    assert done.revoked_epoch < state.epoch
    outage.end()
    assert (await broker.barrier.progress(state, 20)).revoked_epoch == state.epoch
    assert await broker.state(grant) == "REVOKED"
    assert not await login_works(provisioned, login)


async def test_known_verification_keys_go_on_being_published_while_vault_is_away(broker: Desk, outage: Outage) -> None:
    arguments = (broker.engine, broker.vault, broker.environment, broker.outbox, system_clock, new_id)
    before = dict(await PublishedKeys(*arguments).all())
    assert set(before) == {"ctx-prod:1", "decision-prod:1", "log-prod:1"}
    outage.begin()
    # A replica that starts now has only the database.
    assert dict(await PublishedKeys(*arguments).all()) == before
    with pytest.raises(VaultUnavailable):
        await broker.vault.call("GET", "sys/mounts")
    outage.end()
    kinds = [entry["type"] for entry in await broker.recorded(every=True)]
    assert kinds.count("key.archived") == 3, "each key is archived once, however many replicas look"
