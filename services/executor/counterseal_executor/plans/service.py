"""PlanService: plans over the wire. No rule lives here."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.api.executor.v1 import plan_pb2, plan_pb2_grpc
from counterseal.errors import InputInvalid, NotFound, WrongState
from counterseal.identity import Caller, current_caller
from counterseal.rpc import paging
from counterseal_executor import database as db
from counterseal_executor import states
from counterseal_executor.plans import convert, store
from counterseal_executor.plans.commit import Gate
from counterseal_executor.plans.propose import Proposer
from counterseal_executor.plans.rows import PlanRow
from counterseal_executor.plans.signals import Signals
from counterseal_executor.plans.unit import Maker, change
from counterseal_executor.restore.check import RestoreCheck

HEARTBEAT_SECONDS = 10.0
POLL_SECONDS = 1.0
WATCH_BATCH = 100
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|sha256:[0-9a-f]{64}")


class PlanService(plan_pb2_grpc.PlanServiceServicer):
    """Proposes, commits, shows, streams and cancels plans."""

    def __init__(
        self,
        engine: AsyncEngine,
        maker: Maker,
        proposer: Proposer,
        gate: Gate,
        signals: Signals,
        restore: RestoreCheck,
        start: Callable[[PlanRow], None],
        stopping: asyncio.Event,
    ) -> None:
        self._engine = engine
        self._maker = maker
        self._proposer = proposer
        self._gate = gate
        self._signals = signals
        self._restore = restore
        self._start = start
        self._stopping = stopping

    async def ProposePlan(  # noqa: N802 (the contract's name)
        self,
        request: plan_pb2.ProposePlanRequest,
        context: Any,  # noqa: ARG002
    ) -> plan_pb2.ProposePlanResponse:
        """Make a plan of a proposal."""
        caller = await self._changing()
        row = await self._proposer.propose(request, caller)
        return plan_pb2.ProposePlanResponse(
            plan_id=row.plan_id,
            plan_digest=row.plan_digest,
            canonical_plan=row.body if row.disclosed else b"",
            plan=await self._message(row),
        )

    async def VerifyPlan(  # noqa: N802 (the contract's name)
        self,
        request: plan_pb2.VerifyPlanRequest,
        context: Any,  # noqa: ARG002
    ) -> plan_pb2.VerifyPlanResponse:
        """Ask policy again about stored bytes."""
        caller = await self._changing()
        row = await self._own(request.plan_id, caller)
        if row.state != states.PLAN_START:
            raise WrongState(f"the plan is {row.state}", state=row.state)
        return plan_pb2.VerifyPlanResponse(plan=await self._message(await self._proposer.judge(row, caller)))

    async def CommitPlan(  # noqa: N802 (the contract's name)
        self,
        request: plan_pb2.CommitPlanRequest,
        context: Any,  # noqa: ARG002
    ) -> plan_pb2.CommitPlanResponse:
        """Pass the gate."""
        caller = await self._changing()
        _check_id(request.plan_id)
        row, committed = await self._gate.commit(request, caller)
        self._signals.changed(row.plan_id)
        if committed:
            self._start(row)
        return plan_pb2.CommitPlanResponse(plan=await self._message(row))

    async def GetPlan(  # noqa: N802 (the contract's name)
        self,
        request: plan_pb2.GetPlanRequest,
        context: Any,  # noqa: ARG002
    ) -> plan_pb2.GetPlanResponse:
        """Show one plan."""
        row = await self._own(request.plan_id, current_caller())
        return plan_pb2.GetPlanResponse(
            plan=await self._message(row), canonical_plan=row.body if row.disclosed else b""
        )

    async def ListPlans(  # noqa: N802 (the contract's name)
        self,
        request: plan_pb2.ListPlansRequest,
        context: Any,  # noqa: ARG002
    ) -> plan_pb2.ListPlansResponse:
        """Show the tenant's plans, newest first."""
        caller = current_caller()
        if request.state and request.state not in {*states.PLAN, *states.PLAN_TERMINAL}:
            raise InputInvalid("state is not one of the plan states", pointer="/state")
        most = paging.size(request.page_size)
        before = paging.read(request, caller.tenant)
        subject, agent = (None, None) if _reads_all(caller) else (caller.subject, caller.agent)
        async with db.transaction(self._engine, caller.tenant) as conn:
            found = await store.page(
                conn, caller.tenant, state=request.state, subject=subject, agent=agent, before=before, most=most + 1
            )
        more = found[most - 1].plan_id if len(found) > most else ""
        return plan_pb2.ListPlansResponse(
            plans=[await self._message(row) for row in found[:most]],
            next_page_token=paging.make(more, request, caller.tenant) if more else "",
        )

    async def WatchPlan(  # noqa: N802 (the contract's name)
        self,
        request: plan_pb2.WatchPlanRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[plan_pb2.WatchPlanResponse]:
        """Stream a plan's events, gapless from `after_seq`; ends after the terminal one."""
        row = await self._own(request.plan_id, current_caller())
        if request.after_seq < 0:
            raise InputInvalid("after_seq must not be negative", pointer="/after_seq")
        seq, quiet = request.after_seq, 0.0
        while not self._stopping.is_set():
            async with db.transaction(self._engine, row.tenant) as conn:
                events = await store.events_after(conn, row.plan_id, seq, WATCH_BATCH)
                ended = not events and (await store.get(conn, row.tenant, row.plan_id) or row).end_ms is not None
            for event in events:
                seq, quiet = event.seq, 0.0
                message = convert.event_message(event)
                yield message
                if message.terminal:
                    return
            if ended:
                return
            if not events:
                if quiet >= HEARTBEAT_SECONDS:
                    quiet = 0.0
                    yield plan_pb2.WatchPlanResponse(seq=seq)
                await self._signals.wait(row.plan_id, POLL_SECONDS)
                quiet += POLL_SECONDS

    async def CancelPlan(  # noqa: N802 (the contract's name)
        self,
        request: plan_pb2.CancelPlanRequest,
        context: Any,  # noqa: ARG002
    ) -> plan_pb2.CancelPlanResponse:
        """Withdraw a proposal, or stop a plan and take back what it did."""
        row = await self._own(request.plan_id, await self._changing())
        async with change(self._engine, self._maker, row.tenant, row.plan_id) as unit:
            state = unit.plan.state
            if state == "PROPOSED":
                unit.move_plan("withdraw")
            elif state in ("COMMITTED", "RUNNING", "HALTED"):
                # The worker that owns the plan ends its open step first; without one, recovery takes it up.
                unit.set_plan(cancel_requested=True)
                if state == "COMMITTED":
                    unit.move_plan("cancel")
            else:
                raise WrongState(f"the plan is {state}", state=state)
        self._maker.outbox.wake()
        self._signals.changed(row.plan_id)
        if unit.plan.end_ms is None:
            self._start(unit.plan)
        return plan_pb2.CancelPlanResponse(plan=await self._message(unit.plan))

    async def _changing(self) -> Caller:
        """Return the caller of a method that changes something, once this database is known to be current."""
        caller = current_caller()
        await self._restore.require(caller.tenant)
        return caller

    async def _own(self, plan_id: str, caller: Caller) -> PlanRow:
        """Return a plan that the caller may see; another tenant's and another agent's are like none at all."""
        _check_id(plan_id)
        async with db.transaction(self._engine, caller.tenant) as conn:
            row = await store.get(conn, caller.tenant, plan_id)
        if row is None:
            raise NotFound
        if not _reads_all(caller) and (row.subject, row.agent) != (caller.subject, caller.agent or row.agent):
            raise NotFound
        return row

    async def _message(self, row: PlanRow) -> plan_pb2.Plan:
        async with db.transaction(self._engine, row.tenant) as conn:
            steps = await store.steps_of(conn, row.plan_id)
            indices = await store.ledger_indices(conn, convert.event_ids(steps))
        return convert.plan_message(row, steps, indices)


def _reads_all(caller: Caller) -> bool:
    """Whether the caller is a person with a role: approvers and operators see the tenant's plans."""
    return caller.agent is None and bool(caller.roles)


def _check_id(plan_id: str) -> None:
    if not _ID.fullmatch(plan_id):
        raise InputInvalid("plan_id must be a plan's id or digest", pointer="/plan_id")
