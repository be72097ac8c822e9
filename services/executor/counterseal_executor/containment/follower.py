"""Following policy's containment stream: full state first, then changes, a heartbeat every second."""

import asyncio
import contextlib
import logging
from typing import Any

import grpc

from counterseal.api.common.v1 import containment_pb2
from counterseal.api.policy.v1 import containment_pb2 as watch_pb2
from counterseal.api.policy.v1 import containment_pb2_grpc
from counterseal_executor.containment.barrier import Barrier
from counterseal_executor.containment.engine import ScopeState

RETRY_SECONDS = 0.5
SILENCE_SECONDS = 5.0

log = logging.getLogger(__name__)


async def follow(channel: grpc.aio.Channel, barrier: Barrier, stopping: asyncio.Event) -> None:
    """Keep the stream open until `stopping`; whatever happens to it, the barrier's freshness tells."""
    stub = containment_pb2_grpc.ContainmentServiceStub(channel)
    while not stopping.is_set():
        call = stub.WatchContainment(watch_pb2.WatchContainmentRequest())
        messages = aiter(call)
        closer = asyncio.create_task(_end(call, stopping))
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    message = await anext(messages, None)
                if message is None:
                    break
                for state in message.states:
                    await barrier.adopt(state_of(state))
                await barrier.heard()
        except (grpc.aio.AioRpcError, TimeoutError):
            log.info("the containment stream broke off; reconnecting")
        except asyncio.CancelledError:
            if not stopping.is_set():  # not by `_end`: the task itself is cancelled
                raise
        finally:
            closer.cancel()
            call.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SECONDS):
                await stopping.wait()


async def _end(call: Any, stopping: asyncio.Event) -> None:
    await stopping.wait()
    call.cancel()


def state_of(message: containment_pb2.ContainmentState) -> ScopeState:
    """Return a state as it travels."""
    return ScopeState(message.scope, message.epoch, message.stopped, message.reason_code)


def state_message(state: ScopeState) -> containment_pb2.ContainmentState:
    """Return a state for the wire."""
    message = containment_pb2.ContainmentState(
        scope=state.scope, epoch=state.epoch, stopped=state.stopped, reason_code=state.reason_code
    )
    message.update_time.FromMilliseconds(state.update_ms)
    return message
