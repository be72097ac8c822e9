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
from counterseal.vault.names import Environment
from counterseal_credentials.containment import store
from counterseal_credentials.containment.engine import ScopeState, adopts, check_scope, next_stop
from counterseal_credentials.database import EVERY_TENANT, transaction
from counterseal_credentials.grants import store as grants
from counterseal_credentials.grants.death import Undertaker
from counterseal_credentials.grants.engine import State
from counterseal_credentials.grants.entries import Entries
from counterseal_credentials.grants.lending import Lender

POLL_SECONDS = 0.1

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

    async def report_done(self) -> None:
        """Record `containment.revoked` for every stopped scope without a live grant that has no record yet."""
        async with transaction(self._engine, EVERY_TENANT) as connection:
            for state in await store.unreported(connection):
                if await grants.live_in_scope(connection, state.scope):
                    continue
                count = await store.report(connection, state, self._clock())
                if count is not None:
                    await self._outbox.put(connection, self._entries.scope_revoked(state, count))
        self._outbox.wake()

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
                    if not await grants.live_in_scope(connection, state.scope):
                        return
            except (CredentialsUnavailable, VaultRefused):
                log.warning("the scope's credentials could not be revoked; trying again", extra={"scope": state.scope})
            await asyncio.sleep(POLL_SECONDS)

    async def _by_prefix(self, scope: str) -> None:
        kind, _, name = scope.partition(":")
        if kind not in ("environment", "tenant"):
            return
        chosen = self._tenants if kind == "environment" else tuple(t for t in self._tenants if t == name)
        for tenant in (self._environment.tenant(item) for item in chosen):
            await self._broker.revoke_prefix(tenant.token_creation_path)  # wrappers that nobody redeemed die too
            await self._broker.revoke_prefix(f"{tenant.database_mount}/creds")
