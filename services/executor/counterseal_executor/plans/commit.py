"""The commit gate: exactly the echoed bytes, under a fresh signed decision, once.

Part A asks others and holds no lock; its results are good for ten seconds. Part B is one short transaction without any
call to another service; the order of its checks fixes the reason codes.
"""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.api.executor.v1 import plan_pb2
from counterseal.canonical import digest, digest_of
from counterseal.documents.effects import commit_event_id
from counterseal.documents.plan import KIND, Plan, parse_plan
from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import (
    ApprovalRequired,
    CheckpointStale,
    Contained,
    ContainmentStale,
    DecisionInvalid,
    IdempotencyKeyReused,
    InputInvalid,
    NotFound,
    PlanDigestMismatch,
    PlanExpired,
    QueueFull,
    ToolChanged,
    WrongState,
)
from counterseal.identity import Caller
from counterseal_executor import database as db
from counterseal_executor.containment import store as containment
from counterseal_executor.containment.barrier import Barrier
from counterseal_executor.decisions import Decision, Key, check_plan, open_decision, too_slow, while_it_lives
from counterseal_executor.events import Event
from counterseal_executor.peers import COMMIT, Answer, Ledger, Policy
from counterseal_executor.plans import store
from counterseal_executor.plans.propose import keep_answer
from counterseal_executor.plans.reading import Reader, Subject
from counterseal_executor.plans.rows import PlanRow
from counterseal_executor.plans.unit import Maker, change, lock

GATE_TIMEOUT_MS = 2000
LOCK_WAITS = frozenset({"57014", "55P03"})
"""SQLSTATE of a statement that was cancelled by its timeout, and of a lock that was not had in time."""
PART_A_MS = 10_000
STALE_RETRY_MS = 2000
"""When to commit again after CHECKPOINT_STALE: audit signs every second once it can."""


class Gate:
    """Commits plans."""

    def __init__(
        self,
        engine: AsyncEngine,
        maker: Maker,
        policy: Policy,
        ledger: Ledger,
        reader: Reader,
        key: Key,
        barrier: Barrier,
        stale_seconds: float,
    ) -> None:
        self._engine = engine
        self._maker = maker
        self._policy = policy
        self._ledger = ledger
        self._reader = reader
        self._key = key
        self._barrier = barrier
        self._stale_ms = int(stale_seconds * 1000)

    async def commit(self, request: plan_pb2.CommitPlanRequest, caller: Caller) -> tuple[PlanRow, bool]:
        """Commit the plan, or give the first answer again; returns the plan and whether this call committed it.

        A denial is an answer, not an error: the plan comes back REJECTED with the decision.
        """
        if not 1 <= len(request.idempotency_key) <= 128:
            raise InputInvalid("idempotency_key must have 1 to 128 characters", pointer="/idempotency_key")
        async with db.transaction(self._engine, caller.tenant) as conn:
            row = await store.get(conn, caller.tenant, request.plan_id)
            used = await store.commit_by_key(conn, caller.tenant, request.idempotency_key)
        if row is None or not row.disclosed or (row.subject, row.agent) != (caller.subject, caller.agent):
            raise NotFound
        if used is not None:
            return await self._first_answer(row, used, request), False
        _check_digest(row, request.plan_digest)
        if row.state != "PROPOSED":
            raise WrongState(f"the plan is {row.state}", state=row.state)
        plan = parse_plan(row.body)
        started = self._maker.clock()
        tools = await self._current_tools(plan)
        await self._check_signed(plan.tenant, started)
        answer = await self._ask(row, plan, tools, caller)
        if answer.outcome == "DENY":
            return await self._denied(row, answer), False
        decision = await self._decision(answer, plan)
        await self._read_again(plan, tools, decision, caller)
        try:
            return await self._part_b(request, plan, decision, started)
        except sa.exc.DBAPIError as error:
            # Waited for a lock for longer than the gate may: nothing was written, and the same key may be sent again.
            if getattr(error.orig, "sqlstate", None) not in LOCK_WAITS:
                raise
            raise QueueFull("the gate is busy; commit again under the same key", retry_after_ms=500) from None

    async def _current_tools(self, plan: Plan) -> dict[str, ToolDescriptor]:
        async with db.transaction(self._engine, plan.tenant) as conn:
            return await _live_tools(conn, plan)

    async def _check_signed(self, tenant: str, now_ms: int) -> None:
        """Refuse while the ledger takes entries and signs none: what it holds could still be taken back unseen."""
        since = await self._ledger.unsigned_since(tenant, now_ms - self._stale_ms)
        if since is not None:
            raise CheckpointStale(
                f"the ledger took an entry {(now_ms - since) // 1000} s ago that no signed checkpoint covers;"
                " commit again once it signs (the audit service needs its signing key in Vault for that)",
                retry_after_ms=STALE_RETRY_MS,
                unsigned_since_ms=since,
            )

    async def _ask(self, row: PlanRow, plan: Plan, tools: dict[str, ToolDescriptor], caller: Caller) -> Answer:
        if not self._barrier.fresh and any(not tools[step.tool].reads_only for step in plan.steps):
            raise ContainmentStale("policy's containment stream is silent; nothing above read-only starts")
        answer = await self._policy.authorize(
            row.body, row.plan_digest, COMMIT, list(tools.values()), row.rationale, caller.token or ""
        )
        if answer.outcome == "DENY" and "CONTAINED" in answer.view.reason_codes:
            raise Contained("a scope of the plan is stopped")
        if answer.outcome == "REQUIRE_APPROVAL":
            async with change(self._engine, self._maker, row.tenant, row.plan_id) as unit:
                keep_answer(unit, answer)
            raise ApprovalRequired(
                "the plan waits for approval", task_id=answer.view.task_id, card_digest=answer.view.card_digest
            )
        return answer

    async def _denied(self, row: PlanRow, answer: Answer) -> PlanRow:
        async with change(self._engine, self._maker, row.tenant, row.plan_id) as unit:
            keep_answer(unit, answer)
        self._maker.outbox.wake()
        self._reader.give_back(row.plan_id)
        return unit.plan

    async def _decision(self, answer: Answer, plan: Plan) -> Decision:
        if answer.signed is None:
            raise DecisionInvalid("policy allowed the plan without signing the decision")
        decision = await open_decision(answer.signed, self._key, self._maker.environment, self._maker.clock)
        check_plan(decision, plan, "COMMIT")
        return decision

    async def _read_again(
        self, plan: Plan, tools: dict[str, ToolDescriptor], decision: Decision, caller: Caller
    ) -> None:
        """Re-read what the first steps rest on; later ones are checked inside their own writes."""
        roots = [step for step in plan.steps if step.pre and not step.needs]
        if not roots:
            return
        subject, token = Subject(plan.tenant, plan_context(plan)), caller.token or ""
        try:
            with while_it_lives(decision, self._maker.clock, "commit again under the same key"):
                await self._reader.check_again(plan.plan_id, roots, tools, subject, plan.body, decision, token)
        finally:
            self._reader.give_back(plan.plan_id)

    async def _part_b(
        self, request: plan_pb2.CommitPlanRequest, plan: Plan, decision: Decision, started_ms: int
    ) -> tuple[PlanRow, bool]:
        async with db.transaction(self._engine, plan.tenant) as conn:
            await conn.execute(sa.text(f"SET LOCAL statement_timeout = {GATE_TIMEOUT_MS}"))
            await db.share_barrier(conn)
            await containment.refuse_contained(conn, decision.statement.epochs)
            unit = await lock(conn, self._maker, plan.plan_id)
            now = await _now_after_the_waits(conn)
            used = await store.commit_by_key(conn, plan.tenant, request.idempotency_key)
            if used is not None:
                return await self._first_answer(unit.plan, used, request), False
            _check_digest(unit.plan, request.plan_digest)
            if decision.statement.plan_digest != request.plan_digest:
                raise PlanDigestMismatch("the decision is for other bytes")
            if unit.plan.state != "PROPOSED":
                raise WrongState(f"the plan is {unit.plan.state}", state=unit.plan.state)
            _check_time(unit.plan, decision, now, started_ms)
            await _live_tools(conn, plan)
            await _use(conn, plan, request.idempotency_key, decision, now)
            unit.set_plan(commit_ms=now, deadline_ms=now + plan.content.deadline_seconds * 1000)
            unit.move_plan("commit", recorded=True)
            statement = decision.statement
            unit.record(
                Event(
                    "plan.committed",
                    {
                        "decision_id": statement.decision_id,
                        "snapshot_id": statement.snapshot_id,
                        "approvals": list(statement.votes),
                    },
                    event_id=commit_event_id(plan.digest),
                )
            )
            await unit.flush()
        self._maker.outbox.wake()
        return unit.plan, True

    async def _first_answer(self, row: PlanRow, used: store.CommitUse, request: plan_pb2.CommitPlanRequest) -> PlanRow:
        if used.plan_id != row.plan_id or used.plan_digest != request.plan_digest:
            raise IdempotencyKeyReused("the key was used for another commit")
        return row


def plan_context(plan: Plan) -> dict[str, object]:
    """Return what tools are told about the caller, from the plan's own bytes."""
    return {
        "subject": plan.actor.subject,
        "tenant": plan.tenant,
        "environment": plan.environment,
        "agent": plan.actor.agent,
        "request_id": plan.request_id,
    }


def _check_digest(row: PlanRow, echoed: str) -> None:
    """The stored bytes must have the stored digest, and the caller must have meant exactly them."""
    if digest(KIND, row.body) != row.plan_digest:
        raise PlanDigestMismatch("the stored bytes are not those of the plan; nothing runs", stored=row.plan_digest)
    if echoed != row.plan_digest:
        raise PlanDigestMismatch("the echoed digest is not the plan's", stored=row.plan_digest)


def _check_time(row: PlanRow, decision: Decision, now_ms: int, started_ms: int) -> None:
    if row.not_before_ms is not None and now_ms < row.not_before_ms:
        raise PlanExpired("the plan may not be committed yet", not_before_time_ms=row.not_before_ms)
    if now_ms >= row.expire_ms:
        raise PlanExpired("the plan has expired", expire_time_ms=row.expire_ms)
    if now_ms >= decision.statement.expire_time_ms or now_ms - started_ms > PART_A_MS:
        raise too_slow("the decision aged while the gate waited; commit again under the same key")


async def _now_after_the_waits(conn: AsyncConnection) -> int:
    # now() is the transaction's start, older than the locks that were waited for.
    row = await db.one(conn, "SELECT clock_timestamp()")
    return db.ms_of(row[0] if row is not None else None) or 0


async def _live_tools(conn: AsyncConnection, plan: Plan) -> dict[str, ToolDescriptor]:
    """Return `name@version` -> descriptor. Raises ToolChanged when one is retired or has another digest."""
    pinned = await store.pinned(conn, plan)
    found: dict[str, ToolDescriptor] = {}
    named = [(step.tool, step.tool_digest) for step in plan.steps]
    named += [(s.undoable.tool, s.undoable.tool_digest) for s in plan.steps if s.undoable is not None]
    for reference, tool_digest in named:
        tool, retired = pinned.get(tool_digest or "", (None, True))
        if tool is None or retired or tool.reference != reference:
            raise ToolChanged(f"{reference} was retired or is not what the plan names", tool=reference)
        found[reference] = tool
    return found


async def _use(conn: AsyncConnection, plan: Plan, key: str, decision: Decision, now_ms: int) -> None:
    await db.run(
        conn,
        "INSERT INTO commit_use (plan_id, tenant, nonce_digest, idempotency_key, plan_digest, decision_id, statement,"
        " signature, key, commit_time) VALUES (:plan_id, :tenant, :nonce_digest, :idempotency_key, :plan_digest,"
        " :decision_id, :statement, :signature, :key, :now)",
        plan_id=plan.plan_id,
        tenant=plan.tenant,
        nonce_digest=digest_of("event-id", {"nonce": plan.nonce}),
        idempotency_key=key,
        plan_digest=plan.digest,
        decision_id=decision.statement.decision_id,
        statement=decision.statement.body,
        signature=decision.signature,
        key=decision.key,
        now=db.time_of(now_ms),
    )
