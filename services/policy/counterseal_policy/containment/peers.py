"""Executor and credentials, as the kill switch sees them: stop now, and what were you told without me."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from counterseal.api.common.v1 import containment_pb2
from counterseal.api.credentials.v1 import grant_admin_pb2, grant_admin_pb2_grpc
from counterseal.api.executor.v1 import operator_pb2, operator_pb2_grpc
from counterseal.errors import ServiceError
from counterseal.rpc.status import from_rpc_error

BARRIER_TIMEOUT_SECONDS = 5.0


@dataclass(slots=True)
class Moments:
    """What a trip has reached: Unix milliseconds, None for not yet; and what could not be reached, in words."""

    stopped_time_ms: int | None = None
    revoked_time_ms: int | None = None
    quiesced_time_ms: int | None = None
    revoked_count: int = 0
    credential_count: int = 0
    open_intent_count: int = 0
    problems: list[str] = field(default_factory=list)


class Peers:
    """Calls both services at once; neither waits for the other."""

    def __init__(self, executor: grpc.aio.Channel, credentials: grpc.aio.Channel) -> None:
        self._executor = operator_pb2_grpc.OperatorServiceStub(executor)
        self._credentials = grant_admin_pb2_grpc.GrantAdminServiceStub(credentials)

    async def stop(self, scope: str, epoch: int, reason_code: str, seconds: float) -> Moments:
        """Halt and revoke a scope, waiting up to `seconds` for all three moments. Never raises: problems are told."""
        moments = Moments()
        await asyncio.gather(
            self._halt(scope, epoch, reason_code, seconds, moments),
            self._revoke(scope, epoch, reason_code, seconds, moments),
        )
        return moments

    async def barrier(self, peer: str) -> Sequence[containment_pb2.ContainmentState]:
        """Return every scope that a service was told about. Raises ServiceError when it does not answer."""
        try:
            if peer == "executor":
                told = await self._executor.GetBarrier(
                    operator_pb2.GetBarrierRequest(), timeout=BARRIER_TIMEOUT_SECONDS
                )
                return list(told.states)
            known = await self._credentials.GetBarrier(
                grant_admin_pb2.GetBarrierRequest(), timeout=BARRIER_TIMEOUT_SECONDS
            )
            return list(known.states)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, peer=peer) from None

    async def _halt(self, scope: str, epoch: int, reason_code: str, seconds: float, moments: Moments) -> None:
        request = operator_pb2.HaltScopeRequest(scope=scope, epoch=epoch, reason_code=reason_code)
        try:
            answer = await self._executor.HaltScope(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            moments.problems.append(_problem("executor", error))
            return
        moments.open_intent_count = answer.open_intent_count
        if answer.HasField("stopped_time"):
            moments.stopped_time_ms = answer.stopped_time.ToMilliseconds()
        if answer.HasField("quiesced_time"):
            moments.quiesced_time_ms = answer.quiesced_time.ToMilliseconds()

    async def _revoke(self, scope: str, epoch: int, reason_code: str, seconds: float, moments: Moments) -> None:
        request = grant_admin_pb2.RevokeScopeRequest(scope=scope, epoch=epoch, reason_code=reason_code)
        try:
            answer = await self._credentials.RevokeScope(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            moments.problems.append(_problem("credentials", error))
            return
        moments.credential_count, moments.revoked_count = answer.credential_count, answer.revoked_count
        if answer.HasField("revoked_time"):
            moments.revoked_time_ms = answer.revoked_time.ToMilliseconds()


def _problem(peer: str, error: grpc.aio.AioRpcError) -> str:
    mapped: ServiceError = from_rpc_error(error, peer=peer)
    return f"{peer}: {mapped.reason}: {mapped.message} (next: {mapped.next_action})"
