"""Who may call what, in all four RPC shapes: denied by default, and nothing of ours leaks into an error."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from nacl.signing import SigningKey

from counterseal import telemetry
from counterseal.api.audit.v1.ledger_pb2 import NewEntry
from counterseal.clock import system_clock
from counterseal.errors import NotFound, ServiceError, TokenRevoked
from counterseal.identity import Caller
from counterseal.rpc.interceptor import Refusal
from counterseal.rpc.server import UnlistedMethod
from counterseal.rpc.status import from_rpc_error
from counterseal.rpc.tls import Identity
from support import shapes
from support.certificates import Authority
from support.requirements import requirement
from support.shapes import AGENT, DOMAIN, SERVICE, SHAPES, Shapes, spiffe

SECRET = "hunter2-planted-secret"


async def act(request: NewEntry) -> None:
    """What the handlers do: the request's stream field says how to fail."""
    if request.stream == "fail":
        raise RuntimeError(f"password={SECRET}")
    if request.stream == "chain":
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise RuntimeError(SECRET) from error
    if request.stream == "group":
        async with asyncio.TaskGroup() as group:
            group.create_task(_refuse(request))
    if request.stream == "refuse":
        await _refuse(request)
    if request.stream == "hang":
        await asyncio.Event().wait()


async def _refuse(request: NewEntry) -> None:
    raise NotFound("there is no such thing" + request.step, thing=request.subject)


@pytest.fixture
async def served() -> AsyncIterator[Shapes]:
    running = await shapes.start(act)
    yield running
    await running.server.stop(running.stopping)


async def refusal(served: Shapes, shape: str, identity: Identity, token: str | None, **more: Any) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await served.call(shape, identity, token, **more)
    return from_rpc_error(info.value)


@pytest.mark.parametrize("shape", [*SHAPES, "Writer"])
async def test_a_listed_peer_with_its_token_is_served_and_known_to_the_handler(served: Shapes, shape: str) -> None:
    if shape == "Writer":
        async with served.channel(served.identity()) as channel:
            method = channel.unary_stream(f"/{SERVICE}/Writer", NewEntry.SerializeToString, NewEntry.FromString)
            answers = [m async for m in method(NewEntry(tenant="acme"), metadata=(("txn-token", served.token()),))]
    else:
        answers = await served.call(shape, served.identity(), served.token(), NewEntry(tenant="acme"))
    assert answers[0].tenant == "acme"
    caller = served.seen[0]
    assert (caller.peer, caller.subject, caller.agent, caller.tenant) == (AGENT, "user:ana", "refund-bot", "acme")


@requirement("call:default-deny")
@pytest.mark.parametrize("shape", SHAPES)
async def test_without_a_certificate_there_is_no_connection(served: Shapes, shape: str) -> None:
    credentials = grpc.ssl_channel_credentials(served.authority.pem)
    options = (("grpc.ssl_target_name_override", shapes.NAME),)
    async with grpc.aio.secure_channel(f"127.0.0.1:{served.server.port}", credentials, options) as channel:
        make = getattr(channel, shapes._snake(shape))
        method = make(f"/{SERVICE}/{shape}", NewEntry.SerializeToString, NewEntry.FromString)
        body: Any = shapes._once(NewEntry()) if shape.startswith("Stream") else NewEntry()
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await shapes.finish(shape, method(body, timeout=3))
    assert info.value.code() == grpc.StatusCode.UNAVAILABLE
    assert served.seen == []


async def test_a_certificate_of_another_root_is_no_connection(served: Shapes) -> None:
    foreign = Authority.create("another root").issue(uris=[AGENT])
    identity = Identity(foreign.cert_pem, foreign.key_pem, served.authority.pem)
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await served.call("UnaryUnary", identity, served.token(), timeout=3)
    assert info.value.code() == grpc.StatusCode.UNAVAILABLE


@requirement("call:default-deny")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("path", "environment"),
    [("cli", "prod"), ("svc/audit", "prod"), ("agent/refund-bot", "staging"), ("root", "prod")],
)
async def test_a_peer_that_is_not_listed_is_refused(served: Shapes, shape: str, path: str, environment: str) -> None:
    error = await refusal(served, shape, served.identity(path, environment), served.token())
    assert (error.code, error.reason) == ("PERMISSION_DENIED", "PEER_NOT_ALLOWED")
    assert served.seen == []


@pytest.mark.parametrize("uris", [[], [AGENT, spiffe("svc/executor")], ["https://counterseal.test/prod/agent/a"]])
async def test_a_certificate_must_name_exactly_one_workload(served: Shapes, uris: list[str]) -> None:
    identity = served.authority.issue(uris=uris, dns=["somebody"])
    error = await refusal(served, "UnaryUnary", identity, served.token())
    assert error.reason == "PEER_NOT_ALLOWED"


@requirement("call:default-deny")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "case", ["missing", "two", "forged", "expired", "long life", "future", "unknown key", "stolen", "junk", "alg none"]
)
async def test_a_token_that_is_not_good_is_refused(served: Shapes, shape: str, case: str) -> None:
    now = system_clock() // 1000
    make: dict[str, Callable[[], str | None]] = {
        "missing": lambda: None,
        "two": served.token,
        "forged": lambda: served.token(key=SigningKey.generate()),
        "expired": lambda: served.token(issue_time=now - 300, expire_time=now - 1),
        "long life": lambda: served.token(expire_time=now + 301),
        "future": lambda: served.token(issue_time=now + 60, expire_time=now + 120),
        "unknown key": lambda: served.token(kid="ctx-prod:2"),
        "stolen": lambda: served.token(requester=spiffe("agent/other-bot")),
        "junk": lambda: "e30.e30.e30",
        "alg none": lambda: "eyJhbGciOiJub25lIn0." + served.token().split(".")[1] + ".AA",
    }
    token = make[case]()
    extra = (("txn-token", served.token()),) if case == "two" else ()
    error = await refusal(served, shape, served.identity(), token, metadata=extra)
    assert (error.code, error.reason) == ("UNAUTHENTICATED", "TOKEN_INVALID")
    assert served.seen == []


@requirement("call:default-deny")
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_token_of_another_environment_is_refused(served: Shapes, shape: str) -> None:
    foreign = served.token(audience=f"{DOMAIN}/staging", environment="staging")
    assert (await refusal(served, shape, served.identity(), foreign)).reason == "TOKEN_INVALID"
    mixed = served.token(environment="staging")
    assert (await refusal(served, shape, served.identity(), mixed)).reason == "ENVIRONMENT_MISMATCH"


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_body_of_another_tenant_or_environment_is_refused(served: Shapes, shape: str) -> None:
    other_tenant = await refusal(served, shape, served.identity(), served.token(), request=NewEntry(tenant="evil"))
    assert (other_tenant.code, other_tenant.reason) == ("PERMISSION_DENIED", "CONTEXT_MISMATCH")
    elsewhere = await refusal(served, shape, served.identity(), served.token(), request=NewEntry(environment="staging"))
    assert elsewhere.reason == "ENVIRONMENT_MISMATCH"


async def test_only_services_and_operators_may_leave_out_an_optional_token(served: Shapes) -> None:
    for path in ("svc/executor", "operator"):
        await served.call("UnaryUnary", served.identity(path), None, service="test.Optional")
    assert [(c.token, c.tenant, c.environment) for c in served.seen] == [(None, "", "prod")] * 2
    error = await refusal(served, "UnaryUnary", served.identity(), None, service="test.Optional")
    assert error.reason == "TOKEN_INVALID"


async def test_where_the_table_says_none_a_token_is_not_read(served: Shapes) -> None:
    await served.call("UnaryUnary", served.identity(), "junk", service="test.None")
    assert served.seen[0].token is None


async def test_a_service_may_forward_a_token_that_was_issued_to_an_agent(served: Shapes) -> None:
    token = served.token()
    await served.call("UnaryUnary", served.identity("svc/executor"), token)
    caller = served.seen[0]
    assert (caller.peer_kind, caller.agent) == ("svc/executor", "refund-bot")
    assert caller.forward() == (("txn-token", token),)


async def test_a_service_can_refuse_a_revoked_token_and_hears_of_every_refusal(served: Shapes) -> None:
    heard: list[Refusal] = []

    async def revoked(caller: Caller) -> None:
        raise TokenRevoked

    async def hear(refused: Refusal) -> None:
        heard.append(refused)

    served.hooks.check_caller, served.hooks.on_refused = revoked, hear
    error = await refusal(served, "StreamStream", served.identity(), served.token())
    assert error.reason == "TOKEN_REVOKED"
    await refusal(served, "UnaryUnary", served.identity("cli"), served.token())
    await refusal(served, "UnaryUnary", served.identity("agent/refund-bot", "staging"), served.token())
    assert [(r.reason, r.tenant, r.agent) for r in heard] == [
        ("TOKEN_REVOKED", "acme", "refund-bot"),
        ("PEER_NOT_ALLOWED", "", None),
    ]


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_error_of_ours_arrives_with_reason_values_and_next_action(served: Shapes, shape: str) -> None:
    request = NewEntry(stream="refuse", subject="x-1")
    for stream in ("refuse", "group"):
        request.stream = stream
        error = await refusal(served, shape, served.identity(), served.token(), request=request)
        assert isinstance(error, NotFound)
        assert (error.message, error.metadata) == ("there is no such thing", {"thing": "x-1"})


@requirement("secret:not-in-errors")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stream", ["fail", "chain"])
async def test_a_secret_in_an_exception_reaches_no_client_and_no_log(served: Shapes, shape: str, stream: str) -> None:
    stream_of_log = io.StringIO()
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    telemetry.configure(telemetry.TelemetryConfig(), {"service": "test"}, stream_of_log)
    try:
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await served.call(shape, served.identity(), served.token(), NewEntry(stream=stream))
        async with asyncio.timeout(5):  # the client has its answer before the server has written its line
            while '"message":"call"' not in stream_of_log.getvalue().replace('": "', '":"'):
                logging.getLogger().handlers[0].flush()  # lines of the access log wait for more of their kind
                await asyncio.sleep(0.01)
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    assert info.value.code() == grpc.StatusCode.INTERNAL
    assert info.value.details() == "internal error"
    assert SECRET not in repr(info.value) + str(info.value.trailing_metadata())
    lines = [json.loads(line) for line in stream_of_log.getvalue().splitlines()]
    assert SECRET not in stream_of_log.getvalue()
    assert any("RuntimeError" in line.get("error", [{}])[0].get("type", "") for line in lines)
    assert any(line["message"] == "call" and line["code"] == "INTERNAL" for line in lines)


@requirement("error:code-kept")
@pytest.mark.parametrize("size", [600, 6_000, 20_000])
async def test_a_long_text_of_the_caller_never_changes_an_errors_code(served: Shapes, size: int) -> None:
    request = NewEntry(stream="refuse", subject="ü" * size, step="y" * size)
    for _ in range(5):
        error = await refusal(served, "UnaryUnary", served.identity(), served.token(), request=request)
        assert (error.code, error.reason) == ("NOT_FOUND", "NOT_FOUND")
        assert len(error.message.encode()) <= 512
        assert len(error.metadata["thing"].encode()) <= 128


async def test_a_call_with_hardly_any_time_left_is_refused_before_its_handler(served: Shapes) -> None:
    async with served.channel(served.identity()) as channel:
        await channel.channel_ready()
        method = channel.unary_unary(f"/{SERVICE}/UnaryUnary", NewEntry.SerializeToString, NewEntry.FromString)
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await method(NewEntry(), timeout=0.05, metadata=(("txn-token", served.token()),))
    assert info.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert served.seen == []


async def test_a_unary_call_without_a_deadline_has_one_all_the_same() -> None:
    served = await shapes.start(act)
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await served.call("UnaryUnary", served.identity(), served.token(), NewEntry(stream="hang"), timeout=None)
    assert info.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await served.server.stop(served.stopping)


@pytest.mark.parametrize("shape", ["UnaryUnary", "UnaryStream"])
async def test_at_the_clients_deadline_the_handler_ends_and_the_call_is_accounted_so(shape: str) -> None:
    ended = asyncio.Event()

    async def hang(_: NewEntry) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    served = await shapes.start(hang)
    lines = io.StringIO()
    keep = logging.StreamHandler(lines)
    keep.setFormatter(telemetry.JsonFormatter({}))
    log = logging.getLogger("counterseal.access")
    level = log.level
    log.addHandler(keep)
    log.setLevel(logging.INFO)
    try:
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await served.call(shape, served.identity(), served.token(), NewEntry(), timeout=0.5)
        assert info.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(ended.wait(), 5)
        await served.server.stop(served.stopping)
    finally:
        log.removeHandler(keep)
        log.setLevel(level)
    assert [json.loads(line)["code"] for line in lines.getvalue().splitlines()] == ["DEADLINE_EXCEEDED"]


async def test_a_stream_ends_when_its_token_does(served: Shapes) -> None:
    now = system_clock() // 1000
    token = served.token(issue_time=now - 298, expire_time=now + 2)
    error = await refusal(served, "UnaryStream", served.identity(), token, request=NewEntry(stream="hang"))
    assert error.reason == "TOKEN_INVALID"


async def test_a_method_that_the_table_does_not_list_is_found_at_the_start() -> None:
    rules = {k: v for k, v in shapes.RULES.items() if not k.endswith("/Writer")}
    with pytest.raises(UnlistedMethod, match=r"/test\.Shapes/Writer"):
        await shapes.start(act, rules)


async def test_what_a_call_waits_for_does_not_grow_with_the_methods(
    served: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, waited = asyncio.wait, []

    async def counted(these: Any, **options: Any) -> Any:
        waited.append(len(these))
        return await wait(these, **options)

    monkeypatch.setattr(asyncio, "wait", counted)
    for _ in range(3):
        await served.call("UnaryUnary", served.identity(), served.token())
    assert max(waited, default=1) == 1, "grpc.aio waits for each method that is registered by itself, at every call"


async def test_health_is_served_to_every_workload_and_reflection_lists_the_service(served: Shapes) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with served.channel(served.identity("operator")) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_cancelled_stream_closes_its_handler(served: Shapes) -> None:
    async with served.channel(served.identity()) as channel:
        method = channel.unary_stream(f"/{SERVICE}/UnaryStream", NewEntry.SerializeToString, NewEntry.FromString)
        call = method(NewEntry(stream="hang"), metadata=(("txn-token", served.token()),))
        await anext(aiter(call))
        call.cancel()
    await asyncio.wait_for(served.closed.wait(), 5)
