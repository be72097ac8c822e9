"""Asking people: the approval task of a plan, found, judged to cover what is asked now, or made.

Runs inside the decision's transaction, under the barrier's lock and the plan's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.clock import Clock
from counterseal.ids import IdSource
from counterseal.rpc.ledger_wire import caller_texts, new_entry
from counterseal.rpc.outbox import Outbox
from counterseal_policy.approvals import engine as approvals
from counterseal_policy.approvals import store as tasks
from counterseal_policy.config import PolicyConfig
from counterseal_policy.containment.engine import rose
from counterseal_policy.decisions.card import build_card
from counterseal_policy.decisions.case import Approval, Case
from counterseal_policy.decisions.gates import governance
from counterseal_policy.decisions.outcome import ALLOW, Evaluation, denied


@dataclass(frozen=True, slots=True)
class Asking:
    """Finds or makes approval tasks. randomness(n) returns n random bytes."""

    outbox: Outbox
    config: PolicyConfig
    environment: str
    clock: Clock
    new_id: IdSource
    randomness: Callable[[int], bytes]

    async def approval(
        self, connection: AsyncConnection, case: Case, epochs: dict[str, int]
    ) -> tuple[Approval, ledger_pb2.NewEntry | None]:
        """Look for a task whose votes cover what is asked now; else make one. The only way down to ALLOW."""
        evaluation, active = case.evaluation, case.active
        assert active is not None  # noqa: S101 (an evaluation that asks for approval has a policy)
        signed_classes = governance(active.policy.settings, self.environment).signed_votes
        now = approvals.basis(evaluation, epochs, signed_classes)
        await tasks.lock_plan(connection, case.digest)
        task = await tasks.lock_live(connection, case.digest)
        extra: tuple[str, ...] = ()
        if task is None:
            last = await tasks.newest(connection, case.digest)
            if last is not None and last.state == "REJECTED":
                return Approval(denied("APPROVAL_REJECTED", "a person refused the plan", evaluation.steps)), None
            if last is not None and last.state == "USED":
                used = await self._used(connection, last, now)
                if isinstance(used, str):
                    extra = (used,)
                else:
                    return _allowed(evaluation, last, used), None
        elif task.expired:
            extra = ("APPROVAL_EXPIRED",)
            await tasks.set_state(connection, task.task_id, "EXPIRED")
            await self.outbox.put(connection, expired_entry(task, self.environment, self.new_id(), self.clock()))
        else:
            ballots = approvals.standing(await tasks.ballots(connection, task.task_id), epochs)
            covered = approvals.asks_no_more(now, task.basis) and not rose(epochs, task.basis.epochs)
            if covered and task.state == "APPROVED" and approvals.met(now, ballots):
                return _allowed(evaluation, task, ballots), None
            if covered and task.state == "PENDING":
                return Approval(evaluation, task.task_id, card_digest=task.card_digest), None
            extra = ("POLICY_CHANGED",)
            await tasks.set_state(connection, task.task_id, "SUPERSEDED")
            await self.outbox.put(connection, voided_entry(task, self.environment, self.new_id(), self.clock()))
        return await self._ask_people(connection, case, now, extra)

    async def _used(
        self, connection: AsyncConnection, task: tasks.Task, now: approvals.Basis
    ) -> "list[approvals.Ballot] | str":
        """Return the votes that a committed plan rests on while they last, else the reason why people are asked again.

        A stop since the votes does not void them: what goes on after it is the word of who lifts and resumes.
        """
        if task.lapsed:
            return "APPROVAL_EXPIRED"
        ballots = await tasks.ballots(connection, task.task_id)
        covered = approvals.asks_no_more(now, task.basis) and approvals.met(now, ballots)
        return ballots if covered else "POLICY_CHANGED"

    async def _ask_people(
        self, connection: AsyncConnection, case: Case, now: approvals.Basis, extra: tuple[str, ...]
    ) -> tuple[Approval, ledger_pb2.NewEntry | None]:
        """Make the card and the task."""
        caller, plan = case.caller, case.plan
        assert plan is not None  # noqa: S101 (the caller has looked)
        assert case.request is not None  # noqa: S101 (set with the plan)
        open_tasks = await tasks.open_tasks(connection, caller.tenant, caller.agent or "")
        if open_tasks >= self.config.max_open_tasks:
            full = denied("APPROVAL_QUEUE_FULL", "the agent has too many open approval tasks", case.evaluation.steps)
            return Approval(full), None
        evaluation = replace(
            case.evaluation, reason_codes=tuple(dict.fromkeys((*extra, *case.evaluation.reason_codes)))
        )
        card, card_digest, summary = build_card(
            plan,
            case.descriptors or {},
            case.request,
            case.evaluation,
            decision_id=case.decision_id,
            snapshot_id=case.active.snapshot_id if case.active else "",
            nonce=self.randomness(16).hex(),
            rationale=case.rationale,
        )
        task_id = self.new_id()
        decide_by = await tasks.insert(
            connection,
            task_id=task_id,
            tenant=caller.tenant,
            plan_digest=case.digest,
            card=card,
            card_digest=card_digest,
            decision_id=case.decision_id,
            basis=now,
            request_id=caller.request_id,
            subject=caller.subject,
            agent=caller.agent or "",
            excluded=approvals.excluded_people(caller, self.config.person_ids),
            decide_within_ms=min(need.decide_within_ms for need in now.requirements),
            valid_for_ms=min(need.valid_for_ms for need in now.requirements),
            summary=summary,
        )
        texts: dict[str, Any] = {**caller_texts(caller), "plan_digest": case.digest}
        data = {
            "task_id": task_id,
            "card_digest": card_digest,
            "need": max(need.need for need in now.requirements),
            "roles": sorted({role for need in now.requirements for role in approvals.roles_of(need)}),
            "expire_time_ms": decide_by,
        }
        entry = new_entry(
            "approval.requested",
            data,
            event_id=self.new_id(),
            event_time_ms=self.clock(),
            tenant=caller.tenant,
            environment=self.environment,
            **texts,
        )
        await self.outbox.put(connection, entry)
        return Approval(evaluation, task_id, card=card, card_digest=card_digest), entry


def _allowed(evaluation: Evaluation, task: tasks.Task, ballots: Sequence[approvals.Ballot]) -> Approval:
    """Return the only way down to ALLOW: by the votes of a task that covers what is asked."""
    return Approval(
        replace(evaluation, outcome=ALLOW, reason_codes=("APPROVED",)),
        task.task_id,
        card_digest=task.card_digest,
        votes=tuple(ballot.digest for ballot in ballots if ballot.approved),
        until_ms=task.valid_until_ms,
    )


def expired_entry(task: tasks.Task, environment: str, event_id: str, now_ms: int) -> ledger_pb2.NewEntry:
    """Return the `approval.expired` entry of a task: undecided in time, or not used in time."""
    cause = "undecided" if task.state == "PENDING" else "unused"
    return _task_entry("approval.expired", cause, task, environment, event_id, now_ms)


def voided_entry(task: tasks.Task, environment: str, event_id: str, now_ms: int) -> ledger_pb2.NewEntry:
    """Return the `approval.withdrawn` entry of a task whose votes no longer cover what is asked."""
    return _task_entry("approval.withdrawn", "superseded", task, environment, event_id, now_ms)


def ended_entry(task: tasks.Task, environment: str, event_id: str, now_ms: int) -> ledger_pb2.NewEntry:
    """Return the `approval.withdrawn` entry of a task whose plan ended without a use for it."""
    return _task_entry("approval.withdrawn", "plan_ended", task, environment, event_id, now_ms)


def _task_entry(
    kind: str, cause: str, task: tasks.Task, environment: str, event_id: str, now_ms: int
) -> ledger_pb2.NewEntry:
    return new_entry(
        kind,
        {"task_id": task.task_id, "cause": cause},
        event_id=event_id,
        event_time_ms=now_ms,
        tenant=task.tenant,
        environment=environment,
        request_id=task.request_id,
        subject=task.subject,
        agent=task.agent,
        plan_digest=task.plan_digest,
    )
