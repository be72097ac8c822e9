"""Taking over what `counterseal kill` told executor and credentials while this service was away.

A policy service that restarts, or slept through a kill, would stream its older state: a silent lift. So it adopts the
maximum of both barriers first, and allows nothing until both have answered; afterwards it goes on asking, as a kill
may reach them directly at any time.
"""

import asyncio
import logging
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.api.common.v1 import containment_pb2
from counterseal.errors import ContainmentStale, InputInvalid, ServiceError
from counterseal_policy.containment import store
from counterseal_policy.containment.board import Board
from counterseal_policy.containment.engine import SYSTEM, State, newer, owner
from counterseal_policy.containment.peers import Peers
from counterseal_policy.database import EVERY_TENANT, lock_barrier, transaction

START_SECONDS = 0.5
REPEAT_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Adoption:
    """Adopts the barriers of `required` services; `check` refuses to allow anything before all have answered once."""

    def __init__(
        self, engine: AsyncEngine, board: Board, peers: Peers, required: Sequence[str], environment: str
    ) -> None:
        self._engine = engine
        self._board = board
        self._peers = peers
        self._missing = set(required)
        self._required = tuple(required)
        self._environment = environment

    def check(self) -> None:
        """Raise ContainmentStale until every required service has told its barrier."""
        if self._missing:
            raise ContainmentStale("the barriers of executor and credentials are not known yet", retry_after_ms=1000)

    async def run(self, stopping: asyncio.Event) -> None:
        """Adopt until the drain; run it as one background task."""
        while not stopping.is_set():
            for peer in self._required:
                await self._once(peer)
            try:
                async with asyncio.timeout(START_SECONDS if self._missing else REPEAT_SECONDS):
                    await stopping.wait()
            except TimeoutError:
                continue

    async def _once(self, peer: str) -> None:
        try:
            told = await self._peers.barrier(peer)
            await self.take(told)
        except (ServiceError, sa.exc.SQLAlchemyError) as error:
            _log.info("the barrier of %s is not known: %s", peer, getattr(error, "reason", type(error).__name__))
            return
        self._missing.discard(peer)

    async def take(self, told: Sequence[containment_pb2.ContainmentState]) -> None:
        """Adopt what is newer than ours."""
        known = self._board.states
        candidates = [
            item
            for item in told
            if newer(
                (item.epoch, item.stopped),
                (known[item.scope].epoch, known[item.scope].stopped) if item.scope in known else None,
            )
        ]
        if not candidates:
            return
        async with transaction(self._engine, EVERY_TENANT) as connection:
            await lock_barrier(connection, exclusive=True)
            states = [await self._state(connection, item) for item in candidates]
            adopted = await store.adopt(connection, states)
        self._board.take(adopted)
        for state in adopted:
            _log.warning("adopted containment", extra={"scope": state.scope, "epoch": state.epoch})

    async def _state(self, connection: AsyncConnection, item: containment_pb2.ContainmentState) -> State:
        tenant = await plan_tenant(connection, item.scope)
        try:
            owned = owner(item.scope, self._environment, tenant or SYSTEM)
        except InputInvalid:
            owned = SYSTEM
        return State(item.scope, owned, item.epoch, item.stopped, item.reason_code, 0)


async def plan_tenant(connection: AsyncConnection, scope: str, mine: str | None = None) -> str | None:
    """Return the tenant of the plan that a `plan:` scope names, None for other scopes and unknown plans.

    mine: look for a plan of this tenant only. A decision that refused another tenant's bytes does not make them mine.
    """
    if not scope.startswith("plan:"):
        return None
    found: str | None = await connection.scalar(
        sa.text(
            "SELECT tenant FROM decision WHERE plan_digest = :d AND (CAST(:t AS text) IS NULL OR tenant = :t)"
            " AND NOT 'TENANT_MISMATCH' = ANY(reason_codes) ORDER BY create_time LIMIT 1"
        ),
        {"d": scope.removeprefix("plan:"), "t": mine},
    )
    return found
