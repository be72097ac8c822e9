"""What we put in the places that OpenTelemetry's SDK leaves open. Needs the extra `otel`; `rpc.tracing` loads it."""

from collections.abc import Collection, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, Setter, default_getter, default_setter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanContext, Status
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from counterseal import trace_context


class DecidedIds(RandomIdGenerator):
    """A new trace has the id by which it was sampled, and which log lines and entries name."""

    def generate_trace_id(self) -> int:
        """Return the current context's trace id, else a random one."""
        context = trace_context.current()
        return int(context.trace_id, 16) if context is not None else int(super().generate_trace_id())


class TraceparentOnly(TraceContextTextMapPropagator):
    """Reads and writes `traceparent`: no trace state, no baggage."""

    def extract(self, carrier: Any, context: Context | None = None, getter: Getter[Any] = default_getter) -> Context:
        """Return a context with the remote parent, if the carrier names one."""
        found = getter.get(carrier, trace_context.METADATA_KEY)
        return super().extract({trace_context.METADATA_KEY: found} if found else {}, context)

    def inject(self, carrier: Any, context: Context | None = None, setter: Setter[Any] = default_setter) -> None:
        """Write the current span's context into the carrier."""
        made: dict[str, str] = {}
        super().inject(made, context)
        if trace_context.METADATA_KEY in made:
            setter.set(carrier, trace_context.METADATA_KEY, made[trace_context.METADATA_KEY])


class AllowedOnly(SpanExporter):
    """Exports of every span its name, times, ids, kind, status code and the allowed attributes, and nothing else."""

    def __init__(self, inner: SpanExporter, allowed: Collection[str]) -> None:
        self._inner = inner
        self._allowed = frozenset(allowed)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Pass the spans on, each made anew of what is allowed."""
        return self._inner.export([self._copy(span) for span in spans])

    def shutdown(self) -> None:
        """End the inner exporter."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the inner exporter."""
        return bool(self._inner.force_flush(timeout_millis))

    def _copy(self, span: ReadableSpan) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=_bare(span.context),
            parent=_bare(span.parent),
            resource=span.resource,
            attributes={key: value for key, value in (span.attributes or {}).items() if key in self._allowed},
            kind=span.kind,
            status=Status(span.status.status_code),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )


def _bare(context: SpanContext | None) -> SpanContext | None:
    return context and SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)
