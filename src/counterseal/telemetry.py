"""Logs as JSON lines without secrets, and every metric name of the suite.

A traceback is logged as the exception's type and its frames, never its text: drivers put connection strings, SQL and
values into exception texts, and no filter knows all of their forms. `exception_text = true` is for a developer's own
machine.
"""

import asyncio
import contextlib
import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from opentelemetry import metrics

RPC_COUNT = "counterseal.rpc.server.count"
RPC_DURATION_MS = "counterseal.rpc.server.duration"
"""Labels of both: `method` (full name, from the method table), `code` (gRPC status), `reason` (or empty)."""

ACCESS_LOG = "counterseal.access"
ACCESS_DELAY_SECONDS = 0.05
ACCESS_GROUP = 512

CLEAN = "clean"
"""`extra={CLEAN: fields}`: fields that were checked or made by us and hold no text of others; they are not searched for
secrets, which would be the dearest part of an access-log line."""

_RESERVED = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "asctime",
    "taskName",
    CLEAN,
}
_SECRETS = re.compile(
    r"(?P<jws>eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)"
    r"|(?P<vault>\b(?:hv[sbr]|s|b|r)\.[A-Za-z0-9_-]{20,})"
    r"|(?P<pem>-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z))"
    r"|(?P<url>(?<=://)[^/\s:@]*:[^/\s@]+(?=@))"
    r"|(?P<pair>(?i:(?:password|passwd|secret|secret_id|token|authorization)\"?'?\s*[=:]\s*\"?'?)[^\s\"',;&}]+)",
    re.DOTALL,
)
REDACTED = "[redacted]"


class TelemetryError(Exception):
    """Telemetry cannot be set up as configured; names the key and what is wrong."""


@dataclass(frozen=True, slots=True)
class TracesConfig:
    """Section `[telemetry.traces]`. endpoint: `https://host:port` of an OpenTelemetry collector that gets the spans.

    Off without one; needs the extra `otel`. ca_file: roots that vouch for it. ratio: share of traces that begin here
    and are recorded, 0 to 1; a caller's own decision, in its `traceparent`, goes first.
    """

    endpoint: str = ""
    ca_file: Path | None = None
    ratio: float = 0.01

    def __post_init__(self) -> None:
        """Refuse a collector that anybody on the way could be, and what is no share."""
        if self.endpoint and (not self.endpoint.startswith("https://") or self.ca_file is None):
            raise ValueError("endpoint: must be https, with ca_file")
        if not 0 <= self.ratio <= 1:
            raise ValueError("ratio: must be from 0 to 1")


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """Section `[telemetry]`. log_level: a name of the logging module. exception_text: see the module's docstring.

    otlp_endpoint: `https://host:port` of an OpenTelemetry collector that gets the metrics; needs the extra `otel`.
    otlp_ca_file: roots that vouch for it. otlp_interval_seconds: how often metrics are sent. traces: spans of sampled
    calls.
    """

    log_level: str = "INFO"
    exception_text: bool = False
    otlp_endpoint: str = ""
    otlp_ca_file: Path | None = None
    otlp_interval_seconds: float = 15.0
    traces: TracesConfig = field(default_factory=TracesConfig)

    def __post_init__(self) -> None:
        """Refuse a level that logging does not know, and a collector that anybody on the way could be."""
        if self.log_level not in logging.getLevelNamesMapping():
            raise ValueError(f"log_level: {self.log_level!r} is not a level")
        if self.otlp_endpoint and (not self.otlp_endpoint.startswith("https://") or self.otlp_ca_file is None):
            raise ValueError("otlp_endpoint: must be https, with otlp_ca_file")


def redact(text: str) -> str:
    """Return `text` with everything that has the form of a credential replaced."""
    return _SECRETS.sub(REDACTED, text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the record's extra fields, and `error` with its frames."""

    def __init__(self, fixed: Mapping[str, str], *, exception_text: bool = False) -> None:
        super().__init__()
        self._fixed = dict(fixed)
        self._exception_text = exception_text

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its newline."""
        line: dict[str, Any] = {
            "time_ms": int(record.created * 1000),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
            **self._fixed,
            **record.__dict__.get(CLEAN, {}),
        }
        for key, value in record.__dict__.items():
            if key not in _RESERVED and not key.startswith("_"):
                line[key] = value if isinstance(value, (int, float, bool, type(None))) else redact(str(value))
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = self._error(record.exc_info[1])
        return json.dumps(line, ensure_ascii=True)

    def _error(self, error: BaseException) -> list[dict[str, Any]]:
        chain: list[dict[str, Any]] = []
        current: BaseException | None = error
        while current is not None and len(chain) < 8:
            frames = traceback.extract_tb(current.__traceback__)
            entry: dict[str, Any] = {
                "type": f"{type(current).__module__}.{type(current).__qualname__}",
                "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]],
            }
            if isinstance(current, BaseExceptionGroup):
                entry["errors"] = [self._error(inner) for inner in current.exceptions[:8]]
            if self._exception_text:
                entry["text"] = redact(str(current))
            chain.append(entry)
            current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        return chain


class LinesHandler(logging.Handler):
    """Writes lines to a stream: those of the access log in groups, everything else at once and in its order.

    A write per call costs an empty call an eighth of its time. A group waits at most `ACCESS_DELAY_SECONDS`, and is
    written before any other line and at the end of the process; SIGKILL loses it. Nothing rests on the access log:
    decisions and effects are in the ledger.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._waiting: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record; errors of the stream are reported as logging does."""
        self._waiting.append(record)
        if record.name != ACCESS_LOG or not self._later():
            self._write()

    def flush(self) -> None:
        """Write what waits."""
        with self.lock or contextlib.nullcontext():
            self._write()

    def _later(self) -> bool:
        """Tell whether the group that waits will be written without us: only inside a running loop."""
        if len(self._waiting) > 1:
            return len(self._waiting) < ACCESS_GROUP
        try:
            asyncio.get_running_loop().call_later(ACCESS_DELAY_SECONDS, self.flush)
        except RuntimeError:
            return False
        return True

    def _write(self) -> None:
        # Formatted here and not call by call: in a row it is three times as fast.
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            self._stream.write("".join(f"{self.format(record)}\n" for record in waiting))
            self._stream.flush()
        except Exception:  # noqa: BLE001 (a log that cannot be written must not end the call)
            self.handleError(waiting[-1])


def configure(config: TelemetryConfig, fixed: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Send all logging of this process to one stream as JSON lines; `fixed` fields are in every line."""
    handler = LinesHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(fixed, exception_text=config.exception_text))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # What our lines never print is not looked up (logging's documented optimisations): a third of a line's cost.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root.setLevel(config.log_level)
    # URLs and headers of Vault calls would be in these at DEBUG; SQL parameters in the others.
    for name in ("urllib3", "requests", "hvac", "asyncpg", "sqlalchemy", "alembic", "grpc", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[config.log_level]))


def export_metrics(config: TelemetryConfig, fixed: Mapping[str, str]) -> Callable[[], None]:
    """Send this process's metrics to the collector from now on; return what sends the last ones and ends it.

    Call it before instruments are made. Does nothing without `otlp_endpoint`. A collector that is away costs the
    metrics of that time and nothing else: a thread of its own sends them.
    Raises TelemetryError without the extra `otel` or without the roots.
    """
    if not config.otlp_endpoint or config.otlp_ca_file is None:
        return lambda: None
    try:
        import grpc
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
    except ImportError:
        raise TelemetryError("telemetry.otlp_endpoint: needs the extra `otel`") from None
    try:
        roots = config.otlp_ca_file.read_bytes()
    except OSError as error:
        raise TelemetryError(f"telemetry.otlp_ca_file: {error.strerror}") from None
    exporter = OTLPMetricExporter(config.otlp_endpoint, credentials=grpc.ssl_channel_credentials(roots), timeout=5)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=config.otlp_interval_seconds * 1000)
    names = {"service.name": f"counterseal-{fixed['service']}", "deployment.environment.name": fixed["environment"]}
    provider = MeterProvider([reader], resource=Resource(names))
    metrics.set_meter_provider(provider)
    return lambda: provider.shutdown(timeout_millis=5_000)


class RpcMetrics:
    """The server's two instruments. Without an OpenTelemetry SDK they cost two empty calls."""

    def __init__(self) -> None:
        meter = metrics.get_meter("counterseal")
        self._count = meter.create_counter(RPC_COUNT, unit="1", description="Calls handled, refusals included.")
        self._duration = meter.create_histogram(RPC_DURATION_MS, unit="ms", description="Time from accept to end.")

    def record(self, method: str, code: str, reason: str, duration_ms: float) -> None:
        """Count one call; all three labels are from closed sets."""
        labels = {"method": method, "code": code, "reason": reason}
        self._count.add(1, labels)
        self._duration.record(duration_ms, labels)
