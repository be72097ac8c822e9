"""Killing grants and proving them dead: token gone, leases gone, and the target's sessions swept since.

`revoke-accessor` only queues the leases, and Vault's "revoked" alone let a reconnecting client commit after it; so
nothing is called dead here before a settled sweep that started after Vault had forgotten token and leases.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.clock import Clock, monotonic_ms
from counterseal.errors import CredentialsUnavailable
from counterseal.rpc.outbox import Outbox
from counterseal.vault import VaultRefused
from counterseal.vault.broker import Broker, Life
from counterseal.vault.names import Environment
from counterseal_credentials.database import EVERY_TENANT, transaction
from counterseal_credentials.grants import store
from counterseal_credentials.grants.engine import ENDED
from counterseal_credentials.grants.entries import Entries
from counterseal_credentials.grants.settle import NotSettled, Settler
from counterseal_credentials.grants.store import Grant

LOOK_SECONDS = 0.01
PATIENCE_SECONDS = 3.0
"""How long one try waits for Vault to forget a token and its leases; then the reconciler tries again."""

log = logging.getLogger("counterseal.credentials.grants")


class NotDead(RuntimeError):
    """Vault still knows the token or a lease; tried again every second."""


class Undertaker:
    """Turns REVOKING into REVOKED, and says so in the ledger."""

    def __init__(
        self,
        engine: AsyncEngine,
        broker: Broker,
        environment: Environment,
        entries: Entries,
        outbox: Outbox,
        clock: Clock,
    ) -> None:
        self._engine, self._broker, self._environment = engine, broker, environment
        self._entries, self._outbox, self._clock = entries, outbox, clock
        self._settlers: dict[str, Settler] = {}

    async def bury(self, grants: Sequence[Grant]) -> int:
        """Kill REVOKING grants together and return how many of them are verified dead. Never raises for one of them."""
        results = await asyncio.gather(*(self._bury_one(grant) for grant in grants), return_exceptions=True)
        for grant, result in zip(grants, results, strict=True):
            if isinstance(result, (CredentialsUnavailable, VaultRefused, NotDead, NotSettled)):
                # Said with its reason each time: a credential that does not die must not be a mystery.
                extra = {"grant_id": grant.grant_id, "error": type(result).__name__, "tries": grant.tries}
                log.warning("a credential is not verified dead yet", extra=extra)
            elif isinstance(result, BaseException):
                raise result
        return sum(result is True for result in results)

    def settler(self, tenant: str) -> Settler:
        """Return the settler of a tenant's target."""
        if tenant not in self._settlers:
            names = self._environment.tenant(tenant)
            self._settlers[tenant] = Settler(lambda: self._broker.sweep(names))
        return self._settlers[tenant]

    async def wait(self, tenant: str, ids: Sequence[str], seconds: float) -> Mapping[str, Grant]:
        """Return the named grants once all have ended, or as they are after `seconds`."""
        deadline = monotonic_ms() + int(seconds * 1000)
        while True:
            async with transaction(self._engine, tenant) as connection:
                found = {grant_id: await store.get(connection, grant_id) for grant_id in ids}
            grants = {grant_id: grant for grant_id, grant in found.items() if grant is not None}
            if all(grant.state in ENDED for grant in grants.values()) or monotonic_ms() >= deadline:
                return grants
            await asyncio.sleep(0.05)

    async def _bury_one(self, grant: Grant) -> bool:
        assert grant.vault_accessor is not None  # noqa: S101 (a constraint of the table)
        await self._broker.revoke_token(grant.vault_accessor)
        await self._until_gone(grant, grant.vault_accessor)
        await self.settler(grant.tenant).settle()
        async with transaction(self._engine, grant.tenant) as connection:
            if await store.verified(connection, grant):
                await self._outbox.put(connection, self._entries.revoked(grant, never_redeemed=False))
        self._outbox.wake()
        return True

    async def _until_gone(self, grant: Grant, accessor: str) -> None:
        deadline = monotonic_ms() + int(PATIENCE_SECONDS * 1000)
        while await self._broker.token_life(accessor) is not Life.GONE:
            await _pause(deadline)
        gone_at = datetime.fromtimestamp(self._clock() / 1000, UTC)
        while await self._leases_left(grant, gone_at):
            await _pause(deadline)

    async def _leases_left(self, grant: Grant, gone_at: datetime) -> bool:
        if grant.lease_id is not None:
            return await self._broker.lease_alive(grant.lease_id)
        # Nobody reported a lease: any lease of the role may be this grant's, unless another grant is known to hold it
        # or it is younger than the token's death.
        async with transaction(self._engine, grant.tenant) as connection:
            known = await store.known_leases(connection, grant.tenant)
        for lease in await self._broker.leases_of(grant.role(self._environment)):
            if lease in known:
                continue
            issued = await self._broker.lease_issue_time(lease)
            if issued is not None and issued <= gone_at:
                return True
        return False


async def _pause(deadline_ms: int) -> None:
    if monotonic_ms() >= deadline_ms:
        raise NotDead
    await asyncio.sleep(LOOK_SECONDS)


async def forever_dead(undertaker: Undertaker, engine: AsyncEngine, seconds: float) -> int:
    """Try every REVOKING grant whose turn it is; return how many were tried."""
    async with transaction(engine, EVERY_TENANT) as connection:
        dying = await store.claim_dying(connection, seconds)
    if dying:
        await undertaker.bury(dying)
    return len(dying)
