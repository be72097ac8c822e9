"""A grpc.aio server with our interceptor, health, reflection and a graceful end.

At the start every registered method must be in the method table: a method that nobody may call, or that was forgotten,
is found before the first call and not by it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from counterseal.rpc.interceptor import EXEMPT, Interceptor
from counterseal.rpc.method_table import MethodRule

Registration = tuple[Callable[[Any, Any], None], Any]
"""(add_XServicer_to_server, servicer)."""

log = logging.getLogger("counterseal.rpc")


class UnlistedMethod(Exception):
    """A registered method is not in the method table."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Section `[server]`. listen: `host:port`, port 0 for a free one.

    drain_seconds: what open calls get at the end. max_connection_age_seconds: bounds how long a connection outlives its
    client's certificate.
    """

    listen: str
    drain_seconds: float = 10.0
    max_connection_age_seconds: int = 600
    max_unary_seconds: float = 60.0


class Server:
    """A server's life: made, started, drained. `port` is the bound port."""

    def __init__(
        self,
        config: ServerConfig,
        interceptor: Interceptor,
        credentials: grpc.ServerCredentials,
        registrations: Sequence[Registration],
        rules: Mapping[str, MethodRule],
    ) -> None:
        self._config = config
        self._server = grpc.aio.server(interceptors=[interceptor], options=_options(config))
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined] # not in the stubs
        recorder: Any = _Recorder(self._server)
        for add, servicer in registrations:
            add(servicer, recorder)
        self.methods = frozenset(recorder.methods)
        unlisted = sorted(self.methods - rules.keys())
        if unlisted:
            raise UnlistedMethod(", ".join(unlisted))
        self._services = sorted({method.split("/")[1] for method in self.methods})
        health_pb2_grpc.add_HealthServicer_to_server(self._health, recorder)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, recorder)
        self.port = self._server.add_secure_port(config.listen, credentials)

    async def start(self) -> None:
        """Serve, and say so."""
        await self._server.start()
        for service in ("", *self._services):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def unfit(self) -> None:
        """Say NOT_SERVING, and go on answering: calls are told why."""
        for service in ("", *self._services):
            await self._health.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self, stopping: asyncio.Event) -> None:
        """Say NOT_SERVING, let streams end by `stopping`, then give open calls the drain time."""
        await self._health.enter_graceful_shutdown()
        stopping.set()
        await self._server.stop(self._config.drain_seconds)


class _Recorder:
    """Passes registrations on and keeps the full names of the methods.

    Generated code names each method twice, and only the service's handlers are passed on: for each method that is
    registered by itself grpc.aio waits by itself, anew for every call, which cost each call of a service with thirty
    methods a tenth of its CPU.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self.methods: set[str] = set()

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        self._server.add_generic_rpc_handlers(tuple(handlers))

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.methods |= {f"/{service}/{name}" for name in handlers} - EXEMPT


def _options(config: ServerConfig) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.max_connection_age_ms", config.max_connection_age_seconds * 1000),
        ("grpc.max_connection_age_grace_ms", 60_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_metadata_size", 16_384),
        # Two processes on one port would each get half of the calls: better to fail at the start.
        ("grpc.so_reuseport", 0),
    )
