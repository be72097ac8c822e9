"""A service with all four RPC shapes behind the real server and interceptor, on mTLS, for contract tests of `rpc`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from nacl.signing import SigningKey

from counterseal.api.audit.v1.ledger_pb2 import NewEntry
from counterseal.clock import system_clock
from counterseal.identity import Caller, current_caller
from counterseal.rpc.interceptor import Hooks, Interceptor
from counterseal.rpc.keys import UnknownKey
from counterseal.rpc.method_table import MethodRule
from counterseal.rpc.server import Server, ServerConfig
from counterseal.rpc.tls import Identity, ServerIdentity, open_channel, server_name
from counterseal.rpc.tracing import Tracing
from counterseal.rpc.txn_token import TokenClaims, TokenVerifier, assemble, signing_input
from support.certificates import Authority

DOMAIN, ENVIRONMENT, TENANT = "counterseal.test", "prod", "acme"
SHAPES = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
SERVICE = "test.Shapes"
NAME = server_name("policy", ENVIRONMENT)


def spiffe(path: str, environment: str = ENVIRONMENT) -> str:
    return f"spiffe://{DOMAIN}/{environment}/{path}"


AGENT = spiffe("agent/refund-bot")


def claims(**changes: Any) -> TokenClaims:
    now = system_clock() // 1000
    values: dict[str, Any] = {
        "issuer": spiffe("svc/credentials"),
        "audience": f"{DOMAIN}/{ENVIRONMENT}",
        "issue_time": now,
        "expire_time": now + 300,
        "txn": "0198c5a0-0000-7000-8000-000000000001",
        "subject": "user:ana",
        "requester": AGENT,
        "tenant": TENANT,
        "environment": ENVIRONMENT,
        "request_id": "r-1",
        "chain": ({"sub": "refund-bot", "version": "3.2.1"},),
    }
    return TokenClaims(**{**values, **changes})


@dataclass
class Shapes:
    """The running server; `act` is what every handler does with each request it reads."""

    authority: Authority
    server: Server
    signing_key: SigningKey
    hooks: Hooks
    seen: list[Caller]
    closed: asyncio.Event
    """Set when a UnaryStream handler's `finally` has run."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def token(self, *, kid: str = "ctx-prod:1", key: SigningKey | None = None, **changes: Any) -> str:
        signed = signing_input(claims(**changes), kid)
        return assemble(signed, (key or self.signing_key).sign(signed).signature)

    def identity(self, path: str = "agent/refund-bot", environment: str = ENVIRONMENT) -> Identity:
        return self.authority.issue(uris=[spiffe(path, environment)])

    def channel(self, identity: Identity) -> grpc.aio.Channel:
        return open_channel(f"127.0.0.1:{self.server.port}", identity, NAME)

    async def call(
        self,
        shape: str,
        identity: Identity,
        token: str | None,
        request: NewEntry | None = None,
        *,
        timeout: float | None = 10,
        metadata: tuple[tuple[str, str], ...] = (),
        service: str = SERVICE,
    ) -> list[NewEntry]:
        """Make one call of a shape and return every response; raises AioRpcError.

        A server that refuses before it has read the request stream now and then makes grpc's own client fail to send
        ("Internal error from Core", about 1 in 1,000) instead of reporting the refusal; then the call is made again.
        """
        for _ in range(3):
            try:
                return await self._call(shape, identity, token, request, timeout, metadata, service)
            except grpc.aio.AioRpcError as error:
                if error.details() != "Internal error from Core":
                    raise
        raise AssertionError("grpc's client failed three times in a row")

    async def _call(
        self,
        shape: str,
        identity: Identity,
        token: str | None,
        request: NewEntry | None,
        timeout: float | None,
        metadata: tuple[tuple[str, str], ...],
        service: str,
    ) -> list[NewEntry]:
        if token is not None:
            metadata = (("txn-token", token), *metadata)
        async with self.channel(identity) as channel:
            make = getattr(channel, _snake(shape))
            method = make(f"/{service}/{shape}", NewEntry.SerializeToString, NewEntry.FromString)
            body: Any = request or NewEntry()
            if shape.startswith("Stream"):
                body = _once(body)
            call = method(body, timeout=timeout, metadata=metadata)
            return await finish(shape, call)


async def finish(shape: str, call: Any) -> list[NewEntry]:
    """Wait for a call of either response style."""
    if shape.endswith("Unary"):
        return [await call]
    return [response async for response in call]


async def _once(message: NewEntry) -> AsyncIterator[NewEntry]:
    yield message


def _snake(shape: str) -> str:
    return {"UnaryUnary": "unary_unary", "UnaryStream": "unary_stream", "StreamUnary": "stream_unary"}.get(
        shape, "stream_stream"
    )


RULES = {
    **{f"/{SERVICE}/{shape}": MethodRule(("agent", "svc/executor"), "required") for shape in SHAPES},
    "/test.Shapes/Writer": MethodRule(("agent",), "required"),
    "/test.Optional/UnaryUnary": MethodRule(("agent", "svc/executor", "operator"), "optional"),
    "/test.None/UnaryUnary": MethodRule(("agent",), "none"),
}


async def start(
    act: Callable[[NewEntry], Awaitable[None]],
    rules: dict[str, MethodRule] = RULES,
    tracing: Tracing | None = None,
) -> Shapes:
    """Start the service; stop it with `await shapes.server.stop(shapes.stopping)`."""
    authority = Authority.create("test root")
    signing_key = SigningKey.generate()
    public = bytes(signing_key.verify_key)
    hooks = Hooks()

    async def key(kid: str) -> bytes:
        if kid != "ctx-prod:1":
            raise UnknownKey(kid)
        return public

    verifier = TokenVerifier(key, audience=f"{DOMAIN}/{ENVIRONMENT}", clock=system_clock)
    interceptor = Interceptor(
        trust_domain=DOMAIN,
        environment=ENVIRONMENT,
        verify=verifier.verify,
        clock=system_clock,
        hooks=hooks,
        rules=rules,
        max_unary_seconds=1.5,
        tracing=tracing,
    )
    seen: list[Caller] = []
    closed = asyncio.Event()
    own = authority.issue(uris=[spiffe("svc/policy")], dns=[NAME])
    server = Server(
        ServerConfig(listen="127.0.0.1:0", drain_seconds=2),
        interceptor,
        ServerIdentity(own).credentials(),
        [(lambda _, target: _register(target, act, seen, closed), None)],
        rules,
    )
    await server.start()
    return Shapes(authority, server, signing_key, hooks, seen, closed)


def _register(
    server: Any, act: Callable[[NewEntry], Awaitable[None]], seen: list[Caller], closed: asyncio.Event
) -> None:
    async def unary_unary(request: NewEntry, context: Any) -> NewEntry:
        seen.append(current_caller())
        await act(request)
        return request

    async def unary_stream(request: NewEntry, context: Any) -> AsyncIterator[NewEntry]:
        seen.append(current_caller())
        try:
            yield request
            await act(request)
            yield request
        finally:
            closed.set()

    async def stream_unary(requests: AsyncIterator[NewEntry], context: Any) -> NewEntry:
        seen.append(current_caller())
        last = NewEntry()
        async for last in requests:
            await act(last)
        return last

    async def stream_stream(requests: AsyncIterator[NewEntry], context: Any) -> AsyncIterator[NewEntry]:
        seen.append(current_caller())
        async for request in requests:
            await act(request)
            yield request

    async def writer(request: NewEntry, context: Any) -> None:
        seen.append(current_caller())
        await context.write(request)
        await act(request)

    codec: dict[str, Any] = {
        "request_deserializer": NewEntry.FromString,
        "response_serializer": NewEntry.SerializeToString,
    }
    handlers = {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(unary_unary, **codec),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(unary_stream, **codec),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(stream_unary, **codec),
        "StreamStream": grpc.stream_stream_rpc_method_handler(stream_stream, **codec),
        "Writer": grpc.unary_stream_rpc_method_handler(writer, **codec),
    }
    one = {"UnaryUnary": handlers["UnaryUnary"]}
    for service, methods in (("test.Shapes", handlers), ("test.Optional", one), ("test.None", one)):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        server.add_registered_method_handlers(service, methods)
