"""Calls to the services: one channel per service, tokens exchanged when needed, errors as `ServiceError`.

A call is repeated only when the service did not answer (`UNAVAILABLE`) and the caller says that repeating is safe:
reads, and mutations that carry an idempotency key.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import grpc

from counterseal.client.profile import Profile
from counterseal.identity import TOKEN_METADATA_KEY
from counterseal.rpc.status import from_rpc_error
from counterseal.rpc.tls import RenewingChannel, open_channel, server_name

DEFAULT_SECONDS = 30.0
REPEATS = 4
FIRST_PAUSE_SECONDS = 0.2


class Connection:
    """The channels of one profile. Use it as a context manager, or close it."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._channels: dict[str, tuple[RenewingChannel, int]] = {}

    async def __aenter__(self) -> Self:
        """Return itself; nothing connects before the first call."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close every channel."""
        await self.close()

    async def close(self) -> None:
        """Close every channel."""
        channels, self._channels = self._channels, {}
        for channel, _ in channels.values():
            await channel.close()

    def channel(self, service: str) -> grpc.aio.Channel:
        """Return the channel to a service; it follows the renewal of the certificate files."""
        stamp = self.profile.stamp()
        if service not in self._channels:
            name = server_name(service, self.profile.environment)
            address = self.profile.services[service]
            channel = RenewingChannel(lambda: open_channel(address, self.profile.identity(), name))
            self._channels[service] = (channel, stamp)
        channel, seen = self._channels[service]
        if seen != stamp and stamp:
            channel.renew()
            self._channels[service] = (channel, stamp)
        return channel

    async def call(
        self,
        service: str,
        method: Any,
        request: Any,
        *,
        token: str | None = None,
        seconds: float = DEFAULT_SECONDS,
        repeat: bool = False,
    ) -> Any:
        """Make one unary call and return its answer; raises ServiceError.

        method: a stub's method, made on `channel(service)`. token: the txn-token, where the method wants one.
        repeat: whether the call may be made again after UNAVAILABLE. seconds: for all tries together.
        """
        end = asyncio.get_running_loop().time() + seconds
        for attempt in range(REPEATS if repeat else 1):
            if attempt:
                await asyncio.sleep(FIRST_PAUSE_SECONDS * 2**attempt)
            left = end - asyncio.get_running_loop().time()
            if attempt and left <= 0:
                break
            try:
                return await method(request, timeout=left, metadata=metadata(token))
            except grpc.aio.AioRpcError as error:
                failure = from_rpc_error(error, peer=service)
            if failure.code != "UNAVAILABLE":
                break
        raise failure

    async def stream(
        self, service: str, method: Any, request: Any, *, token: str | None = None, seconds: float | None = None
    ) -> AsyncIterator[Any]:
        """Make one server-streaming call and yield its messages; raises ServiceError."""
        call = method(request, timeout=seconds, metadata=metadata(token))
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, peer=service) from None
        finally:
            call.cancel()


def metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries a token."""
    return ((TOKEN_METADATA_KEY, token),) if token is not None else ()
