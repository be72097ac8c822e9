"""Taking votes: one transaction per vote, recorded in the ledger before the answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.clock import Clock
from counterseal.documents.approval import MAX_REASON, Approval, build_approval
from counterseal.errors import (
    ApproverIneligible,
    CardDigestMismatch,
    InputInvalid,
    NotFound,
    PlanDigestMismatch,
    RoleRequired,
    ServiceError,
    WrongState,
)
from counterseal.identity import Caller
from counterseal.ids import IdSource, is_id
from counterseal.rpc.ledger_wire import new_entry
from counterseal.rpc.outbox import Outbox
from counterseal_policy.approvals import engine as voting
from counterseal_policy.approvals import store
from counterseal_policy.config import PolicyConfig
from counterseal_policy.containment import store as containment
from counterseal_policy.containment.engine import rose
from counterseal_policy.database import lock_barrier, transaction
from counterseal_policy.second_person import person

_VERDICT = {True: "APPROVE", False: "REJECT"}


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """A vote as it was sent: the digests are what the voter saw."""

    task_id: str
    plan_digest: str
    card_digest: str
    approved: bool
    comment: str
    signature: bytes = b""


@dataclass(slots=True)
class Booth:
    """Takes votes and takes them back. randomness(n) returns n random bytes."""

    engine: AsyncEngine
    outbox: Outbox
    config: PolicyConfig
    environment: str
    clock: Clock
    new_id: IdSource
    randomness: Callable[[int], bytes]

    async def vote(self, caller: Caller, request: VoteRequest, method: str) -> store.Task:
        """Count a vote and return the task after it.

        Raises NotFound, PlanDigestMismatch, CardDigestMismatch, WrongState, ApproverIneligible, RoleRequired; the last
        two leave a `call.refused` entry, since somebody tried.
        """
        if len(request.comment) > MAX_REASON or (not request.approved and not request.comment):
            raise InputInvalid(f"a comment of at most {MAX_REASON} characters is required to reject, optional else")
        try:
            return await self._vote(caller, request)
        except (ApproverIneligible, RoleRequired) as error:
            await self._refused(caller, method, error)
            raise

    async def withdraw(self, caller: Caller, task_id: str) -> store.Task:
        """Take the caller's own vote back; an approved task is pending again. Raises NotFound, WrongState."""
        async with transaction(self.engine, caller.tenant) as connection:
            task = await self._lock(connection, task_id)
            if task.state not in store.LIVE or task.expired:
                raise WrongState(f"the task is {'EXPIRED' if task.expired else task.state}")
            if not await store.withdraw(connection, task.task_id, person(caller)):
                raise NotFound("you have no vote on this task")
            ballots = await store.ballots(connection, task.task_id)
            if task.state == "APPROVED" and not voting.met(task.basis, ballots):
                await store.set_state(connection, task.task_id, "PENDING")
            data = {"task_id": task.task_id, "approver": caller.subject, "cause": "voter"}
            entry = self._entry("approval.withdrawn", data, task, {})
            await self.outbox.put(connection, entry)
            after = await store.read(connection, task.task_id)
        await self.outbox.send(entry)
        assert after is not None  # noqa: S101 (its row is locked)
        return after

    async def _vote(self, caller: Caller, request: VoteRequest) -> store.Task:
        async with transaction(self.engine, caller.tenant) as connection:
            await lock_barrier(connection)
            task = await self._lock(connection, request.task_id)
            if request.plan_digest != task.plan_digest:
                raise PlanDigestMismatch("the plan digest is not that of the task")
            if request.card_digest != task.card_digest:
                raise CardDigestMismatch("the card digest is not that of the task; look at the card again")
            roles = voting.check_voter(
                caller,
                excluded=task.excluded,
                requirements=task.basis.requirements,
                now_ms=self.clock(),
                max_age_ms=self.config.approver_max_auth_age_seconds * 1000,
                person_ids=self.config.person_ids,
            )
            if request.signature or task.basis.signed:
                raise ApproverIneligible("no signing key of yours is published, so the vote cannot be verified")
            epochs = await self._check_open(connection, task)
            document = self._document(caller, task, request, roles)
            ballot = voting.Ballot(person(caller), roles, request.approved, False, document.digest, epochs)
            stored = await store.vote(
                connection,
                vote_id=self.new_id(),
                tenant=task.tenant,
                approver=caller.subject,
                ballot=ballot,
                document=document,
            )
            if not stored:
                raise WrongState("you have voted on this task already")
            entry = await self._count(connection, caller, task, ballot, document)
            await self.outbox.put(connection, entry)
            after = await store.read(connection, task.task_id)
        await self.outbox.send(entry)
        assert after is not None  # noqa: S101 (its row is locked)
        return after

    async def _check_open(self, connection: AsyncConnection, task: store.Task) -> dict[str, int]:
        """Return the epochs of the task's scopes. Raises WrongState unless votes are taken now."""
        if task.state != "PENDING" or task.expired:
            raise WrongState(f"the task is {'EXPIRED' if task.expired else task.state}")
        states = await containment.read_scopes(connection, list(task.basis.epochs))
        epochs = {scope: states[scope].epoch if scope in states else 0 for scope in task.basis.epochs}
        if rose(epochs, task.basis.epochs):
            raise WrongState("a scope of the plan was stopped since; the plan must be decided again")
        return epochs

    async def _count(
        self,
        connection: AsyncConnection,
        caller: Caller,
        task: store.Task,
        ballot: voting.Ballot,
        document: Approval,
    ) -> ledger_pb2.NewEntry:
        """Count under the task's lock, move the task, and return the entry."""
        requirements = task.basis.requirements
        ballots = await store.ballots(connection, task.task_id)
        reached = voting.counts(requirements, ballots, signed=task.basis.signed)
        if not ballot.approved:
            await store.set_state(connection, task.task_id, "REJECTED")
        elif voting.met(task.basis, ballots):
            await store.set_state(connection, task.task_id, "APPROVED", approve_for_ms=task.valid_for_ms)
        data = {
            "task_id": task.task_id,
            "verdict": "approve" if ballot.approved else "reject",
            "approver": caller.subject,
            "role": min(ballot.roles),
            "card_digest": task.card_digest,
            "approval_digest": document.digest,
            "count": min(reached, default=0),
            "need": max(need.need for need in requirements),
            "expire_time_ms": document.expire_time_ms,
            "signed": False,
        }
        sealed: dict[str, Any] = {"approval": document.body.decode()}
        if document.reason is not None:
            sealed["comment"] = document.reason
        return self._entry("approval.recorded", data, task, sealed)

    def _document(self, caller: Caller, task: store.Task, request: VoteRequest, roles: frozenset[str]) -> Approval:
        return build_approval(
            Approval(
                task_id=task.task_id,
                plan_digest=task.plan_digest,
                card_digest=task.card_digest,
                decision_id=task.decision_id,
                approver=person(caller),
                roles=tuple(sorted(roles)),
                verdict=_VERDICT[request.approved],
                reason=request.comment or None,
                expire_time_ms=self.clock() + task.valid_for_ms,
                nonce=self.randomness(16).hex(),
            )
        )

    async def _lock(self, connection: AsyncConnection, task_id: str) -> store.Task:
        task = await store.lock(connection, task_id) if is_id(task_id) else None
        if task is None:
            raise NotFound("no such approval task")
        return task

    async def _refused(self, caller: Caller, method: str, error: ServiceError) -> None:
        """Record that somebody who may not vote tried to."""
        data = {"method": method, "peer": caller.peer, "reason_code": error.reason, "count": 1}
        entry = new_entry(
            "call.refused",
            data,
            event_id=self.new_id(),
            event_time_ms=self.clock(),
            tenant=caller.tenant,
            environment=self.environment,
            request_id=caller.request_id,
            subject=caller.subject,
        )
        async with transaction(self.engine, caller.tenant) as connection:
            await self.outbox.put(connection, entry)
        self.outbox.wake()

    def _entry(self, kind: str, data: dict[str, Any], task: store.Task, sealed: dict[str, Any]) -> ledger_pb2.NewEntry:
        return new_entry(
            kind,
            data,
            event_id=self.new_id(),
            event_time_ms=self.clock(),
            tenant=task.tenant,
            environment=self.environment,
            request_id=task.request_id,
            subject=task.subject,
            agent=task.agent,
            plan_digest=task.plan_digest,
            sealed=sealed,
        )
