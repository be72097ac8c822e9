"""`ApprovalService`: wire forms to values and back."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.api.policy.v1 import approval_pb2 as pb
from counterseal.api.policy.v1 import approval_pb2_grpc
from counterseal.clock import Clock
from counterseal.errors import NotFound, RoleRequired
from counterseal.identity import Caller, current_caller
from counterseal.ids import is_id
from counterseal.rpc import paging
from counterseal_policy.approvals import engine as rules
from counterseal_policy.approvals import store
from counterseal_policy.approvals.booth import Booth, VoteRequest
from counterseal_policy.containment.adoption import plan_tenant
from counterseal_policy.database import EVERY_TENANT, transaction
from counterseal_policy.paging import TASKS, position_of

HEARTBEAT_SECONDS = 10.0
POLL_SECONDS = 1.0
_SERVICE = "/counterseal.api.policy.v1.ApprovalService"


@dataclass(slots=True)
class ApprovalService(approval_pb2_grpc.ApprovalServiceServicer):
    """See the proto. Reading needs any role of the tenant; what a vote needs stands in `engine.check_voter`."""

    engine: AsyncEngine
    booth: Booth
    clock: Clock
    stopping: asyncio.Event

    async def ListApprovals(self, request: pb.ListApprovalsRequest, context: Any) -> pb.ListApprovalsResponse:
        """List the tenant's tasks, newest first."""
        caller = _reader()
        size = paging.size(request.page_size)
        before = position_of(paging.read(request, caller.tenant, TASKS))
        state = None
        if request.state != pb.APPROVAL_STATE_UNSPECIFIED:
            state = pb.ApprovalState.Name(request.state).removeprefix("APPROVAL_STATE_")
        async with transaction(self.engine, caller.tenant) as connection:
            found = await store.listed(connection, caller.tenant, state, before, size + 1)
            shown = await _wire(connection, found[:size])
        token = ""
        if len(found) > size:
            token = paging.make(f"{found[size - 1].create_time_ms} {found[size - 1].task_id}", request, caller.tenant)
        return pb.ListApprovalsResponse(tasks=shown, next_page_token=token)

    async def GetApproval(self, request: pb.GetApprovalRequest, context: Any) -> pb.GetApprovalResponse:
        """Return one task with its card."""
        caller = _reader()
        async with transaction(self.engine, caller.tenant) as connection:
            task = await store.read(connection, request.task_id) if is_id(request.task_id) else None
            if task is None:
                raise NotFound("no such approval task")
            (shown,) = await _wire(connection, [task])
        return pb.GetApprovalResponse(task=shown, decision_card=task.card)

    async def ApproveTask(self, request: pb.ApproveTaskRequest, context: Any) -> pb.ApproveTaskResponse:
        """Vote for."""
        vote = VoteRequest(
            request.task_id, request.plan_digest, request.card_digest, True, request.comment, request.vote_signature
        )
        task = await self.booth.vote(current_caller(), vote, f"{_SERVICE}/ApproveTask")
        return pb.ApproveTaskResponse(task=await self._shown(task))

    async def RejectTask(self, request: pb.RejectTaskRequest, context: Any) -> pb.RejectTaskResponse:
        """Vote against; one refusal ends the task."""
        vote = VoteRequest(request.task_id, request.plan_digest, request.card_digest, False, request.comment)
        task = await self.booth.vote(current_caller(), vote, f"{_SERVICE}/RejectTask")
        return pb.RejectTaskResponse(task=await self._shown(task))

    async def WithdrawVote(self, request: pb.WithdrawVoteRequest, context: Any) -> pb.WithdrawVoteResponse:
        """Take the caller's own vote back, and say until when a decision that rests on it may live."""
        task = await self.booth.withdraw(current_caller(), request.task_id)
        return pb.WithdrawVoteResponse(
            task=await self._shown(task), decision_expire_time=_time(task.decision_expire_ms)
        )

    async def WatchApprovals(
        self, request: pb.WatchApprovalsRequest, context: Any
    ) -> AsyncIterator[pb.WatchApprovalsResponse]:
        """Stream changes as a hint: polled, so that every replica sees them; a heartbeat every ten seconds."""
        caller = current_caller()
        tenant = await self._tenant(caller, request.plan_digest)
        since = self.clock() - 1000
        seen: dict[str, tuple[int, str]] = {}
        quiet = 0.0
        while not self.stopping.is_set():
            async with transaction(self.engine, tenant) as connection:
                changed = await store.changed_since(connection, tenant, since, request.plan_digest)
                fresh = [task for task in changed if seen.get(task.task_id) != (task.update_time_ms, task.state)]
                shown = await _wire(connection, fresh)
            for task, message in zip(fresh, shown, strict=True):
                seen[task.task_id] = (task.update_time_ms, task.state)
                yield pb.WatchApprovalsResponse(task=message)
            # Looked at again for a while: a transaction that began earlier may commit later.
            since = max([since, *(task.update_time_ms - 5000 for task in fresh)])
            quiet = 0.0 if fresh else quiet + POLL_SECONDS
            if quiet >= HEARTBEAT_SECONDS:
                quiet = 0.0
                yield pb.WatchApprovalsResponse()
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self.stopping.wait()
            except TimeoutError:
                continue

    async def _tenant(self, caller: Caller, plan_digest: str) -> str:
        if caller.token is not None:
            return caller.tenant
        async with transaction(self.engine, EVERY_TENANT) as connection:
            found = await plan_tenant(connection, f"plan:{plan_digest}")
        if found is None:
            raise NotFound("no such plan")
        return found

    async def _shown(self, task: store.Task) -> pb.ApprovalTask:
        async with transaction(self.engine, task.tenant) as connection:
            (shown,) = await _wire(connection, [task])
        return shown


def _reader() -> Caller:
    caller = current_caller()
    if not caller.roles:
        raise RoleRequired("needs a role")
    return caller


async def _wire(connection: AsyncConnection, tasks: Sequence[store.Task]) -> list[pb.ApprovalTask]:
    votes = await store.votes(connection, [task.task_id for task in tasks])
    shown = []
    for task in tasks:
        ballots = await store.ballots(connection, task.task_id)
        reached = rules.counts(task.basis.requirements, ballots, signed=task.basis.signed)
        shown.append(_task(task, reached, votes.get(task.task_id, [])))
    return shown


def _task(task: store.Task, reached: Sequence[int], votes: Sequence[store.VoteRow]) -> pb.ApprovalTask:
    state = "EXPIRED" if task.expired else task.state
    return pb.ApprovalTask(
        task_id=task.task_id,
        plan_digest=task.plan_digest,
        card_digest=task.card_digest,
        state=pb.ApprovalState.Value(f"APPROVAL_STATE_{state}"),
        requirements=[
            pb.ApprovalRequirement(need=need.need, roles=need.roles, source=need.source, count=count)
            for need, count in zip(task.basis.requirements, reached, strict=True)
        ],
        votes=[
            pb.Vote(
                approver=vote.approver,
                approved=vote.approved,
                create_time=_time(vote.create_time_ms),
                approval_digest=vote.digest,
            )
            for vote in votes
        ],
        subject=task.subject,
        agent=task.agent,
        create_time=_time(task.create_time_ms),
        decide_by_time=_time(task.decide_by_ms),
        valid_until_time=_time(task.valid_until_ms),
        summary=task.summary,
    )


def _time(milliseconds: int | None) -> Timestamp | None:
    if milliseconds is None:
        return None
    stamp = Timestamp()
    stamp.FromMilliseconds(milliseconds)
    return stamp
