"""OperatorService: the kill switch's end here, and what people do about plans that need them."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.api.executor.v1 import operator_pb2, operator_pb2_grpc
from counterseal.canonical import digest_of
from counterseal.documents.plan import parse_plan
from counterseal.errors import InputInvalid, NotFound, RoleRequired, WrongState
from counterseal.identity import Caller, current_caller
from counterseal.rpc import paging
from counterseal_executor import database as db
from counterseal_executor.containment import store as containment
from counterseal_executor.containment.barrier import Barrier
from counterseal_executor.containment.follower import state_message
from counterseal_executor.events import Event
from counterseal_executor.plans import store
from counterseal_executor.plans.unit import Maker, Unit, change
from counterseal_executor.restore.check import RestoreCheck
from counterseal_executor.states import OPEN_STEPS, STEP, STEP_TERMINAL
from counterseal_executor.work.doubts import resolve
from counterseal_executor.work.recovery import Recovery

OPERATOR_ROLE = "operator"
QUIESCE_SECONDS = 5.0
ANSWER_MARGIN_SECONDS = 0.3

APPLIED = operator_pb2.STEP_RESOLUTION_APPLIED
ABSENT = operator_pb2.STEP_RESOLUTION_ABSENT
UNKNOWN = operator_pb2.STEP_RESOLUTION_UNKNOWN
_VERDICTS = {APPLIED: "applied", ABSENT: "not_applied", UNKNOWN: "unknown"}
_IN_DOUBT = {APPLIED: "operator_applied", ABSENT: "operator_absent", UNKNOWN: "operator_unknown"}


class OperatorService(operator_pb2_grpc.OperatorServiceServicer):
    """Stops scopes, shows the barrier, resumes plans, and takes people's statements about doubts."""

    def __init__(
        self, engine: AsyncEngine, maker: Maker, barrier: Barrier, recovery: Recovery, restore: RestoreCheck
    ) -> None:
        self._engine = engine
        self._maker = maker
        self._barrier = barrier
        self._recovery = recovery
        self._restore = restore

    async def HaltScope(  # noqa: N802 (the contract's name)
        self, request: operator_pb2.HaltScopeRequest, context: Any
    ) -> operator_pb2.HaltScopeResponse:
        """Stop a scope, then wait for its open intents as long as the caller does.

        A stop is taken whatever this database lacks; that the scope is quiet is said of a current one only.
        """
        if request.epoch < 0:
            raise InputInvalid("epoch must not be negative", pointer="/epoch")
        if not request.reason_code:
            raise InputInvalid("reason_code is required", pointer="/reason_code")
        state = await self._barrier.stop(request.scope, request.epoch, request.reason_code)
        answer = operator_pb2.HaltScopeResponse(state=state_message(state))
        answer.stopped_time.FromMilliseconds(state.update_ms or self._maker.clock())
        remaining = context.time_remaining()
        patience = QUIESCE_SECONDS if remaining is None else max(0.0, remaining - ANSWER_MARGIN_SECONDS)
        quiesced = await self._barrier.wait_quiesced(state, patience)
        if quiesced is not None:
            answer.quiesced_time.FromMilliseconds(quiesced)
        answer.open_intent_count = await self._barrier.open_count(state.scope)
        return answer

    async def GetBarrier(  # noqa: N802 (the contract's name)
        self,
        request: operator_pb2.GetBarrierRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> operator_pb2.GetBarrierResponse:
        """Return every scope that this service was told about."""
        return operator_pb2.GetBarrierResponse(
            states=[state_message(state) for state in await self._barrier.everything()]
        )

    async def ResumePlan(  # noqa: N802 (the contract's name)
        self,
        request: operator_pb2.ResumePlanRequest,
        context: Any,  # noqa: ARG002
    ) -> operator_pb2.ResumePlanResponse:
        """Resume a halted plan; its worker asks policy again before anything new starts."""
        caller = _operator()
        await self._restore.require(caller.tenant)
        async with change(self._engine, self._maker, caller.tenant, _id(request.plan_id), barrier=True) as unit:
            if unit.plan.state != "HALTED":
                raise WrongState(f"the plan is {unit.plan.state}", state=unit.plan.state)
            # Only what is stopped now counts: the lift raised the epoch, and this is the people's word.
            await containment.refuse_contained(unit.conn, dict.fromkeys(unit.plan.scopes, (1 << 62)))
            if any(step.state in OPEN_STEPS for step in unit.steps.values()):
                raise WrongState("a step of the plan is in doubt; resolve it first", state="IN_DOUBT")
            unit.move_plan("resume")
        self._maker.outbox.wake()
        self._recovery.start(unit.plan)
        return operator_pb2.ResumePlanResponse(state=unit.plan.state)

    async def ListInDoubt(  # noqa: N802 (the contract's name)
        self,
        request: operator_pb2.ListInDoubtRequest,
        context: Any,  # noqa: ARG002
    ) -> operator_pb2.ListInDoubtResponse:
        """List the tenant's steps whose effect is not known, oldest intent first."""
        caller = _operator()
        most = paging.size(request.page_size)
        after = paging.read(request, caller.tenant)
        async with db.transaction(self._engine, caller.tenant) as conn:
            found = await db.rows(
                conn,
                "SELECT s.plan_id::text, s.step_id, s.current_attempt::text AS attempt_id, s.tool, s.target, s.state,"
                " a.start_time FROM step s JOIN plan p USING (plan_id)"
                " JOIN attempt a ON a.attempt_id = s.current_attempt"
                " WHERE p.tenant = :tenant AND s.state IN ('IN_DOUBT', 'UNDO_IN_DOUBT')"
                " AND s.current_attempt::text > :after ORDER BY s.current_attempt::text LIMIT :most",
                tenant=caller.tenant,
                after=after,
                most=most + 1,
            )
        answer = operator_pb2.ListInDoubtResponse()
        for row in found[:most]:
            step = answer.steps.add(
                plan_id=row.plan_id,
                step_id=row.step_id,
                attempt_id=row.attempt_id,
                tool=row.tool,
                target=row.target,
                undo=row.state == "UNDO_IN_DOUBT",
            )
            step.intent_time.FromMilliseconds(db.ms_of(row.start_time) or 0)
        if len(found) > most:
            answer.next_page_token = paging.make(found[most - 1].attempt_id, request, caller.tenant)
        return answer

    async def ResolveStep(  # noqa: N802 (the contract's name)
        self,
        request: operator_pb2.ResolveStepRequest,
        context: Any,  # noqa: ARG002
    ) -> operator_pb2.ResolveStepResponse:
        """Take a person's statement about a step; the ledger keeps who said it, and the words sealed."""
        caller = _operator()
        await self._restore.require(caller.tenant)
        if request.resolution not in _VERDICTS:
            raise InputInvalid("resolution is required", pointer="/resolution")
        if not 1 <= len(request.comment) <= 4096:
            raise InputInvalid("comment must have 1 to 4096 characters", pointer="/comment")
        async with change(self._engine, self._maker, caller.tenant, _id(request.plan_id)) as unit:
            if request.step_id not in unit.steps:
                raise NotFound
            await self._resolve(unit, request, caller)
            if unit.plan.state == "NEEDS_ATTENTION" and not _needs_people(unit):
                unit.move_plan("resolve", reason_code="OPERATOR")
        self._maker.outbox.wake()
        self._recovery.start(unit.plan)
        return operator_pb2.ResolveStepResponse(state=unit.steps[request.step_id].state)

    async def _resolve(self, unit: Unit, request: operator_pb2.ResolveStepRequest, caller: Caller) -> None:
        row = unit.steps[request.step_id]
        person = caller.person_id or caller.subject
        verdict = _VERDICTS[request.resolution]
        if row.state in ("PENDING", "READY", "INTENT", "UNDO_READY", "UNDO_INTENT"):
            raise WrongState(f"the step is {row.state}", state=row.state)
        if row.state in STEP_TERMINAL or row.current_attempt is None:
            if unit.plan.state != "NEEDS_ATTENTION":
                raise WrongState(f"the step is {row.state}", state=row.state)
            return
        attempt = await store.attempt(unit.conn, row.current_attempt)
        statement = {
            "v": 1,
            "plan_digest": unit.plan.plan_digest,
            "step_id": row.step_id,
            "attempt_id": attempt.attempt_id,
            "verdict": verdict,
            "comment": request.comment,
        }
        data = {"attempt_id": attempt.attempt_id, "verdict": verdict, "method": "person", "resolver": person}
        sealed = {"evidence": {**statement, "digest": digest_of("resolution", statement)}}
        unit.record(Event("step.resolved", data, sealed, step=row.step_id, attempt=attempt.n))
        if row.state != "IN_DOUBT":
            unit.move_step(row.step_id, "operator", recorded=True)
        elif request.resolution == APPLIED:
            step = parse_plan(unit.plan.body).step(row.step_id)
            await resolve(unit, step, attempt, applied=True)
        else:
            unit.move_step(row.step_id, _IN_DOUBT[request.resolution], recorded=True)


def _needs_people(unit: Unit) -> bool:
    return any("operator" in STEP.get(s.state, {}) or s.state in OPEN_STEPS for s in unit.steps.values())


def _operator() -> Caller:
    caller = current_caller()
    if caller.agent is not None or OPERATOR_ROLE not in caller.roles:
        raise RoleRequired("this needs the role operator")
    return caller


def _id(plan_id: str) -> str:
    if len(plan_id) != 36:
        raise InputInvalid("plan_id must be a plan's id", pointer="/plan_id")
    return plan_id
