"""One change of one plan: a transaction that holds the plan's row, moves states by the tables, and leaves the events.

Trap: fencing a worker's write by `.. WHERE EXISTS (SELECT FROM plan WHERE lease_epoch = $mine)` lets an old intent
become durable after a takeover has read the step as READY (measured, 45 of 50). The plan's own row is updated first,
under the worker's epoch: whoever comes later waits, and whoever is fenced changes nothing.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.canonical import canonical
from counterseal.clock import Clock
from counterseal.errors import NotFound
from counterseal.ids import IdSource
from counterseal.rpc.outbox import Outbox
from counterseal_executor import database as db
from counterseal_executor import states
from counterseal_executor.events import Event, Header, build_entry
from counterseal_executor.plans.readers import PLAN_COLUMNS, STEP_COLUMNS, plan_row, step_row
from counterseal_executor.plans.rows import PlanRow, StepRow


class Fenced(Exception):
    """The lease went to another worker; this one must stop and touch nothing."""


@dataclass(frozen=True, slots=True)
class Maker:
    """What a unit needs from outside: clock, ids, salts, the environment that entries name, and the outbox."""

    environment: str
    clock: Clock
    new_id: IdSource
    randomness: Callable[[int], bytes]
    outbox: Outbox


class Unit:
    """The open change. `plan` and `steps` show what will be stored; `entries` what was, by event id, once flushed."""

    def __init__(self, conn: AsyncConnection, maker: Maker, plan: PlanRow, steps: Iterable[StepRow]) -> None:
        self.conn = conn
        self.plan = plan
        self.steps = {step.step_id: step for step in steps}
        self.event_ids: list[str] = []
        self.entries: dict[str, ledger_pb2.NewEntry] = {}
        self._maker = maker
        self._events: list[tuple[Event, str, str]] = []
        self._changed: set[str] = set()
        self._now = maker.clock()

    @property
    def now_ms(self) -> int:
        """The time of this change, one for all its events."""
        return self._now

    def record(self, event: Event) -> str:
        """Add an event after all earlier ones; returns its id."""
        event_id = event.event_id or self._maker.new_id()
        self._events.append((event, event_id, self.plan.state))
        self.event_ids.append(event_id)
        return event_id

    def set_plan(self, **changes: Any) -> None:
        """Change columns of the plan that no state table speaks of."""
        self.plan = replace(self.plan, **changes)

    def move_plan(self, event: str, *, reason_code: str = "", recorded: bool = False) -> None:
        """Move the plan by the table. Writes `plan.changed` or `plan.ended`, unless the caller records the change.

        Raises WrongState when the table does not permit the event.
        """
        before, after = self.plan.state, states.after_plan(self.plan.state, event)
        halted = after == "HALTED"
        self.plan = replace(self.plan, state=after, reason_code=reason_code, halt_reason=reason_code if halted else "")
        if after in states.PLAN_TERMINAL:
            self.plan = replace(self.plan, end_ms=self._now)
            self.record(Event("plan.ended", self._ending(reason_code)))
        elif not recorded:
            self.record(Event("plan.changed", _change(before, after, event, reason_code)))

    def move_step(
        self, step_id: str, event: str, *, reason_code: str = "", recorded: bool = False, **more: Any
    ) -> None:
        """Move a step by the table; `more` are further columns. Writes `step.changed` unless the caller records it."""
        step = self.steps[step_id]
        after = states.after_step(step.state, event)
        self.steps[step_id] = replace(step, state=after, reason_code=reason_code or step.reason_code, **more)
        self._changed.add(step_id)
        if not recorded:
            self.record(Event("step.changed", _change(step.state, after, event, reason_code), step=step_id))

    def set_step(self, step_id: str, **changes: Any) -> None:
        """Change columns of a step that no state table speaks of."""
        self.steps[step_id] = replace(self.steps[step_id], **changes)
        self._changed.add(step_id)

    async def flush(self) -> None:
        """Write everything; called by `change` before the commit."""
        plan = self.plan
        header = header_of(plan, self._maker.environment)
        seq = plan.seq
        for event, event_id, state in self._events:
            seq += 1
            self.entries[event_id] = build_entry(event, header, event_id, self._now, seq, self._maker.randomness)
            await _write_event(self.conn, plan, event, event_id, seq, state, self._now)
        await self._maker.outbox.put(self.conn, *self.entries.values())
        self.plan = replace(plan, seq=seq, open_steps=sum(s.state in states.OPEN_STEPS for s in self.steps.values()))
        for step_id in sorted(self._changed):
            await _write_step(self.conn, plan.plan_id, self.steps[step_id])
        await _write_plan(self.conn, self.plan)

    def _ending(self, reason_code: str) -> dict[str, Any]:
        kept = [s for s in self.steps.values() if s.state in (*states.STANDING, "KEPT") and s.effect != "E0"]
        document = {
            "state": self.plan.state,
            "step_count": len(self.steps),
            "applied_count": len(kept),
            "compensated_count": sum(s.state == "COMPENSATED" for s in self.steps.values()),
            "intent_count": sum(s.attempt_count for s in self.steps.values()),
            "cost_minor": 0,
        }
        return document | ({"reason_code": reason_code} if reason_code else {})


@asynccontextmanager
async def change(
    engine: AsyncEngine, maker: Maker, tenant: str, plan_id: str, *, epoch: int | None = None, barrier: bool = False
) -> AsyncIterator[Unit]:
    """Open a change of a plan; leaving the block commits it with its events.

    epoch: a worker's lease epoch; raises Fenced when the plan has another. barrier: hold the barrier shared from the
    first statement on. Raises NotFound when the tenant has no such plan.
    """
    async with db.transaction(engine, tenant) as conn:
        if barrier:
            await db.share_barrier(conn)
        unit = await lock(conn, maker, plan_id, epoch)
        yield unit
        await unit.flush()


async def lock(conn: AsyncConnection, maker: Maker, plan_id: str, epoch: int | None = None) -> Unit:
    """Lock the plan's row by updating it (under the epoch), then read it and its steps."""
    row = await db.one(
        conn,
        "UPDATE plan SET seq = seq WHERE plan_id = :plan_id"
        " AND (CAST(:epoch AS bigint) IS NULL OR lease_epoch = :epoch)"
        f" RETURNING {PLAN_COLUMNS}",
        plan_id=plan_id,
        epoch=epoch,
    )
    if row is None:
        if epoch is not None:
            raise Fenced
        raise NotFound
    found = await db.rows(
        conn, f"SELECT {STEP_COLUMNS} FROM step WHERE plan_id = :plan_id ORDER BY position", plan_id=plan_id
    )
    return Unit(conn, maker, plan_row(row), [step_row(item) for item in found])


def header_of(plan: PlanRow, environment: str) -> Header:
    """Return what all ledger entries of a plan have in common."""
    return Header(
        tenant=plan.tenant,
        environment=environment,
        request_id=plan.request_id,
        txn=plan.txn,
        subject=plan.subject,
        agent=plan.agent or "",
        agent_version=plan.agent_version or "",
        plan_id=plan.plan_id,
        plan_digest=plan.plan_digest,
    )


def _change(before: str, after: str, cause: str, reason_code: str) -> dict[str, Any]:
    document = {"from_state": before, "to_state": after, "cause": cause}
    return document | ({"reason_code": reason_code} if reason_code else {})


async def _write_event(
    conn: AsyncConnection, plan: PlanRow, event: Event, event_id: str, seq: int, state: str, now_ms: int
) -> None:
    await db.run(
        conn,
        "INSERT INTO event (plan_id, seq, tenant, event_id, type, step_id, event_time_ms, data, state)"
        " VALUES (:plan_id, :seq, :tenant, :event_id, :type, :step_id, :time, :data, :state)",
        plan_id=plan.plan_id,
        seq=seq,
        tenant=plan.tenant,
        event_id=event_id,
        type=event.type,
        step_id=event.step,
        time=now_ms,
        data=canonical(event.data),
        state=state,
    )


async def _write_plan(conn: AsyncConnection, plan: PlanRow) -> None:
    await db.run(
        conn,
        "UPDATE plan SET state = :state, reason_code = :reason_code, halt_reason = :halt_reason, decision = :decision,"
        " disclosed = :disclosed, seq = :seq, open_steps = :open_steps, committed_ack = :committed_ack,"
        " cancel_requested = :cancel_requested, commit_time = :commit_time, deadline_time = :deadline_time,"
        " end_time = :end_time, tries = :tries, next_try_time = :next_try_time WHERE plan_id = :plan_id",
        plan_id=plan.plan_id,
        state=plan.state,
        reason_code=plan.reason_code,
        halt_reason=plan.halt_reason,
        decision=None if plan.decision is None else db.stored(plan.decision),
        disclosed=plan.disclosed,
        seq=plan.seq,
        open_steps=plan.open_steps,
        committed_ack=plan.committed_ack,
        cancel_requested=plan.cancel_requested,
        commit_time=_time(plan.commit_ms),
        deadline_time=_time(plan.deadline_ms),
        end_time=_time(plan.end_ms),
        tries=plan.tries,
        next_try_time=_time(plan.next_try_ms),
    )


async def _write_step(conn: AsyncConnection, plan_id: str, step: StepRow) -> None:
    await db.run(
        conn,
        "UPDATE step SET state = :state, logical_attempt = :logical_attempt,"
        " undo_logical_attempt = :undo_logical_attempt, attempt_count = :attempt_count,"
        " current_attempt = :current_attempt, forward_attempt = :forward_attempt, reason_code = :reason_code,"
        " error_code = :error_code, output = :output, intent_event_id = :intent_event_id,"
        " outcome_event_id = :outcome_event_id WHERE plan_id = :plan_id AND step_id = :step_id",
        plan_id=plan_id,
        step_id=step.step_id,
        state=step.state,
        logical_attempt=step.logical_attempt,
        undo_logical_attempt=step.undo_logical_attempt,
        attempt_count=step.attempt_count,
        current_attempt=step.current_attempt,
        forward_attempt=step.forward_attempt,
        reason_code=step.reason_code,
        error_code=step.error_code,
        output=step.output,
        intent_event_id=step.intent_event_id,
        outcome_event_id=step.outcome_event_id,
    )


def _time(milliseconds: int | None) -> Any:
    return None if milliseconds is None else db.time_of(milliseconds)
