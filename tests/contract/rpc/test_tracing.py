"""Spans of sampled calls at a real collector: one trace over two services, and not a word beyond the allowed ones."""

import asyncio
import io
import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from counterseal import telemetry, trace_context
from counterseal.api.audit.v1.ledger_pb2 import NewEntry
from counterseal.clock import system_clock
from counterseal.config import ConfigError
from counterseal.embedded import selfsigned
from counterseal.errors import NotFound
from counterseal.identity import current_caller
from counterseal.rpc.ledger_wire import caller_texts, new_entry
from counterseal.rpc.status import from_rpc_error
from counterseal.rpc.tls import RenewingChannel, open_channel
from counterseal.rpc.tracing import ATTRIBUTES, Tracing, start_tracing
from counterseal.telemetry import TracesConfig
from support import shapes
from support.requirements import requirement
from support.shapes import NAME, SERVICE, SHAPES, Shapes

SECRET = "hunter2-planted-secret"
TRACE, SPAN = "ab" * 16, "cd" * 8
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
SERVER, CLIENT, ERROR = 2, 3, 2
"""Numbers of OTLP's enums: span kinds and status code."""


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.requests: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 (the method of the proto)
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self) -> list[Any]:
        """Every span, in the order of their starts."""
        found = [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return sorted(found, key=lambda span: int(span.start_time_unix_nano))

    def everything(self) -> bytes:
        return b"".join(request.SerializeToString() for request in self.requests)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[tuple[Collector, TracesConfig]]:
    files = selfsigned.ensure(tmp_path, "collector", system_clock)
    credentials = grpc.ssl_server_credentials([(files.key.read_bytes(), files.certificate.read_bytes())])
    server, service = grpc.server(futures.ThreadPoolExecutor(2)), Collector()
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(service, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield service, TracesConfig(f"https://localhost:{port}", files.certificate, ratio=0)
    server.stop(None).wait()


@dataclass
class Pair:
    """A front service whose handlers call a back service, as services do: through their runtime's kind of channel."""

    front: Shapes
    back: Shapes
    channel: RenewingChannel
    tracings: list[Tracing]
    seen: list[tuple[str, str]] = field(default_factory=list)

    async def call(self, shape: str = "UnaryUnary", trace: str | None = None, stream: str = "", **more: Any) -> Any:
        metadata = (("traceparent", trace),) if trace else ()
        metadata += more.pop("metadata", ())
        request = NewEntry(stream=stream)
        front = self.front
        return await front.call(shape, front.identity(), front.token(), request, metadata=metadata, **more)

    async def flush(self) -> None:
        """Drain as a service does: a client may have its answer a moment before the server's span has its end."""
        for served in (self.front, self.back):
            await served.server.stop(served.stopping)
        for tracing in self.tracings:
            await asyncio.get_running_loop().run_in_executor(None, tracing.close)


def note(pair: Pair, service: str) -> None:
    context = trace_context.current()
    assert context is not None
    pair.seen.append((service, context.traceparent))


Start = Callable[..., Awaitable[Pair]]


@pytest.fixture
async def start(collector: tuple[Collector, TracesConfig]) -> AsyncIterator[Start]:
    made: list[Pair] = []

    async def start(ratio: float = 0.0) -> Pair:
        config = TracesConfig(collector[1].endpoint, collector[1].ca_file, ratio)
        tracings = [start_tracing(config, {"service": name, "environment": "prod"}) for name in ("executor", "policy")]
        near, far = tracings
        assert near is not None
        assert far is not None

        async def behind(request: NewEntry) -> None:
            note(pair, "back")
            if request.stream == "refuse":
                raise NotFound(SECRET + request.step)

        async def before(request: NewEntry) -> None:
            note(pair, "front")
            if request.stream == "fail":
                try:
                    raise ValueError(SECRET)
                except ValueError as error:
                    raise RuntimeError(SECRET) from error
            if request.stream == "hang":
                await asyncio.Event().wait()
            method = pair.channel.unary_unary(f"/{SERVICE}/UnaryUnary", NewEntry.SerializeToString, NewEntry.FromString)
            await method(NewEntry(stream=request.stream), timeout=5, metadata=(("txn-token", pair.back.token()),))

        back = await shapes.start(behind, tracing=far)
        front = await shapes.start(before, tracing=near)
        identity = back.identity("svc/executor")

        def open_now(interceptors: Any = ()) -> grpc.aio.Channel:
            return open_channel(f"127.0.0.1:{back.server.port}", identity, NAME, interceptors)

        channel = RenewingChannel(open_now, lambda: open_now(near.client), near.ratio)
        pair = Pair(front, back, channel, [near, far])
        made.append(pair)
        return pair

    yield start
    for pair in made:
        await pair.channel.close()
        await pair.flush()


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


async def test_a_sampled_call_is_one_trace_over_both_services(
    start: Start, collector: tuple[Collector, TracesConfig]
) -> None:
    pair = await start()
    await pair.call(trace=SAMPLED)
    await pair.flush()
    spans = collector[0].spans()
    assert [span.kind for span in spans] == [SERVER, CLIENT, SERVER]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert [span.parent_span_id.hex() for span in spans] == [SPAN, spans[0].span_id.hex(), spans[1].span_id.hex()]
    assert attributes(spans[2]) == {
        "rpc.system": "grpc",
        "rpc.service": SERVICE,
        "rpc.method": "UnaryUnary",
        "rpc.grpc.status_code": 0,
        "counterseal.code": "OK",
        "counterseal.reason": "",
        "counterseal.request_id": "r-1",
        "deployment.environment.name": "prod",
    }
    assert [service for service, _ in pair.seen] == ["front", "back"]


async def test_an_unsampled_call_has_no_span_and_its_context_goes_on_unchanged(
    start: Start, collector: tuple[Collector, TracesConfig]
) -> None:
    pair = await start(ratio=1.0)  # the caller has decided; ours is for traces that begin here
    await pair.call(trace=UNSAMPLED)
    await pair.flush()
    assert collector[0].requests == []
    assert pair.seen == [("front", UNSAMPLED), ("back", UNSAMPLED)]


async def test_an_unsampled_call_asks_the_instrumentation_for_nothing(start: Start) -> None:
    pair = await start()
    for tracing in pair.tracings:
        object.__setattr__(tracing, "server", None)  # whatever asks it for something fails
        object.__setattr__(tracing, "client", None)
    for trace in (UNSAMPLED, None, "evil"):
        await pair.call(trace=trace)
    assert pair.channel._traced is None
    with pytest.raises(grpc.aio.AioRpcError):  # the control: a sampled one does ask
        await pair.call(trace=SAMPLED)


@pytest.mark.parametrize("trace", [None, "evil"])
async def test_a_call_without_a_context_gets_one_and_the_ratio_decides(
    start: Start, collector: tuple[Collector, TracesConfig], trace: str | None
) -> None:
    pair = await start(ratio=1.0)
    await pair.call(trace=trace)
    await pair.flush()
    spans = collector[0].spans()
    assert [span.kind for span in spans] == [SERVER, CLIENT, SERVER]
    assert spans[0].parent_span_id == b""
    named = {trace_context.TraceContext(text).trace_id for _, text in pair.seen}
    assert {span.trace_id.hex() for span in spans} == named


async def test_the_access_log_names_the_trace_of_every_call(start: Start) -> None:
    pair = await start()
    lines = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        telemetry.configure(telemetry.TelemetryConfig(), {}, lines)
        await pair.call(trace=UNSAMPLED)
        await pair.call()
        for handler in root.handlers:
            handler.flush()
    finally:
        root.handlers[:], root.level = before
    calls = [json.loads(line) for line in lines.getvalue().splitlines() if '"call"' in line]
    traces = [call["trace_id"] for call in calls]
    assert traces[:2] == [TRACE, TRACE]
    assert traces[2] == traces[3] not in ("", TRACE)


async def test_contexts_of_concurrent_calls_do_not_mix(start: Start) -> None:
    pair = await start()
    sent = [f"00-{number:032x}-{SPAN}-{number % 2:02x}" for number in range(1, 21)]
    await asyncio.gather(*(pair.call(trace=trace) for trace in sent))
    for service in ("front", "back"):
        seen = sorted(text[:35] for at, text in pair.seen if at == service)
        assert seen == sorted(trace[:35] for trace in sent)


@requirement("secret:not-in-errors")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("stream", "code", "reason"), [("fail", "INTERNAL", "INTERNAL"), ("refuse", "NOT_FOUND", "")])
async def test_a_planted_secret_reaches_no_span_and_code_and_reason_do(
    start: Start, collector: tuple[Collector, TracesConfig], shape: str, stream: str, code: str, reason: str
) -> None:
    pair = await start()
    hidden = (("baggage", f"k={SECRET}"), ("tracestate", f"k={SECRET}"), ("x-more", SECRET))
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await pair.call(shape, SAMPLED, stream, metadata=hidden)
    assert from_rpc_error(info.value).code == code
    await pair.flush()
    spans = collector[0].spans()
    exported = collector[0].everything()
    for text in (SECRET, "Traceback", "acme", "user:ana", "refund-bot", "eyJ", "127.0.0.1", "grpc-python"):
        assert text.encode() not in exported
    for span in spans:
        assert attributes(span).keys() <= ATTRIBUTES
        assert (len(span.events), len(span.links), span.trace_state, span.status.message) == (0, 0, "", "")
    said = attributes(spans[0])
    assert (said["counterseal.code"], said["rpc.method"]) == (code, shape)
    assert said["counterseal.reason"] == (reason or "NOT_FOUND")
    assert spans[0].status.code == (ERROR if code == "INTERNAL" else 0)


async def test_the_instrumentation_records_the_secret_so_that_the_allow_list_is_what_keeps_it(
    start: Start, collector: tuple[Collector, TracesConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from counterseal.rpc.tracing_otel import AllowedOnly

    monkeypatch.setattr(AllowedOnly, "_copy", lambda self, span: span)
    pair = await start()
    with pytest.raises(grpc.aio.AioRpcError):
        await pair.call("UnaryUnary", SAMPLED, "fail")
    await pair.flush()
    assert SECRET.encode() in collector[0].everything()


@pytest.mark.parametrize("shape", [*SHAPES, "Writer"])
async def test_every_shape_is_served_inside_a_span_as_outside_of_one(
    start: Start, collector: tuple[Collector, TracesConfig], shape: str
) -> None:
    pair = await start()
    answers = []
    for trace in (UNSAMPLED, SAMPLED):
        if shape == "Writer":
            async with pair.front.channel(pair.front.identity()) as channel:
                method = channel.unary_stream(f"/{SERVICE}/Writer", NewEntry.SerializeToString, NewEntry.FromString)
                metadata = (("txn-token", pair.front.token()), ("traceparent", trace))
                answers.append([m async for m in method(NewEntry(step="s"), metadata=metadata, timeout=5)])
        else:
            answers.append(await pair.call(shape, trace))
    assert answers[0] == answers[1] != []
    await pair.flush()
    assert [span.kind for span in collector[0].spans()] == [SERVER, CLIENT, SERVER]


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_call_that_its_deadline_ends_is_an_error_in_its_span(
    start: Start, collector: tuple[Collector, TracesConfig], shape: str
) -> None:
    pair = await start()
    with pytest.raises(grpc.aio.AioRpcError):
        await pair.call(shape, SAMPLED, "hang", timeout=0.4)
    await pair.flush()
    (span,) = collector[0].spans()
    assert attributes(span)["counterseal.code"] == "DEADLINE_EXCEEDED"
    assert span.status.code == ERROR


async def test_background_work_begins_traces_of_its_own(
    start: Start, collector: tuple[Collector, TracesConfig]
) -> None:
    pair = await start(ratio=1.0)
    method = pair.channel.unary_unary(f"/{SERVICE}/UnaryUnary", NewEntry.SerializeToString, NewEntry.FromString)
    for _ in range(2):
        await method(NewEntry(), metadata=(("txn-token", pair.back.token()),), timeout=5)
    assert trace_context.current() is None
    await pair.flush()
    spans = collector[0].spans()
    assert [span.kind for span in spans] == [CLIENT, SERVER] * 2
    assert len({span.trace_id for span in spans}) == 2
    assert [text[3:35] for _, text in pair.seen] == [span.trace_id.hex() for span in spans if span.kind == SERVER]


async def test_a_renewed_channel_drops_its_traced_twin_too(start: Start) -> None:
    pair = await start()
    await pair.call(trace=SAMPLED)
    first = pair.channel._traced
    assert first is not None
    pair.channel.renew()
    await pair.call(trace=SAMPLED)
    assert pair.channel._traced not in (None, first)
    assert first.get_state() == grpc.ChannelConnectivity.SHUTDOWN


async def test_an_entry_names_the_trace_of_the_call_that_made_it() -> None:
    made: list[NewEntry] = []

    async def act(request: NewEntry) -> None:
        caller = current_caller()
        texts: dict[str, Any] = caller_texts(caller)
        made.append(
            new_entry(
                "call.refused",
                {"method": "/a.B/C", "peer": "p", "reason_code": "TOKEN_INVALID", "count": 1},
                event_id="0198c5a0-0000-7000-8000-000000000001",
                event_time_ms=1,
                tenant=caller.tenant,
                environment=caller.environment,
                **texts,
            )
        )

    served = await shapes.start(act)  # no tracing configured
    try:
        await served.call("UnaryUnary", served.identity(), served.token(), metadata=(("traceparent", UNSAMPLED),))
        await served.call("UnaryUnary", served.identity(), served.token())
    finally:
        await served.server.stop(served.stopping)
    assert made[0].trace_id == TRACE
    assert len(made[1].trace_id) == 32


def test_a_missing_extra_is_one_line_that_names_it(
    collector: tuple[Collector, TracesConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", "opentelemetry.instrumentation.grpc"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(ConfigError) as info:
                start_tracing(collector[1], {"service": "policy", "environment": "prod"})
        assert info.value.problems == ("telemetry.traces.endpoint: needs the extra counterseal[otel]",)


def test_traces_are_off_by_default_and_their_collector_must_be_vouched_for(tmp_path: Path) -> None:
    fixed = {"service": "policy", "environment": "prod"}
    assert start_tracing(TracesConfig(), fixed) is None
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"endpoint": "http://collector:4317", "ca_file": tmp_path}, "must be https"),
        ({"endpoint": "https://collector:4317"}, "with ca_file"),
        ({"ratio": 1.5}, "from 0 to 1"),
    )
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            TracesConfig(**wrong)
    with pytest.raises(ConfigError, match=r"telemetry\.traces\.ca_file"):
        start_tracing(TracesConfig("https://collector:4317", tmp_path / "absent"), fixed)


async def test_a_collector_that_is_away_costs_its_spans_and_nothing_else(tmp_path: Path) -> None:
    ca_file = selfsigned.ensure(tmp_path, "nobody", system_clock).certificate
    tracing = start_tracing(TracesConfig("https://127.0.0.1:9", ca_file), {"service": "policy", "environment": "prod"})
    assert tracing is not None

    async def act(request: NewEntry) -> None:
        return None

    served = await shapes.start(act, tracing=tracing)
    try:
        metadata = (("traceparent", SAMPLED),)
        assert await served.call("UnaryUnary", served.identity(), served.token(), metadata=metadata)
    finally:
        await served.server.stop(served.stopping)
    await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, tracing.close), 20)
