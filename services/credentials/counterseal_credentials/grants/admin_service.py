"""gRPC edge for operators, reviews and policy's kill switch."""

import re
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.api.common.v1 import containment_pb2
from counterseal.api.credentials.v1 import grant_admin_pb2, grant_admin_pb2_grpc
from counterseal.errors import InputInvalid, RoleRequired
from counterseal.identity import current_caller
from counterseal.rpc import paging
from counterseal_credentials.containment.engine import ScopeState
from counterseal_credentials.containment.kill import Barrier
from counterseal_credentials.database import transaction
from counterseal_credentials.grants import convert, store
from counterseal_credentials.grants.service import seconds_left

DEFAULT_PAGE, MAX_PAGE = 50, 200
REVIEWERS = frozenset({"operator", "auditor"})
_REASON = re.compile(r"[A-Z][A-Z0-9_]{2,63}")


class GrantAdminService(grant_admin_pb2_grpc.GrantAdminServiceServicer):
    """See `grant_admin.proto`."""

    def __init__(self, engine: AsyncEngine, barrier: Barrier) -> None:
        self._engine = engine
        self._barrier = barrier

    async def ListGrants(  # noqa: N802
        self, request: grant_admin_pb2.ListGrantsRequest, context: Any
    ) -> grant_admin_pb2.ListGrantsResponse:
        """List the tenant's grants, newest first."""
        del context
        caller = current_caller()
        if not REVIEWERS & caller.roles:
            raise RoleRequired("listing grants needs the role operator or auditor")
        before = paging.read(request, caller.tenant)
        size = paging.size(request.page_size, DEFAULT_PAGE, MAX_PAGE)
        state = convert.state_name(request.state)
        async with transaction(self._engine, caller.tenant) as connection:
            found = await store.newest(connection, caller.tenant, state, before, size + 1)
        answer = grant_admin_pb2.ListGrantsResponse(grants=[convert.listed(grant) for grant in found[:size]])
        if len(found) > size:
            answer.next_page_token = paging.make(found[size - 1].grant_id, request, caller.tenant)
        return answer

    async def RevokeScope(  # noqa: N802
        self, request: grant_admin_pb2.RevokeScopeRequest, context: Any
    ) -> grant_admin_pb2.RevokeScopeResponse:
        """Stop a scope and revoke what is in it."""
        if not _REASON.fullmatch(request.reason_code):
            raise InputInvalid("reason_code must be a reason code", field="reason_code")
        if request.epoch < 0:
            raise InputInvalid("epoch must not be negative", field="epoch")
        state = await self._barrier.stop(ScopeState(request.scope, request.epoch, True, request.reason_code))
        done = await self._barrier.progress(state, seconds_left(context))
        answer = grant_admin_pb2.RevokeScopeResponse(
            state=state_message(state), credential_count=done.credential_count, revoked_count=done.revoked_count
        )
        if done.revoked_epoch >= state.epoch:
            answer.revoked_time.FromMilliseconds(done.revoked_time_ms)
        return answer

    async def GetBarrier(  # noqa: N802
        self, request: grant_admin_pb2.GetBarrierRequest, context: Any
    ) -> grant_admin_pb2.GetBarrierResponse:
        """Return every scope that was ever told."""
        del request, context
        states = await self._barrier.everything()
        return grant_admin_pb2.GetBarrierResponse(states=[state_message(state) for state in states])


def state_message(state: ScopeState) -> containment_pb2.ContainmentState:
    """Return the proto of a state."""
    message = containment_pb2.ContainmentState(
        scope=state.scope, epoch=state.epoch, stopped=state.stopped, reason_code=state.reason_code
    )
    message.update_time.FromMilliseconds(state.update_time_ms)
    return message
