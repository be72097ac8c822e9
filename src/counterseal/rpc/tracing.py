"""Spans of sampled calls. The decision comes first, and only then does OpenTelemetry's instrumentation see the call.

The instrumentation builds a span before its sampler says no, which halves an empty call's throughput at any ratio. So
whoever holds a `Tracing` asks `trace_context` whether a call is sampled, and calls in here only if it is.

What leaves the process is an allow-list: the instrumentation records texts of exceptions with their causes, details of
statuses and addresses of peers, and a later release may record more.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from counterseal import trace_context
from counterseal.config import ConfigError
from counterseal.telemetry import TracesConfig
from counterseal.trace_context import TraceContext

CODE, REASON, REQUEST_ID = "counterseal.code", "counterseal.reason", "counterseal.request_id"
ENVIRONMENT = "deployment.environment.name"
ATTRIBUTES = frozenset(
    {"rpc.system", "rpc.service", "rpc.method", "rpc.grpc.status_code", CODE, REASON, REQUEST_ID, ENVIRONMENT}
)
"""All that a span may say. Its events, links, trace state and the text of its status are never exported."""

FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that make a server's span an error, by OpenTelemetry's conventions for gRPC: refusals are answers."""

EXPORT_SECONDS = 5

Behavior = Callable[[Any, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Tracing:
    """The instrumentation of one process. ratio: share of new traces that are sampled, 0 to 1.

    server: the instrumentation's server interceptor. client: its interceptors for channels of sampled unary calls.
    close: sends what waits, for some seconds, and ends the export.
    """

    environment: str
    ratio: float
    server: Any
    client: Sequence[Any]
    close: Callable[[], None]

    async def instrument(self, behavior: Behavior, details: Any) -> Behavior:
        """Return `behavior`, which handles one sampled call of any shape, inside a span of its own.

        behavior: a coroutine function that writes the messages of a response stream to its context itself. So it is
        shown to the instrumentation as unary, which would iterate over what a response stream's handler returns.
        """

        async def inside(request: Any, context: Any) -> Any:
            self._enter_span()
            return await behavior(request, context)

        async def handler(_: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(inside)

        traced = await self.server.intercept_service(handler, details)
        return traced.unary_unary  # type: ignore[no-any-return] # untyped in the library

    def describe(self, code: str, reason: str, request_id: str) -> None:
        """Say in the current span how its call ended.

        The instrumentation sees an abort only; it does not see a cancellation, a deadline or what ends a stream.
        """
        from opentelemetry import trace

        span = trace.get_current_span()
        span.set_attributes(
            {
                "rpc.grpc.status_code": grpc.StatusCode[code].value[0],
                CODE: code,
                REASON: reason,
                REQUEST_ID: request_id,
                ENVIRONMENT: self.environment,
            }
        )
        if code in FAULTS:
            span.set_status(trace.StatusCode.ERROR)

    @staticmethod
    def _enter_span() -> None:
        from opentelemetry import trace

        span = trace.get_current_span().get_span_context()
        trace_context.enter(TraceContext(f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"))


def start_tracing(config: TracesConfig, fixed: Mapping[str, str]) -> Tracing | None:
    """Send spans to the collector from now on, from a thread of its own; None without an endpoint.

    fixed: `service` and `environment`. A collector that is away costs the spans of that time and nothing else.
    Raises ConfigError without the extra `otel` or without the roots.
    """
    if not config.endpoint or config.ca_file is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ConfigError(["telemetry.traces.endpoint: needs the extra counterseal[otel]"]) from None
    try:
        roots = config.ca_file.read_bytes()
    except OSError as error:
        raise ConfigError([f"telemetry.traces.ca_file: {error.strerror}"]) from None
    credentials = grpc.ssl_channel_credentials(roots)
    exporter = OTLPSpanExporter(config.endpoint, credentials=credentials, timeout=EXPORT_SECONDS)
    return tracing_over(exporter, fixed, config.ratio)


def tracing_over(exporter: Any, fixed: Mapping[str, str], ratio: float) -> Tracing:
    """Return the tracing that sends to an OpenTelemetry `SpanExporter`. Raises ConfigError without the extra `otel`."""
    try:
        from opentelemetry import propagate
        from opentelemetry.instrumentation.grpc import aio_client_interceptors, aio_server_interceptor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        from counterseal.rpc.tracing_otel import AllowedOnly, DecidedIds, TraceparentOnly
    except ImportError:
        raise ConfigError(["telemetry.traces.endpoint: needs the extra counterseal[otel]"]) from None
    names = {"service.name": f"counterseal-{fixed['service']}", ENVIRONMENT: fixed["environment"]}
    # ALWAYS_ON: whatever the instrumentation sees was sampled before.
    provider = TracerProvider(ALWAYS_ON, Resource(names), shutdown_on_exit=False, id_generator=DecidedIds())
    provider.add_span_processor(BatchSpanProcessor(AllowedOnly(exporter, ATTRIBUTES)))
    # The instrumentation has no other place to say it. Baggage and trace state are texts of others.
    propagate.set_global_textmap(TraceparentOnly())
    server: Any = aio_server_interceptor(provider)  # type: ignore[no-untyped-call]
    client: Any = aio_client_interceptors(provider)  # type: ignore[no-untyped-call]
    unary = [one for one in client if isinstance(one, grpc.aio.UnaryUnaryClientInterceptor)]
    return Tracing(fixed["environment"], ratio, server, unary, provider.shutdown)
