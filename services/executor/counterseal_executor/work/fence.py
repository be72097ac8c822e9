"""The executor's last word before an effect becomes durable."""

from collections.abc import Mapping
from typing import Any

from counterseal.errors import Contained, NotCanonical
from counterseal_executor import database as db
from counterseal_executor.connectors.base import Fenced as EffectFenced
from counterseal_executor.containment import store as containment
from counterseal_executor.decisions import Decision
from counterseal_executor.work.job import Job


class AttemptFence:
    """Stores an attempt's marker under lease, epoch and barrier; a connector calls it right before its commit."""

    def __init__(self, job: Job, attempt_id: str, decision: Decision) -> None:
        self._job = job
        self._attempt_id = attempt_id
        self._decision = decision

    async def before_commit(self, marker: Mapping[str, Any]) -> None:
        """Make the marker durable; raises (the connector's) Fenced when this worker may not go on."""
        lease = self._job.lease
        if not self._job.means.restore.current:
            raise EffectFenced("STATE_BEHIND_LEDGER", "the executor's database may be older than the ledger")
        if not lease.valid:
            raise EffectFenced("LEASE_LOST", "the worker's lease ended before the effect")
        try:
            stored = db.stored(marker)
        except NotCanonical as error:
            raise EffectFenced("TOO_LARGE_TO_UNDO", f"what the write found cannot be kept: {error.message}") from None
        try:
            async with db.transaction(self._job.means.engine, lease.tenant) as conn:
                await db.share_barrier(conn)
                await containment.refuse_contained(conn, self._decision.statement.epochs)
                mine = await db.run(
                    conn,
                    "UPDATE plan SET seq = seq WHERE plan_id = :plan_id AND lease_epoch = :epoch",
                    plan_id=lease.plan_id,
                    epoch=lease.epoch,
                )
                if not mine:
                    lease.lose()
                    raise EffectFenced("LEASE_LOST", "another worker owns the plan")
                await db.run(
                    conn,
                    "UPDATE attempt SET marker = :marker WHERE attempt_id = :id",
                    marker=stored,
                    id=self._attempt_id,
                )
        except Contained as error:
            raise EffectFenced("CONTAINED", error.message) from None
        if not lease.valid:
            raise EffectFenced("LEASE_LOST", "the worker's lease ended before the effect")
