"""The live view of all scopes in this process: polled from the database, pushed to `Watch` streams.

Replicas coordinate through PostgreSQL alone: what another one tripped is here within half a second. While the database
cannot be read, `fresh` turns false and no heartbeat is sent, so every follower fails closed after its five seconds.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.clock import monotonic_ms
from counterseal.errors import PolicyUnavailable, TokenRevoked
from counterseal.identity import Caller
from counterseal_policy.containment import store
from counterseal_policy.containment.engine import State, newer
from counterseal_policy.database import EVERY_TENANT, transaction

POLL_SECONDS = 0.5
FRESH_MS = 2_000

_log = logging.getLogger(__name__)


class Board:
    """Every scope that was ever tripped, as last read. Changes wake whoever waits."""

    def __init__(self, engine: AsyncEngine, monotonic: Callable[[], int] = monotonic_ms) -> None:
        self._engine = engine
        self._monotonic = monotonic
        self._states: dict[str, State] = {}
        self._changed = asyncio.Event()
        self._read_at: int | None = None
        self.version = 0

    @property
    def states(self) -> dict[str, State]:
        """The scopes by name; not to be changed."""
        return self._states

    @property
    def fresh(self) -> bool:
        """Whether the view was read within the last two seconds."""
        return self._read_at is not None and self._monotonic() - self._read_at < FRESH_MS

    async def refresh(self) -> None:
        """Read the table now."""
        at = self._monotonic()
        async with transaction(self._engine, EVERY_TENANT) as connection:
            states = await store.read_all(connection)
        self.take(states)
        self._read_at = at

    def take(self, states: Iterable[State]) -> None:
        """Show states that were just written or read; an older one never replaces a newer one."""
        changed = False
        for state in states:
            known = self._states.get(state.scope)
            if newer((state.epoch, state.stopped), (known.epoch, known.stopped) if known else None):
                self._states[state.scope] = state
                changed = True
        if changed:
            self.version += 1
            self._changed.set()
            self._changed = asyncio.Event()

    async def wait(self, version: int, seconds: float) -> None:
        """Return when the view is newer than `version` (also at once), or after some seconds."""
        if self.version != version:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def poll(self, stopping: asyncio.Event) -> None:
        """Keep the view fresh until the drain; run it as one background task."""
        while not stopping.is_set():
            try:
                await self.refresh()
            except (PolicyUnavailable, sa.exc.SQLAlchemyError) as error:
                _log.warning("containment cannot be read: %s", type(error).__name__)
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await stopping.wait()
            except TimeoutError:
                continue

    async def check_caller(self, caller: Caller) -> None:
        """Refuse an agent's token when a scope of it is stopped or newer than the token.

        People's tokens live on: they must be able to look and to lift. Raises TokenRevoked.
        """
        if not caller.chain:
            return
        scopes = {f"environment:{caller.environment}", f"tenant:{caller.tenant}"}
        scopes |= {f"agent:{caller.tenant}/{actor['sub']}" for actor in caller.chain if "sub" in actor}
        for scope in scopes:
            state = self._states.get(scope)
            if state is not None and (state.stopped or state.epoch > caller.epochs.get(scope, 0)):
                raise TokenRevoked("the token is older than a stop that covers its agent", scope=scope)
