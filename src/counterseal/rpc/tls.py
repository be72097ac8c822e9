"""mTLS: who we are, shown to servers and clients alike, and replaced while running.

Server certificates rotate live. A client channel keeps the certificate it was made with, so `RenewingChannel` opens
a new channel and lets the old one drain, behind one object that stubs can be built on once.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc

from counterseal import trace_context

DRAIN_SECONDS = 300.0
"""How long calls of a replaced channel may go on; streams are opened again by their readers."""

CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_metadata_size", 16_384),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
)
"""What every channel between services is opened with."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate chain, its key and the roots that are trusted, all PEM. expire_time_ms: milliseconds since 1970."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)
    ca_pem: bytes
    expire_time_ms: int = 0

    @classmethod
    def from_files(cls, cert: Path, key: Path, ca: Path) -> "Identity":
        """Read the three files; raises OSError."""
        return cls(cert.read_bytes(), key.read_bytes(), ca.read_bytes())


def server_name(service: str, environment: str) -> str:
    """Return the DNS name in a service's certificate: clients check that, not the URI."""
    return f"{service}.{environment}.internal"


class ServerIdentity:
    """The certificate a server shows; `replace` takes effect for the next handshake."""

    def __init__(self, identity: Identity) -> None:
        self._shown = identity
        self._wanted = identity

    def replace(self, identity: Identity) -> None:
        """Show another certificate from now on; open connections go on."""
        self._wanted = identity

    def credentials(self) -> grpc.ServerCredentials:
        """Return server credentials that demand and verify a client certificate."""
        initial = _configuration(self._shown)
        # None means "no change", which the stubs do not know.
        return grpc.dynamic_ssl_server_credentials(initial, self._next, True)  # type: ignore[arg-type]

    def _next(self) -> "grpc.ServerCertificateConfiguration | None":
        # Called before every handshake, from gRPC's own thread: two reads and an assignment, no lock needed.
        if self._wanted is self._shown:
            return None
        self._shown = self._wanted
        return _configuration(self._shown)


def open_channel(
    address: str, identity: Identity, name: str, interceptors: "Sequence[grpc.aio.ClientInterceptor]" = ()
) -> grpc.aio.Channel:
    """Return a channel to `address` whose server must hold a certificate for the DNS name `name`."""
    credentials = grpc.ssl_channel_credentials(identity.ca_pem, identity.key_pem, identity.cert_pem)
    options = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", name), ("grpc.default_authority", name))
    return grpc.aio.secure_channel(address, credentials, options, interceptors=tuple(interceptors))


class RenewingChannel(grpc.aio.Channel):
    """One channel for a peer's whole life: calls go out on whichever channel is current when they start.

    Every call carries the current trace context. open_traced: opens a channel with the instrumentation's interceptors,
    for sampled unary calls alone and made for the first of them; streams outlive what they are part of, and have no
    span here. share: of calls that no call caused (background work), how many begin a sampled trace.
    """

    def __init__(
        self,
        open_now: Callable[[], grpc.aio.Channel],
        open_traced: Callable[[], grpc.aio.Channel] | None = None,
        share: float = 0.0,
    ) -> None:
        self._open = open_now
        self._open_traced = open_traced
        self._share = share
        self._current = open_now()
        self._traced: grpc.aio.Channel | None = None
        self._draining: set[asyncio.Task[None]] = set()

    def renew(self) -> None:
        """Open a channel with the present certificate; calls under way end on the old one, within the drain."""
        old, self._current = self._current, self._open()
        self._drain(old)
        if self._traced is not None:
            self._drain(self._traced)
            self._traced = None

    async def close(self, grace: float | None = None) -> None:
        """Close the current channel and what still drains."""
        for task in self._draining:
            task.cancel()
        if self._traced is not None:
            await self._traced.close(grace)
        await self._current.close(grace)

    def _drain(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.create_task(channel.close(DRAIN_SECONDS), name="drain-channel")
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the current channel's state."""
        return self._current.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait on the current channel."""
        await self._current.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the current channel is connected."""
        await self._current.channel_ready()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Return a multi-callable that follows renewals."""
        return self._following("unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return a multi-callable that follows renewals."""
        return self._following("unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Return a multi-callable that follows renewals."""
        return self._following("stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Return a multi-callable that follows renewals."""
        return self._following("stream_stream", args, kwargs)

    def _following(self, shape: str, args: Any, kwargs: Any) -> Any:
        made: dict[bool, tuple[grpc.aio.Channel, Any]] = {}

        def multicallable(*, traced: bool) -> Any:
            channel = self._channel(traced=traced)
            known = made.get(traced)
            if known is None or known[0] is not channel:
                known = made[traced] = (channel, getattr(channel, shape)(*args, **kwargs))
            return known[1]

        def send(context: trace_context.TraceContext | None, call_args: Any, call_kwargs: Any) -> Any:
            traced = shape == "unary_unary" and context is not None and context.sampled
            metadata = trace_context.outgoing(call_kwargs.pop("metadata", None))
            return multicallable(traced=traced)(*call_args, metadata=metadata, **call_kwargs)

        def call(*call_args: Any, **call_kwargs: Any) -> Any:
            context = trace_context.current()
            if context is not None or self._open_traced is None:
                return send(context, call_args, call_kwargs)
            context = trace_context.fresh(self._share if shape == "unary_unary" else 0.0)
            begun = trace_context.enter(context)
            try:
                return send(context, call_args, call_kwargs)
            finally:
                trace_context.leave(begun)

        return call

    def _channel(self, *, traced: bool) -> grpc.aio.Channel:
        if not traced or self._open_traced is None:
            return self._current
        if self._traced is None:
            self._traced = self._open_traced()
        return self._traced


def _configuration(identity: Identity) -> "grpc.ServerCertificateConfiguration":
    pair = (identity.key_pem, identity.cert_pem)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=identity.ca_pem)
