"""What runs on every replica so that a crash anywhere leaves nothing behind: overdue grants, the dying, stray leases,
sessions of expired logins, and scopes whose revocation nobody reported.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.clock import Clock, monotonic_ms
from counterseal.errors import CredentialsUnavailable
from counterseal.vault import VaultRefused
from counterseal.vault.broker import Broker
from counterseal.vault.names import Environment
from counterseal_credentials.containment.kill import Barrier
from counterseal_credentials.database import EVERY_TENANT, transaction
from counterseal_credentials.grants import store
from counterseal_credentials.grants.death import Undertaker, forever_dead
from counterseal_credentials.grants.lending import Lender

DYING_SECONDS = 1.0
PASS_SECONDS = 5.0
BINDING_SECONDS = 30.0
STRAY_SECONDS = 60.0
JANITOR_SECONDS = 600.0

log = logging.getLogger("counterseal.credentials.reconciler")


class Reconciler:
    """Two loops: the dying every second, everything else every five."""

    def __init__(
        self,
        engine: AsyncEngine,
        environment: Environment,
        tenants: tuple[str, ...],
        *,
        broker: Broker,
        lender: Lender,
        undertaker: Undertaker,
        barrier: Barrier,
        clock: Clock,
    ) -> None:
        self._engine, self._environment, self._tenants = engine, environment, tenants
        self._broker, self._lender, self._undertaker, self._barrier = broker, lender, undertaker, barrier
        self._clock = clock
        self._swept_at = -int(JANITOR_SECONDS * 1000)

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set. Vault or database away: said once per pass, and tried again."""
        dying = asyncio.create_task(self._loop(stopping, DYING_SECONDS, self.dying_once), name="reconcile-dying")
        try:
            await self._loop(stopping, PASS_SECONDS, self.pass_once)
        finally:
            dying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await dying

    async def dying_once(self) -> None:
        """Try every REVOKING grant whose turn it is."""
        await forever_dead(self._undertaker, self._engine, DYING_SECONDS)

    async def pass_once(self) -> None:
        """One pass over everything else."""
        await self.end_overdue()
        await self._barrier.report_done()
        for name in self._tenants:
            await self._tenant(name)
        if monotonic_ms() - self._swept_at > JANITOR_SECONDS * 1000:
            self._swept_at = monotonic_ms()
            count = await self._broker.irrevocable_count()
            if count:
                log.critical("Vault has given up on leases", extra={"count": count})

    async def end_overdue(self) -> None:
        """Grants past their life, and those whose process died between making and storing a token."""
        async with transaction(self._engine, EVERY_TENANT) as connection:
            for grant in await store.overdue(connection, BINDING_SECONDS):
                await self._lender.end(connection, grant, "EXPIRED")

    async def _tenant(self, name: str) -> None:
        tenant = self._environment.tenant(name)
        try:
            # Sessions outlive `VALID UNTIL`; whoever is not ours to end is not touched.
            await self._broker.sweep(tenant)
            if monotonic_ms() - self._swept_at > JANITOR_SECONDS * 1000:
                await self._broker.sweep_janitor(tenant)
            await self._strays(name)
        except VaultRefused as refused:
            if refused.status != 404:  # a tenant without a target has no mount
                raise

    async def _strays(self, name: str) -> None:
        """Leases without a grant: older than a minute, while no live grant could still own an unreported one."""
        async with transaction(self._engine, name) as connection:
            if await store.unreported(connection, name):
                return
            known = await store.known_leases(connection, name)
        for lease in await self._broker.leases_below(self._environment.tenant(name)):
            if lease in known:
                continue
            issued = await self._broker.lease_issue_time(lease)
            if issued is not None and self._clock() - issued.timestamp() * 1000 > STRAY_SECONDS * 1000:
                log.warning("a lease without a grant is revoked", extra={"tenant": name})
                await self._broker.revoke_lease(lease)

    async def _loop(self, stopping: asyncio.Event, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while not stopping.is_set():
            try:
                await work()
            except (CredentialsUnavailable, VaultRefused, SQLAlchemyError, OSError) as error:
                log.warning("a pass was cut short", extra={"error": type(error).__name__})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), seconds)
