"""Life of a decision: judge, one short transaction, ledger, signature.

1. Judge the bytes under the active policy; no transaction is open meanwhile.
2. One transaction: the barrier's lock shared, containment in the next statement, the approval task, row and outbox.
3. The ledger acknowledges the entry.
4. Sign. The signature is last, so no usable ALLOW lacks a ledger entry.
No RPC is made inside the transaction. A crash after 2 or 3 leaves a recorded decision that nobody can use.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.canonical import digest, parse_canonical
from counterseal.clock import Clock
from counterseal.documents import plan as plans
from counterseal.documents.decision import MAX_LIFE_MS, signing_input
from counterseal.errors import InputInvalid, PlanDigestMismatch, SnapshotMismatch
from counterseal.identity import Caller
from counterseal.ids import IdSource
from counterseal.rpc.outbox import Outbox
from counterseal.vault import Signer
from counterseal_policy.approvals import store as tasks
from counterseal_policy.config import PolicyConfig
from counterseal_policy.containment import store as containment
from counterseal_policy.containment.adoption import Adoption
from counterseal_policy.containment.engine import plan_scopes
from counterseal_policy.database import lock_barrier, transaction
from counterseal_policy.decisions import intake, record
from counterseal_policy.decisions import store as decisions
from counterseal_policy.decisions.asking import Asking
from counterseal_policy.decisions.assembler import Request, StepInput
from counterseal_policy.decisions.case import Answer, Approval, Case, PlanQuestion, Signed, statement_of
from counterseal_policy.decisions.engine import Question, evaluate_stepwise
from counterseal_policy.decisions.outcome import ALLOW, DENY, REQUIRE_APPROVAL, Evaluation, denied
from counterseal_policy.snapshots.active import ActivePolicies, ActivePolicy

PREVIEW, COMMIT, COMPENSATE = "PREVIEW", "COMMIT", "COMPENSATE"
_NOT_COMMITTED = denied("APPROVAL_OUT_OF_SCOPE", "the plan was never allowed to commit")


@dataclass(slots=True)
class Decider:
    """Makes decisions. randomness(n) returns n random bytes."""

    engine: AsyncEngine
    outbox: Outbox
    signer: Signer
    policies: ActivePolicies
    adoption: Adoption
    config: PolicyConfig
    environment: str
    clock: Clock
    new_id: IdSource
    randomness: Callable[[int], bytes]

    @property
    def asking(self) -> Asking:
        """What asks people, made of the same parts."""
        return Asking(self.outbox, self.config, self.environment, self.clock, self.new_id, self.randomness)

    async def decide_draft(
        self,
        caller: Caller,
        body: bytes,
        claimed_digest: str,
        descriptors: Sequence[bytes],
        supported_obligations: frozenset[str],
    ) -> Answer:
        """Judge a draft, so that its preconditions may be read. Raises ServiceError when no decision can be made."""
        draft = plans.parse_draft(parse_canonical(body))
        if draft.digest != claimed_digest:
            raise PlanDigestMismatch("the digest is not that of the draft's bytes")
        active = await self.policies.get(caller.tenant)
        request = intake.request_of(caller, draft.content, taint=False)
        evaluation: Evaluation
        try:
            steps = intake.draft_steps(draft, intake.descriptors(descriptors))
            evaluation = await self._judge(active, request, steps, draft.digest, supported_obligations, draft=True)
        except InputInvalid as error:
            evaluation = denied("INPUT_INVALID", error.message)
        tools = _tool_names(draft.content.steps)
        return await self._finish(
            Case(caller, self.new_id(), self.new_id(), PREVIEW, draft.digest, tools, evaluation, active, taint=False)
        )

    async def authorize(self, caller: Caller, question: PlanQuestion) -> Answer:
        """Judge exact plan bytes. Raises ServiceError when no decision can be made."""
        if digest(plans.KIND, question.body) != question.digest:
            raise PlanDigestMismatch("the digest is not that of the plan's bytes")
        plan = plans.parse_plan(question.body)
        intake.check_actor(plan, caller)
        active = await self.policies.get(caller.tenant)
        if question.snapshot_id and question.snapshot_id != (active.snapshot_id if active else ""):
            raise SnapshotMismatch("the pinned snapshot is not the active one")
        request = intake.request_of(caller, plan.content, taint=plan.taint)
        found: intake.Descriptors = {}
        rationale = None
        try:
            found = intake.descriptors(question.descriptors)
            rationale = intake.check_beside(plan, question.previews, question.rationale)
            evaluation = await self._judge_plan(caller, plan, active, request, found, question)
        except InputInvalid as error:
            evaluation = denied("INPUT_INVALID", error.message)
        return await self._finish(
            Case(
                caller,
                self.new_id(),
                self.new_id(),
                question.purpose,
                plan.digest,
                _tool_names(plan.steps),
                evaluation,
                active,
                taint=plan.taint,
                plan=plan,
                descriptors=found,
                request=request,
                rationale=rationale,
            )
        )

    async def _judge_plan(
        self,
        caller: Caller,
        plan: plans.Plan,
        active: ActivePolicy | None,
        request: Request,
        found: intake.Descriptors,
        question: PlanQuestion,
    ) -> Evaluation:
        if plan.environment != self.environment:
            return denied("ENVIRONMENT_MISMATCH", "the plan is of another environment")
        if plan.tenant != caller.tenant:
            return denied("TENANT_MISMATCH", "the plan is of another tenant")
        if question.purpose == COMPENSATE:
            # Undo was judged and approved with the plan: a rollback needs no new permission, only that the plan was
            # committed, which `_finish` looks up, and that no scope is stopped.
            return _NOT_COMMITTED
        steps = intake.plan_steps(plan, found)
        return await self._judge(active, request, steps, plan.digest, question.supported_obligations, draft=False)

    async def _judge(
        self,
        active: ActivePolicy | None,
        request: Request,
        steps: tuple[StepInput, ...],
        plan_digest: str,
        supported: frozenset[str],
        *,
        draft: bool,
    ) -> Evaluation:
        if active is None:
            return denied("NO_ACTIVE_POLICY", "no policy is active")
        run = evaluate_stepwise(
            Question(
                policy=active.policy,
                request=request,
                steps=steps,
                plan_digest=plan_digest,
                now_ms=self.clock(),
                draft=draft,
                supported_obligations=supported,
            )
        )
        while True:
            try:
                next(run)
            except StopIteration as done:
                evaluation: Evaluation = done.value
                return evaluation
            await asyncio.sleep(0)

    async def _finish(self, case: Case) -> Answer:
        caller, snapshot_id = case.caller, case.active.snapshot_id if case.active else ""
        if case.evaluation.outcome != DENY or case.purpose == COMPENSATE:
            self.adoption.check()
        requested: ledger_pb2.NewEntry | None = None
        async with transaction(self.engine, caller.tenant) as connection:
            await lock_barrier(connection)
            requests = (*((case.plan.request_id,) if case.plan else ()), caller.request_id)
            scopes = plan_scopes(self.environment, caller.tenant, caller.agent or "", case.tools, case.digest, requests)
            states = await containment.read_scopes(connection, scopes)
            epochs = {scope: states[scope].epoch if scope in states else 0 for scope in scopes}
            stopped = sorted(scope for scope, state in states.items() if state.stopped)
            steps_body = record.steps_body(case.evaluation)
            if case.evaluation is _NOT_COMMITTED:
                committed = await decisions.committed(connection, caller.tenant, case.digest)
                if committed is not None:
                    case = replace(case, evaluation=_undo_allowed(committed))
                    steps_body, snapshot_id = committed.steps, committed.snapshot_id
            if stopped:
                refused = denied("CONTAINED", f"stopped: {', '.join(stopped)}", case.evaluation.steps)
                case = replace(case, evaluation=refused)
            approval = Approval(case.evaluation)
            if case.evaluation.outcome == REQUIRE_APPROVAL and case.plan is not None:
                approval, requested = await self.asking.approval(connection, case, epochs)
            now = self.clock()
            expire = min(now + MAX_LIFE_MS, approval.until_ms or now + MAX_LIFE_MS)
            statement = None
            if _usable(case.purpose, approval.evaluation.outcome) and expire > now:
                statement = statement_of(case, self.environment, approval, epochs, steps_body, snapshot_id, now, expire)
            if approval.votes and approval.task_id is not None:
                await tasks.note_decision(connection, approval.task_id, expire)
            await decisions.insert(
                connection,
                decisions.DecisionRow(
                    decision_id=case.decision_id,
                    tenant=caller.tenant,
                    purpose=case.purpose,
                    plan_digest=case.digest,
                    request_id=caller.request_id,
                    subject=caller.subject,
                    agent=caller.agent or "",
                    snapshot_id=snapshot_id,
                    task_id=approval.task_id,
                    event_id=case.event_id,
                    steps=steps_body,
                    record=record.record_body(caller, approval.evaluation, {"epochs": epochs, "txn": caller.txn}),
                    statement=statement.body if statement else None,
                ),
                approval.evaluation,
            )
            decided = self._entry(case, approval, snapshot_id, now)
            await self.outbox.put(connection, decided)
        await self.outbox.send(decided, *([requested] if requested is not None else []))
        signed = None
        if statement is not None:
            signature, key = await self.signer.sign(signing_input(statement.body))
            signed = Signed(statement.body, signature, key)
        return Answer(
            case.decision_id,
            case.purpose,
            approval.evaluation,
            snapshot_id,
            approval.task_id,
            approval.card_digest,
            expire,
            signed,
        )

    def _entry(self, case: Case, approval: Approval, snapshot_id: str, now: int) -> ledger_pb2.NewEntry:
        return record.decided_entry(
            "call.decided" if case.plan is None else "plan.decided",
            case.caller,
            approval.evaluation,
            event_id=case.event_id,
            event_time_ms=now,
            environment=self.environment,
            decision_id=case.decision_id,
            purpose=case.purpose,
            plan_digest=case.digest,
            snapshot_id=snapshot_id or None,
            taint=case.taint,
            card=approval.card,
            card_digest=approval.card_digest,
            salt=self.randomness,
        )


def _usable(purpose: str, outcome: str) -> bool:
    """ALLOW can be used; a PREVIEW may read while an approval is still required."""
    return outcome == ALLOW or (purpose == PREVIEW and outcome == REQUIRE_APPROVAL)


def _undo_allowed(committed: decisions.Committed) -> Evaluation:
    return Evaluation(
        outcome=ALLOW,
        reason_codes=("ALLOWED_BY_RULE",),
        steps=(),
        class_level=committed.class_level,
        stage=0,
        rules=(),
        requirements=(),
        obligations=(),
        safer_alternative=None,
    )


def _tool_names(steps: Sequence[plans.Step]) -> tuple[str, ...]:
    """Return the names of every tool of a plan, of the undo steps too."""
    references = [step.tool for step in steps] + [step.undoable.tool for step in steps if step.undoable is not None]
    return tuple(dict.fromkeys(reference.partition("@")[0] for reference in references))


__all__ = ["Answer", "Decider", "PlanQuestion"]
