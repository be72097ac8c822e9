"""The authorisation matrix: every method of every service, enumerated from the descriptors, against the table.

One real server serves all methods behind the real interceptor and table; what is asked of each method is who may call
it, not what it does. `counterseal rpc list --json` prints the same table.
"""

import asyncio
import importlib
import json
import pkgutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from nacl.signing import SigningKey

import counterseal.api
from counterseal.cli import main
from counterseal.clock import system_clock
from counterseal.errors import ServiceError
from counterseal.identity import SpiffeId
from counterseal.rpc.interceptor import EXEMPT, Interceptor
from counterseal.rpc.keys import UnknownKey
from counterseal.rpc.method_table import METHODS, OPERATOR, SERVICES
from counterseal.rpc.server import Server, ServerConfig
from counterseal.rpc.status import PeerUnavailable, from_rpc_error
from counterseal.rpc.tls import Identity, ServerIdentity, open_channel
from counterseal.rpc.txn_token import TokenVerifier, assemble, signing_input
from support import shapes
from support.certificates import Authority
from support.shapes import ENVIRONMENT, NAME, spiffe

PATHS = {
    **{kind: kind for kind in (*SERVICES, "cli", "console", "operator")},
    "agent": "agent/refund-bot",
}
"""Peer kind -> the path of a workload of that kind."""


def methods() -> Iterator[tuple[str, MethodDescriptor]]:
    for info in pkgutil.walk_packages(counterseal.api.__path__, "counterseal.api."):
        if info.name.endswith("_pb2"):
            for service in importlib.import_module(info.name).DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    yield f"/{service.full_name}/{method.name}", method


ALL = dict(methods())


@dataclass
class Matrix:
    server: Server
    authority: Authority
    key: SigningKey
    channels: dict[str, grpc.aio.Channel]
    reached: list[str]

    def token(self, peer: str, **changes: Any) -> str:
        claims = shapes.claims(requester=spiffe(PATHS[peer]), **changes)
        signed = signing_input(claims, "ctx-prod:1")
        return assemble(signed, self.key.sign(signed).signature)

    def identity(self, path: str, environment: str = ENVIRONMENT) -> Identity:
        return self.authority.issue(uris=[spiffe(path, environment)])

    def channel(self, path: str, environment: str = ENVIRONMENT) -> grpc.aio.Channel:
        name = f"{environment}/{path}"
        if name not in self.channels:
            address = f"127.0.0.1:{self.server.port}"
            self.channels[name] = open_channel(address, self.identity(path, environment), NAME)
        return self.channels[name]

    async def call(self, name: str, channel: grpc.aio.Channel, *tokens: str, **fields: str) -> str:
        """Call a method and return the reason of its refusal, or `served`.

        A server that refuses a stream may end it while gRPC is sending. gRPC calls that a broken connection: nobody
        answered, so it is asked again, as a client would.
        """
        for _ in range(5):
            found = await self._call_once(name, channel, *tokens, **fields)
            if not (isinstance(found, PeerUnavailable) and ALL[name].client_streaming):
                break
        return found.reason if found is not None else "served"

    async def _call_once(
        self, name: str, channel: grpc.aio.Channel, *tokens: str, **fields: str
    ) -> ServiceError | None:
        method = ALL[name]
        request = message_factory.GetMessageClass(method.input_type)(**fields)
        shape = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        answer = message_factory.GetMessageClass(method.output_type)
        stub = getattr(channel, shape)(name, type(request).SerializeToString, answer.FromString)
        body: Any = _once(request) if method.client_streaming else request
        call = stub(body, timeout=10, metadata=tuple(("txn-token", token) for token in tokens))
        try:
            if method.server_streaming:
                [_ async for _ in call]
            else:
                await call
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)
        return None


async def _once(message: Any) -> AsyncIterator[Any]:
    yield message


@pytest.fixture
async def matrix() -> AsyncIterator[Matrix]:
    authority, key, reached = Authority.create("matrix"), SigningKey.generate(), list[str]()

    async def public(kid: str) -> bytes:
        if kid != "ctx-prod:1":
            raise UnknownKey(kid)
        return bytes(key.verify_key)

    verifier = TokenVerifier(public, audience=f"{shapes.DOMAIN}/{ENVIRONMENT}", clock=system_clock)
    interceptor = Interceptor(shapes.DOMAIN, ENVIRONMENT, verifier.verify, system_clock)
    own = authority.issue(uris=[spiffe("svc/policy")], dns=[NAME])
    server = Server(
        ServerConfig(listen="127.0.0.1:0", drain_seconds=1),
        interceptor,
        ServerIdentity(own).credentials(),
        [(lambda _, target: _register(target, reached), None)],
        METHODS,
    )
    await server.start()
    running = Matrix(server, authority, key, {}, reached)
    yield running
    for channel in running.channels.values():
        await channel.close(None)
    await server.stop(asyncio.Event())


def _register(server: Any, reached: list[str]) -> None:
    services: dict[str, dict[str, Any]] = {}
    for name, method in ALL.items():
        _, service, short = name.split("/")
        services.setdefault(service, {})[short] = _handler(name, method, reached)
    for service, handlers in services.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        server.add_registered_method_handlers(service, handlers)


def _handler(name: str, method: MethodDescriptor, reached: list[str]) -> Any:
    answer = message_factory.GetMessageClass(method.output_type)

    async def unary(request: Any, context: Any) -> Any:
        if method.client_streaming:
            [_ async for _ in request]
        reached.append(name)
        return answer()

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        if method.client_streaming:
            [_ async for _ in request]
        reached.append(name)
        yield answer()

    shape = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    make = getattr(grpc, f"{shape}_rpc_method_handler")
    request = message_factory.GetMessageClass(method.input_type)
    return make(
        stream if method.server_streaming else unary,
        request_deserializer=request.FromString,
        response_serializer=answer.SerializeToString,
    )


def test_the_table_lists_exactly_the_methods_of_the_protos(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rpc", "list", "--json"]) == 0
    printed = {row["method"]: row for row in json.loads(capsys.readouterr().out)}
    assert printed.keys() - EXEMPT == ALL.keys()
    for name, rule in METHODS.items():
        assert (printed[name]["peers"], printed[name]["token"]) == (list(rule.peers), rule.token)


async def test_every_method_serves_the_peers_that_the_table_lists(matrix: Matrix) -> None:
    for name in ALL:
        for peer in METHODS[name].peers:
            tokens = [] if METHODS[name].token == "none" else [matrix.token(peer)]
            assert await matrix.call(name, matrix.channel(PATHS[peer]), *tokens) == "served", (name, peer)
    assert set(matrix.reached) == ALL.keys()


async def test_every_method_refuses_every_other_peer_even_with_a_good_token(matrix: Matrix) -> None:
    for name in ALL:
        for peer in PATHS.keys() - set(METHODS[name].peers):
            reason = await matrix.call(name, matrix.channel(PATHS[peer]), matrix.token(peer))
            assert reason == "PEER_NOT_ALLOWED", (name, peer)
    assert matrix.reached == []


async def test_every_method_refuses_workloads_of_another_environment(matrix: Matrix) -> None:
    for name in ALL:
        for peer in METHODS[name].peers:
            reason = await matrix.call(name, matrix.channel(PATHS[peer], "staging"), matrix.token(peer))
            assert reason == "PEER_NOT_ALLOWED", (name, peer)
    assert matrix.reached == []


async def test_no_method_can_be_reached_without_a_certificate(matrix: Matrix) -> None:
    credentials = grpc.ssl_channel_credentials(matrix.authority.pem)
    options = (("grpc.ssl_target_name_override", NAME),)
    async with grpc.aio.secure_channel(f"127.0.0.1:{matrix.server.port}", credentials, options) as channel:
        answers = await asyncio.gather(*(matrix.call(name, channel) for name in ALL))
    assert set(answers) == {"INTERNAL"}  # no answer of ours: the handshake failed
    assert matrix.reached == []


async def test_every_method_that_reads_a_token_refuses_a_missing_and_a_forged_one(matrix: Matrix) -> None:
    forger = SigningKey.generate()
    for name, rule in METHODS.items():
        if name in EXEMPT or rule.token == "none":
            continue
        for peer in rule.peers:
            channel = matrix.channel(PATHS[peer])
            signed = signing_input(shapes.claims(requester=spiffe(PATHS[peer])), "ctx-prod:1")
            forged = assemble(signed, forger.sign(signed).signature)
            assert await matrix.call(name, channel, forged) == "TOKEN_INVALID", (name, peer)
            assert await matrix.call(name, channel, forged, matrix.token(peer)) == "TOKEN_INVALID", (name, peer)
            omittable = rule.token == "optional" and peer in (*SERVICES, OPERATOR)
            if not omittable:
                assert await matrix.call(name, channel) == "TOKEN_INVALID", (name, peer)
    assert matrix.reached == []


async def test_every_method_refuses_tokens_of_another_environment_and_bodies_of_another_tenant(matrix: Matrix) -> None:
    for name, rule in METHODS.items():
        if name in EXEMPT or rule.token == "none":
            continue
        fields = ALL[name].input_type.fields_by_name
        for peer in rule.peers:
            channel = matrix.channel(PATHS[peer])
            foreign = matrix.token(peer, environment="staging")
            assert await matrix.call(name, channel, foreign) == "ENVIRONMENT_MISMATCH", (name, peer)
            if "tenant" in fields:
                assert await matrix.call(name, channel, matrix.token(peer), tenant="evil") == "CONTEXT_MISMATCH"
    assert matrix.reached == []


async def test_only_services_may_present_a_token_that_was_issued_to_somebody_else(matrix: Matrix) -> None:
    other = matrix.token("agent", request_id="r-2")
    for name, rule in METHODS.items():
        if name in EXEMPT or rule.token == "none":
            continue
        for peer in rule.peers:
            stolen = other if peer != "agent" else matrix.token("cli")
            reason = await matrix.call(name, matrix.channel(PATHS[peer]), stolen)
            assert reason == ("served" if peer in SERVICES else "TOKEN_INVALID"), (name, peer)


def test_every_peer_kind_of_the_table_is_a_kind_that_certificates_can_name() -> None:
    kinds = {peer for rule in METHODS.values() for peer in rule.peers}
    assert kinds == {SpiffeId.parse(spiffe(path)).kind for path in PATHS.values()}
