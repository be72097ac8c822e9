"""Stopping a scope here and revoking every credential in it, until n of n are verified dead.

The barrier is committed first: from then on no grant of the scope can be issued or redeemed. Environment and tenant
are killed by name prefix at Vault, which needs neither our database nor a list; everything else by accessor.
"""

import asyncio
import logging
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.clock import Clock, monotonic_ms
from counterseal.errors import CredentialsUnavailable
from counterseal.rpc.outbox import Outbox
from counterseal.vault import VaultRefused
from counterseal.vault.broker import Broker
from counterseal.vault.names import Environment, Tenant
from counterseal_credentials.containment import store
from counterseal_credentials.containment.engine import ScopeState, adopts, check_scope, next_stop
from counterseal_credentials.database import EVERY_TENANT, transaction
from counterseal_credentials.grants import store as grants
from counterseal_credentials.grants.death import Undertaker
from counterseal_credentials.grants.engine import State
from counterseal_credentials.grants.entries import Entries
from counterseal_credentials.grants.lending import Lender, cancelled
from counterseal_credentials.grants.settle import NotSettled

POLL_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0

log = logging.getLogger("counterseal.credentials.containment")


class Barrier:
    """This service's own memory of containment, how fresh policy's stream is, and the kill."""

    def __init__(
        self,
        engine: AsyncEngine,
        environment: Environment,
        tenants: tuple[str, ...],
        *,
        broker: Broker,
        lender: Lender,
        undertaker: Undertaker,
        entries: Entries,
        outbox: Outbox,
        clock: Clock,
    ) -> None:
        self._engine, self._environment, self._tenants = engine, environment, tenants
        self._broker, self._lender, self._undertaker = broker, lender, undertaker
        self._entries, self._outbox, self._clock = entries, outbox, clock
        self._killing: set[asyncio.Task[None]] = set()

    async def everything(self) -> list[ScopeState]:
        """Return every scope that this service was told about."""
        async with self._engine.connect() as connection:
            return await store.everything(connection)

    async def stop(self, told: ScopeState) -> ScopeState:
        """Stop a scope by direct order; when this returns nothing in it can be issued or redeemed any more."""
        check_scope(told.scope)
        async with transaction(self._engine, EVERY_TENANT) as connection:
            await store.lock_exclusive(connection)
            known = (await store.states(connection, [told.scope])).get(told.scope)
            state = await store.put(connection, next_stop(known, told), self._clock())
            await self._condemn(connection, state)
        self._start(state)
        return state

    async def adopt(self, told: ScopeState) -> None:
        """Adopt what policy streams; a lift travels this way only."""
        check_scope(told.scope)
        async with transaction(self._engine, EVERY_TENANT) as connection:
            if not adopts((await store.states(connection, [told.scope])).get(told.scope), told):
                return
            await store.lock_exclusive(connection)
            state = await store.put(connection, told, self._clock())
            if state.stopped:
                await self._condemn(connection, state)
        if state.stopped:
            self._start(state)

    async def progress(self, state: ScopeState, seconds: float) -> store.Revocation:
        """Return how far the revocation of a stopped scope is, once it is done or after `seconds`."""
        deadline = monotonic_ms() + int(seconds * 1000)
        while True:
            async with transaction(self._engine, EVERY_TENANT) as connection:
                found = await store.revocation(connection, state.scope)
                left = await grants.live_in_scope(connection, state.scope)
            if found.revoked_epoch >= state.epoch or monotonic_ms() >= deadline:
                return replace(found, revoked_count=max(0, found.credential_count - left))
            await asyncio.sleep(POLL_SECONDS / 2)

    async def close(self) -> None:
        """Give up the kills under way: the stop is durable, and the reconciler of whoever runs next goes on."""
        await cancelled(self._killing)

    async def report_done(self) -> None:
        """Record `containment.revoked` for every stopped scope in which nothing is alive and no record is yet.

        Raises CredentialsUnavailable, VaultRefused: then nothing is known, so nothing is said.
        """
        async with transaction(self._engine, EVERY_TENANT) as connection:
            waiting = [
                state
                for state in await store.unreported(connection)
                if not await grants.live_in_scope(connection, state.scope)
            ]
        for state in waiting:
            if not await self._nothing_lent(state.scope):
                continue
            async with transaction(self._engine, EVERY_TENANT) as connection:
                if await grants.live_in_scope(connection, state.scope):
                    continue
                count = await store.report(connection, state, self._clock())
                if count is not None:
                    await self._outbox.put(connection, self._entries.scope_revoked(state, count))
        self._outbox.wake()

    async def _nothing_lent(self, scope: str) -> bool:
        """Tell whether Vault holds no login of an environment or tenant, and its targets were swept after that.

        Our rows are not enough here: a login may live that no grant knows (a lost database, an operator's drill), and
        the ledger must not say that all is dead while it works. Narrower scopes know their logins by their grants only.
        """
        for tenant in self._tenants_in(scope):
            if await self._broker.leases_below(tenant):
                return False
            try:
                await self._undertaker.settler(tenant.name).settle()
            except NotSettled:
                return False
            except VaultRefused as refused:
                if refused.status != 404:  # no mount: no target. 403 is a lost right, and proves nothing
                    raise
        return True

    async def _condemn(self, connection: AsyncConnection, state: ScopeState) -> None:
        """Under the exclusive lock: every live grant of the scope towards its end, and how many there are to kill."""
        dying = 0
        for grant in await grants.in_scope(connection, state.scope):
            dying += await self._lender.end(connection, grant, "CONTAINED")
        await store.condemned(connection, state, dying)

    def _start(self, state: ScopeState) -> None:
        self._outbox.wake()
        task = asyncio.create_task(self._kill(state), name="kill")
        self._killing.add(task)
        task.add_done_callback(self._killing.discard)

    async def _kill(self, state: ScopeState) -> None:
        """Go on until n of n are dead or the scope moves on; the reconciler takes over after a crash."""
        pause = POLL_SECONDS
        while True:
            try:
                await self._by_prefix(state.scope)
                async with transaction(self._engine, EVERY_TENANT) as connection:
                    known = (await store.states(connection, [state.scope]))[state.scope]
                    live = await grants.in_scope(connection, state.scope)
                if known.epoch != state.epoch:
                    return
                await self._undertaker.bury([grant for grant in live if grant.state is State.REVOKING])
                await self.report_done()
                async with transaction(self._engine, EVERY_TENANT) as connection:
                    if (await store.revocation(connection, state.scope)).revoked_epoch >= state.epoch:
                        return
            except (CredentialsUnavailable, VaultRefused):
                log.warning("the scope's credentials could not be revoked; trying again", extra={"scope": state.scope})
            await asyncio.sleep(pause)
            pause = min(MAX_PAUSE_SECONDS, pause * 1.5)

    async def _by_prefix(self, scope: str) -> None:
        for tenant in self._tenants_in(scope):
            await self._broker.revoke_prefix(tenant.token_creation_path)  # wrappers that nobody redeemed die too
            await self._broker.revoke_prefix(f"{tenant.database_mount}/creds")

    def _tenants_in(self, scope: str) -> list[Tenant]:
        """Return the tenants that a scope covers wholly: all of an environment's, a tenant scope's one, else none."""
        kind, _, name = scope.partition(":")
        if kind == "environment":
            return [self._environment.tenant(item) for item in self._tenants]
        return [self._environment.tenant(name)] if kind == "tenant" and name in self._tenants else []
