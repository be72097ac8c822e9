"""`ContainmentService`: trip, lift, list, watch."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.api.common.v1 import containment_pb2 as common
from counterseal.api.policy.v1 import containment_pb2 as pb
from counterseal.api.policy.v1 import containment_pb2_grpc
from counterseal.clock import Clock
from counterseal.errors import InputInvalid, RoleRequired
from counterseal.identity import Caller, current_caller
from counterseal.ids import IdSource
from counterseal.rpc.ledger_wire import new_entry
from counterseal.rpc.outbox import Outbox
from counterseal_policy import second_person
from counterseal_policy.containment import store
from counterseal_policy.containment.adoption import plan_tenant
from counterseal_policy.containment.board import Board
from counterseal_policy.containment.engine import SYSTEM, State, owner
from counterseal_policy.containment.peers import Peers
from counterseal_policy.database import EVERY_TENANT, lock_barrier, transaction

HEARTBEAT_SECONDS = 1.0
MAX_WAIT_SECONDS = 30.0
_MARGIN_SECONDS = 0.5
_REASON = re.compile(r"[A-Z][A-Z0-9_]{2,63}")
MAX_NOTE = 4000


@dataclass(slots=True)
class ContainmentService(containment_pb2_grpc.ContainmentServiceServicer):
    """See the proto. The roles may trip and lift; an operator's certificate may trip anything without a token."""

    engine: AsyncEngine
    outbox: Outbox
    board: Board
    peers: Peers
    environment: str
    operator_roles: tuple[str, ...]
    platform_operator_roles: tuple[str, ...]
    clock: Clock
    new_id: IdSource
    stopping: asyncio.Event

    async def TripContainment(self, request: pb.TripContainmentRequest, context: Any) -> pb.TripContainmentResponse:
        """Raise the scope's epoch durably, then have executor and credentials act on it."""
        caller = current_caller()
        if not _REASON.fullmatch(request.reason_code):
            raise InputInvalid("reason_code must be capitals, digits and _, 3 to 64 characters")
        if len(request.note) > MAX_NOTE:
            raise InputInvalid(f"note is longer than {MAX_NOTE} characters")
        event_id = self.new_id()
        async with transaction(self.engine, EVERY_TENANT) as connection:
            tenant = owner(request.scope, self.environment, await self._plan_tenant(connection, request.scope))
            self._may(caller, tenant)
            await lock_barrier(connection, exclusive=True)
            state = await store.trip(connection, request.scope, tenant, request.reason_code)
            await self.outbox.put(connection, self._tripped(caller, event_id, state, request.note))
        self.board.take([state])
        self.outbox.wake()
        remaining = context.time_remaining()
        seconds = min(MAX_WAIT_SECONDS, MAX_WAIT_SECONDS if remaining is None else remaining - _MARGIN_SECONDS)
        moments = await self.peers.stop(state.scope, state.epoch, state.reason_code, max(seconds, 0.1))
        return pb.TripContainmentResponse(
            state=to_wire(state),
            stopped_time=_time(moments.stopped_time_ms),
            revoked_time=_time(moments.revoked_time_ms),
            quiesced_time=_time(moments.quiesced_time_ms),
            revoked_count=moments.revoked_count,
            credential_count=moments.credential_count,
            open_intent_count=moments.open_intent_count,
            problems=moments.problems,
        )

    async def LiftContainment(self, request: pb.LiftContainmentRequest, context: Any) -> pb.LiftContainmentResponse:
        """End a stop: two people, who name the epoch that they end."""
        caller = current_caller()
        if len(request.note) > MAX_NOTE:
            raise InputInvalid(f"note is longer than {MAX_NOTE} characters")
        content = {"method": "LiftContainment", "scope": request.scope, "epoch": request.epoch}
        async with transaction(self.engine, EVERY_TENANT) as connection:
            tenant = owner(request.scope, self.environment, await self._plan_tenant(connection, request.scope))
            self._may(caller, tenant, lifting=True)
            await lock_barrier(connection, exclusive=True)
            await store.check_liftable(connection, request.scope, tenant, request.epoch)
            asked = await second_person.confirm(connection, caller, content, request.second_person.request_digest)
            if isinstance(asked, second_person.Waiting):
                return pb.LiftContainmentResponse(second_person=second_wire(asked))
            state = await store.lift(connection, request.scope, request.epoch)
            await self.outbox.put(connection, self._lifted(caller, asked.first, state, request.note))
        self.board.take([state])
        self.outbox.wake()
        return pb.LiftContainmentResponse(state=to_wire(state))

    async def ListContainments(self, request: pb.ListContainmentsRequest, context: Any) -> pb.ListContainmentsResponse:
        """List the scopes of the caller's tenant and of the environment; an operator's certificate sees all."""
        caller = current_caller()
        await self.board.refresh()
        mine = {caller.tenant, SYSTEM}
        everything = caller.token is None
        states = [state for state in self.board.states.values() if everything or state.tenant in mine]
        return pb.ListContainmentsResponse(states=[to_wire(state) for state in sorted(states, key=lambda s: s.scope)])

    async def WatchContainment(
        self, request: pb.WatchContainmentRequest, context: Any
    ) -> AsyncIterator[pb.WatchContainmentResponse]:
        """Stream the full state, then changes, with a heartbeat every second while our own view is fresh."""
        sent: dict[str, State] = {}
        full = True
        while not self.stopping.is_set():
            version = self.board.version
            if self.board.fresh:
                changed = [state for state in self.board.states.values() if sent.get(state.scope) != state]
                sent.update({state.scope: state for state in changed})
                now = Timestamp()
                now.FromMilliseconds(self.clock())
                yield pb.WatchContainmentResponse(
                    states=[to_wire(state) for state in changed], full=full, send_time=now
                )
                full = False
            await self.board.wait(version, HEARTBEAT_SECONDS)

    async def _plan_tenant(self, connection: AsyncConnection, scope: str) -> str | None:
        caller = current_caller()
        return await plan_tenant(connection, scope, None if caller.token is None else caller.tenant)

    def _may(self, caller: Caller, tenant: str, *, lifting: bool = False) -> None:
        if caller.token is None:  # an operator's certificate; the method table lets no other peer come without a token
            if lifting:
                raise RoleRequired("lifting needs a person's token")
            return
        if tenant not in (caller.tenant, SYSTEM):
            raise InputInvalid("that scope is not one of your tenant's")
        roles = self.platform_operator_roles if tenant == SYSTEM else self.operator_roles
        if not caller.roles & set(roles):
            raise RoleRequired(f"needs one of the roles {', '.join(roles)}")

    def _tripped(self, caller: Caller, event_id: str, state: State, note: str) -> Any:
        data = {
            "scope": state.scope,
            "epoch": state.epoch,
            "reason_code": state.reason_code,
            "tripped_by": caller.subject or "operator",
            "drill": False,
        }
        return self._entry("containment.tripped", data, event_id, state, note)

    def _lifted(self, caller: Caller, first: str, state: State, note: str) -> Any:
        data = {"scope": state.scope, "epoch": state.epoch, "lifted_by": [first, caller.subject]}
        return self._entry("containment.lifted", data, self.new_id(), state, note)

    def _entry(self, kind: str, data: dict[str, Any], event_id: str, state: State, note: str) -> Any:
        return new_entry(
            kind,
            data,
            event_id=event_id,
            event_time_ms=self.clock(),
            tenant=state.tenant,
            environment=self.environment,
            sealed={"note": note} if note else {},
        )


def to_wire(state: State) -> common.ContainmentState:
    """Return a state as the contract has it."""
    return common.ContainmentState(
        scope=state.scope,
        epoch=state.epoch,
        stopped=state.stopped,
        reason_code=state.reason_code,
        update_time=_time(state.update_time_ms),
    )


def _time(milliseconds: int | None) -> Timestamp | None:
    if milliseconds is None:
        return None
    stamp = Timestamp()
    stamp.FromMilliseconds(milliseconds)
    return stamp


def second_wire(asked: second_person.Waiting) -> common.SecondPerson:
    """Return a waiting request as the contract has it."""
    return common.SecondPerson(request_digest=asked.request_digest, expire_time=_time(asked.expire_time_ms))
