"""Stopping a scope here, and what follows: plans halted, open intents drained, both moments in the ledger."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.clock import monotonic_ms
from counterseal.errors import ServiceError, TokenRevoked
from counterseal.identity import Caller
from counterseal_executor import database as db
from counterseal_executor.containment import engine, store
from counterseal_executor.containment.engine import SYSTEM_TENANT, ScopeState
from counterseal_executor.events import Event, Header, build_entry
from counterseal_executor.plans.unit import Maker, change
from counterseal_executor.restore.check import RestoreCheck
from counterseal_executor.states import PLAN

POLL_SECONDS = 0.05

log = logging.getLogger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None]], None]


class Barrier:
    """This service's own memory of containment, and how fresh the stream from policy is."""

    def __init__(
        self, engine_: AsyncEngine, maker: Maker, spawn: Spawn, stale_seconds: float, restore: RestoreCheck
    ) -> None:
        self._engine = engine_
        self._maker = maker
        self._spawn = spawn
        self._restore = restore
        self._stale_ms = int(stale_seconds * 1000)
        self._heard_ms: int | None = None
        self._quiesced: dict[tuple[str, int], int] = {}
        self._states: dict[str, ScopeState] = {}

    async def heard(self) -> None:
        """Note that policy's stream spoke, and look at what other replicas were told meanwhile."""
        self._heard_ms = monotonic_ms()
        await self.refresh()

    async def refresh(self) -> None:
        """Read the barrier for `check_caller`; gates and fences never rely on this copy."""
        self._states = {state.scope: state for state in await self.everything()}

    async def check_caller(self, caller: Caller) -> None:
        """Refuse an agent's token when a scope of it is stopped or newer than the token: it stays dead after a lift.

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

    @property
    def fresh(self) -> bool:
        """Whether the stream is younger than the limit; if not, nothing above read-only may start."""
        return self._heard_ms is not None and monotonic_ms() - self._heard_ms < self._stale_ms

    async def everything(self) -> list[ScopeState]:
        """Return every scope that this service was told about."""
        async with db.transaction(self._engine, db.EVERY_TENANT) as conn:
            return await store.everything(conn)

    async def stop(self, scope: str, epoch: int, reason_code: str) -> ScopeState:
        """Stop a scope: when this returns, no intent in it can become durable any more."""
        engine.check_scope(scope)
        async with db.transaction(self._engine, db.EVERY_TENANT) as conn:
            await db.hold_barrier(conn)
            told = engine.next_stop(await store.get(conn, scope), scope, epoch, reason_code)
            state, changed = await store.put(conn, told, self._maker.clock())
            if changed:
                await self._record(conn, "containment.stopped", state, {"reason_code": reason_code})
        self._states[state.scope] = state
        if changed:
            self._maker.outbox.wake()
            self._spawn(self._follow_up(state))
        return state

    async def adopt(self, told: ScopeState) -> None:
        """Adopt what policy streams; a lift travels this way only."""
        async with db.transaction(self._engine, db.EVERY_TENANT) as conn:
            if not engine.adopt(await store.get(conn, told.scope), told):
                return
            await db.hold_barrier(conn)
            state, changed = await store.put(conn, told, self._maker.clock())
            if changed and state.stopped:
                await self._record(conn, "containment.stopped", state, {"reason_code": state.reason_code})
        self._states[state.scope] = state
        if changed and state.stopped:
            self._maker.outbox.wake()
            self._spawn(self._follow_up(state))

    async def open_count(self, scope: str) -> int:
        """Return how many intents of a scope are open."""
        async with db.transaction(self._engine, db.EVERY_TENANT) as conn:
            return (await store.open_intents(conn, scope))[0]

    async def wait_quiesced(self, state: ScopeState, seconds: float) -> int | None:
        """Wait until no intent of the stopped scope is open; returns when that was, or None after `seconds`."""
        deadline = monotonic_ms() + int(seconds * 1000)
        while True:
            found = self._quiesced.get((state.scope, state.epoch))
            if found is not None:
                return found
            if self._restore.current and await self.open_count(state.scope) == 0:
                return self._maker.clock()
            if monotonic_ms() >= deadline:
                return None
            await asyncio.sleep(POLL_SECONDS)

    async def _follow_up(self, state: ScopeState) -> None:
        """Halt the scope's plans, then wait for its open intents and say so in the ledger.

        A database that may be older than the ledger has other plans than the ledger: it halts none and says nothing.
        """
        if not await self._restore.settled():
            return
        async with db.transaction(self._engine, db.EVERY_TENANT) as conn:
            plans = await store.live_plans(conn, state.scope)
        for tenant, plan_id in plans:
            try:
                async with change(self._engine, self._maker, tenant, plan_id) as unit:
                    if "trip" in PLAN.get(unit.plan.state, {}):
                        unit.move_plan("trip", reason_code="CONTAINED")
            except ServiceError as error:
                log.warning("a plan could not be halted", extra={"plan_id": plan_id, "reason": error.reason})
        while True:
            async with db.transaction(self._engine, db.EVERY_TENANT) as conn:
                count, doubts = await store.open_intents(conn, state.scope)
                known = await store.get(conn, state.scope)
                if known is None or known.epoch != state.epoch:
                    return  # lifted, or stopped again: the later one reports
                if count == 0:
                    await self._record(conn, "containment.quiesced", state, {"unknown_count": doubts})
                    self._quiesced[state.scope, state.epoch] = self._maker.clock()
                    break
            await asyncio.sleep(POLL_SECONDS * 4)
        self._maker.outbox.wake()

    async def _record(self, conn: Any, kind: str, state: ScopeState, more: dict[str, Any]) -> None:
        tenant = engine.tenant_of(state.scope)
        if tenant is None:
            tenant = await store.tenant_of_plan(conn, state.scope.removeprefix("plan:")) or SYSTEM_TENANT
        event = Event(kind, {"scope": state.scope, "epoch": state.epoch, "drill": False, **more})
        header = Header(tenant, self._maker.environment)
        now = self._maker.clock()
        entry = build_entry(event, header, self._maker.new_id(), now, 0, self._maker.randomness)
        await self._maker.outbox.put(conn, entry)
