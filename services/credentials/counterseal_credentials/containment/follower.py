"""Follows policy's containment stream. Older than five seconds: nothing above reading is lent (`Freshness`)."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc

from counterseal.api.policy.v1 import containment_pb2, containment_pb2_grpc
from counterseal.clock import monotonic_ms
from counterseal.errors import InputInvalid
from counterseal_credentials.containment.engine import ScopeState
from counterseal_credentials.containment.kill import Barrier

RETRY_SECONDS = 0.5

log = logging.getLogger("counterseal.credentials.containment")


class Freshness:
    """When policy's stream last spoke, on the monotonic clock. Never heard is stale."""

    def __init__(self, stale_seconds: float, monotonic: Callable[[], int] = monotonic_ms) -> None:
        self._stale_ms = int(stale_seconds * 1000)
        self._monotonic = monotonic
        self._heard: int | None = None

    def heard(self) -> None:
        """Note that the stream spoke."""
        self._heard = self._monotonic()

    def __call__(self) -> bool:
        """Tell whether the stream is young enough."""
        return self._heard is not None and self._monotonic() - self._heard < self._stale_ms


async def follow(channel: grpc.aio.Channel, barrier: Barrier, freshness: Freshness, stopping: asyncio.Event) -> None:
    """Adopt what the stream says until `stopping` is set; opens it again whenever it ends."""
    stub = containment_pb2_grpc.ContainmentServiceStub(channel)
    while not stopping.is_set():
        try:
            call: Any = stub.WatchContainment(containment_pb2.WatchContainmentRequest())
            async for message in call:
                for state in message.states:
                    await _adopt(barrier, state)
                # After the states: fresh means adopted, not merely received.
                freshness.heard()
                if stopping.is_set():
                    call.cancel()
                    return
        except grpc.aio.AioRpcError as error:
            log.info("the containment stream ended", extra={"code": error.code().name})
        await asyncio.sleep(RETRY_SECONDS)


async def _adopt(barrier: Barrier, state: Any) -> None:
    try:
        await barrier.adopt(ScopeState(state.scope, state.epoch, state.stopped, state.reason_code))
    except InputInvalid:
        log.exception("policy streams a scope of an unknown form", extra={"scope": state.scope[:64]})
