"""Owning a plan: a lease in the database, an epoch that rises with every owner, and our own monotonic clock.

The database's clock decides when another may take over; ours decides when we stop, and it stops earlier: it starts
counting before the statement that renews the lease was sent.
"""

import asyncio
import logging
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.clock import monotonic_ms
from counterseal_executor import database as db
from counterseal_executor.states import SELF_RESUMING

SAFETY = 0.8
"""Share of the lease after which a worker that could not renew it believes it lost."""

log = logging.getLogger(__name__)

_CLAIM = f"""
UPDATE plan SET lease_epoch = lease_epoch + 1, owner = :me,
 lease_until = clock_timestamp() + make_interval(secs => CAST(:lease AS float8))
WHERE plan_id = (
 SELECT plan_id FROM plan WHERE (lease_until IS NULL OR lease_until < clock_timestamp()
   OR owner IS NULL AND plan_id = CAST(:want AS uuid))
  AND (CAST(:want AS uuid) IS NULL OR plan_id = CAST(:want AS uuid))
  AND (open_steps > 0 OR committed_ack AND (state IN ('COMMITTED', 'RUNNING', 'COMPENSATING') OR state = 'HALTED' AND (
   halt_reason IN ({", ".join(f"'{reason}'" for reason in sorted(SELF_RESUMING))})
    AND next_try_time < clock_timestamp()
   OR halt_reason = 'IN_DOUBT' AND open_steps = 0 OR cancel_requested AND halt_reason <> 'CONTAINED')))
 ORDER BY lease_until NULLS FIRST LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING plan_id::text, tenant, lease_epoch
"""


@dataclass(slots=True)
class Lease:
    """One plan that this worker owns until `until_ms` of its monotonic clock, under `epoch`."""

    plan_id: str
    tenant: str
    epoch: int
    until_ms: int

    @property
    def valid(self) -> bool:
        """Whether the lease is certainly still ours."""
        return monotonic_ms() < self.until_ms

    def lose(self) -> None:
        """Stop believing in the lease at once."""
        self.until_ms = 0


class Leases:
    """Claims, renews and releases leases for one process."""

    def __init__(self, engine: AsyncEngine, owner: str, seconds: float) -> None:
        self._engine = engine
        self._owner = owner
        self._seconds = seconds

    async def claim(self, plan_id: str | None = None) -> Lease | None:
        """Claim a plan that has work and no owner, or None.

        plan_id: only this one, and at once: somebody changed it, so the pause of its release no longer counts.
        """
        started = monotonic_ms()
        async with db.transaction(self._engine, db.EVERY_TENANT) as conn:
            row = await db.one(conn, _CLAIM, me=self._owner, lease=self._seconds, want=plan_id)
        if row is None:
            return None
        return Lease(row[0], row[1], row[2], started + self._believed_ms())

    async def keep(self, lease: Lease, done: asyncio.Event) -> None:
        """Renew at a third of the lease until `done`; returns once another worker has it.

        Told by an event, not cancelled: a statement that is cancelled half-way may leave its row locked for a while.
        """
        while not done.is_set():
            try:
                async with asyncio.timeout(self._seconds / 3):
                    await done.wait()
                    return
            except TimeoutError:
                pass
            started = monotonic_ms()
            try:
                async with db.transaction(self._engine, db.EVERY_TENANT) as conn:
                    kept = await db.run(
                        conn,
                        "UPDATE plan SET"
                        " lease_until = clock_timestamp() + make_interval(secs => CAST(:lease AS float8))"
                        " WHERE plan_id = :plan_id AND lease_epoch = :epoch",
                        lease=self._seconds,
                        plan_id=lease.plan_id,
                        epoch=lease.epoch,
                    )
            except (sa.exc.SQLAlchemyError, OSError):
                log.warning("a lease could not be renewed", extra={"plan_id": lease.plan_id})
                continue
            if not kept:
                lease.lose()
                return
            lease.until_ms = started + self._believed_ms()

    async def release(self, lease: Lease, pause_seconds: float) -> None:
        """Give the plan up; nobody claims it before the pause is over."""
        async with db.transaction(self._engine, db.EVERY_TENANT) as conn:
            await db.run(
                conn,
                "UPDATE plan SET owner = NULL, lease_until = clock_timestamp()"
                " + make_interval(secs => CAST(:pause AS float8)) WHERE plan_id = :plan_id AND lease_epoch = :epoch",
                pause=pause_seconds,
                plan_id=lease.plan_id,
                epoch=lease.epoch,
            )
        lease.lose()

    def _believed_ms(self) -> int:
        return int(self._seconds * SAFETY * 1000)
