"""Calls any method of the contract by name, on a running suite, as any workload with any token."""

import asyncio
import contextlib
import importlib
import pkgutil
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from nacl.signing import SigningKey

import counterseal.api
from counterseal.clock import system_clock
from counterseal.ids import new_id
from counterseal.rpc.method_table import AGENT, OPERATOR, PEOPLE, SERVICES
from counterseal.rpc.status import from_rpc_error
from counterseal.rpc.tls import Identity, open_channel, server_name
from counterseal.rpc.txn_token import TokenClaims, assemble, signing_input
from counterseal.vault import Vault
from support import bank
from support.suite import Suite

DOMAIN, ENVIRONMENT = "counterseal.dev", "prod"
OPEN_SECONDS = 1.5
"""How long a stream that says nothing is listened to."""

PATHS = {kind: kind for kind in (*SERVICES, *PEOPLE, OPERATOR)} | {AGENT: f"agent/{bank.AGENT}"}
"""Peer kind -> the path of a workload of that kind."""

ANY_ROLE = "test-any"


def spiffe(path: str, environment: str = ENVIRONMENT, domain: str = DOMAIN) -> str:
    return f"spiffe://{domain}/{environment}/{path}"


def contract() -> dict[str, MethodDescriptor]:
    """Return every method of every proto by its full name, `/package.Service/Method`."""
    found: dict[str, MethodDescriptor] = {}
    for info in pkgutil.walk_packages(counterseal.api.__path__, "counterseal.api."):
        if info.name.endswith("_pb2"):
            for service in importlib.import_module(info.name).DESCRIPTOR.services_by_name.values():
                found |= {f"/{service.full_name}/{method.name}": method for method in service.methods}
    return found


METHODS = contract()


def served_by(method: str) -> str:
    """Return the service that serves a method: the third part of its package."""
    return method.split(".")[2]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. code: gRPC's name, `OPEN` for a stream that stays open; reason: ours, "" where there is none."""

    code: str
    reason: str = ""
    text: str = ""
    next_action: str = ""
    messages: tuple[bytes, ...] = ()

    @property
    def outcome(self) -> tuple[str, str, tuple[bytes, ...]]:
        """What two answers are compared by."""
        return self.code, self.reason, self.messages


@dataclass
class Door:
    """A running suite with certificates that no real authority would give and tokens that no service would sign."""

    suite: Suite
    vault: Vault
    _identities: dict[tuple[str, ...], Identity] = field(default_factory=dict)
    _channels: dict[tuple[str, ...], grpc.aio.Channel] = field(default_factory=dict)
    _forger: SigningKey = field(default_factory=SigningKey.generate)

    async def identity(self, *uris: str) -> Identity:
        """Return a certificate of the suite's own authority with these URI names."""
        if uris not in self._identities:
            issued = await self.vault.issue_certificate(f"pki/{ENVIRONMENT}", ANY_ROLE, "", ",".join(uris), "1h")
            identity = Identity(issued.cert_pem.encode(), issued.key_pem.encode(), issued.ca_pem.encode())
            self._identities[uris] = identity
        return self._identities[uris]

    async def channel(self, service: str, *uris: str) -> grpc.aio.Channel:
        """Return a channel to a service, under a certificate with these URI names."""
        key = (service, *uris)
        if key not in self._channels:
            self._channels[key] = self.open(service, await self.identity(*uris))
        return self._channels[key]

    def open(self, service: str, identity: Identity) -> grpc.aio.Channel:
        return open_channel(self.suite.running.addresses[service], identity, server_name(service, ENVIRONMENT))

    def without_certificate(self, service: str, ca_pem: bytes) -> grpc.aio.Channel:
        name = server_name(service, ENVIRONMENT)
        options = (("grpc.ssl_target_name_override", name), ("grpc.default_authority", name))
        return grpc.aio.secure_channel(
            self.suite.running.addresses[service], grpc.ssl_channel_credentials(ca_pem), options
        )

    async def token(self, peer: str, *, sign_with: str = "ctx", kid: str = "", **changes: Any) -> str:
        """Return a token that a workload of a kind could hold, with changes, signed by a transit key or a forger.

        sign_with: `ctx`, `decision`, `log`, or `forger` for a key that nobody knows.
        """
        signed = signing_input(claims(peer, **changes), kid or f"ctx-{ENVIRONMENT}:1")
        if sign_with == "forger":
            return assemble(signed, self._forger.sign(signed).signature)
        signature, _ = await self.vault.transit_sign(f"transit/{ENVIRONMENT}", f"{sign_with}-{ENVIRONMENT}", signed)
        return assemble(signed, signature)

    async def call(
        self, method: str, peer: str, *tokens: str, request: Message | None = None, uris: tuple[str, ...] = ()
    ) -> Answer:
        """Call as a workload of a kind (or with these URI names) and return whatever happens."""
        channel = await self.channel(served_by(method), *(uris or (spiffe(PATHS[peer]),)))
        return await call(channel, method, *tokens, request=request)

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)
        self._channels.clear()


@contextlib.asynccontextmanager
async def door(suite: Suite) -> AsyncIterator[Door]:
    """Make a role at the suite's certificate authority that names anybody, for the time of a test."""
    vault = await suite.vault()
    role = f"pki/{ENVIRONMENT}/roles/{ANY_ROLE}"
    body = {"allowed_uri_sans": "*", "allow_any_name": True, "require_cn": False, "key_type": "ec", "key_bits": 256}
    await vault.call("POST", role, body)
    opened = Door(suite, vault)
    try:
        yield opened
    finally:
        await opened.close()
        await vault.call("DELETE", role)
        vault.close()


def claims(peer: str, **changes: Any) -> TokenClaims:
    """Return what a good token of a peer kind says; services forward the agent's."""
    now = system_clock() // 1000
    is_person = peer in (*PEOPLE, OPERATOR)
    values: dict[str, Any] = {
        "issuer": spiffe("svc/credentials"),
        "audience": f"{DOMAIN}/{ENVIRONMENT}",
        "issue_time": now,
        "expire_time": now + 240,
        "txn": new_id(),
        "subject": "user:omar" if is_person else "user:ana",
        "requester": spiffe(PATHS[peer] if peer not in SERVICES else PATHS[AGENT]),
        "tenant": bank.TENANT,
        "environment": ENVIRONMENT,
        "request_id": new_id(),
        "person_id": "omar" if is_person else "ana",
    }
    if is_person:
        values |= {"roles": tuple(sorted({role for roles in bank.USERS.values() for role in roles})), "auth_time": now}
        values |= {
            "scope": ("approval.read", "approval.vote", "audit.read", "containment", "plan.read", "policy", "tool")
        }
    else:
        values |= {"chain": ({"sub": bank.AGENT, "version": "1.0.0", "owner": "user:ida"},)}
        values |= {"subject_roles": bank.USERS["ana"], "scope": ("plan.commit", "plan.propose", "plan.read")}
    return TokenClaims(**{**values, **changes})


async def call(channel: grpc.aio.Channel, method: str, *tokens: str, request: Message | None = None) -> Answer:
    """Make one call of any of the four shapes; a stream that stays silent is left after a while."""
    described = METHODS[method]
    asked = request if request is not None else message_factory.GetMessageClass(described.input_type)()
    answer_class = message_factory.GetMessageClass(described.output_type)
    sides = ("stream" if described.client_streaming else "unary", "stream" if described.server_streaming else "unary")
    stub = getattr(channel, "_".join(sides))(method, type(asked).SerializeToString, answer_class.FromString)
    body: Any = asked
    if described.client_streaming:
        body = _silence() if request is None else _once(asked)
    running = stub(body, timeout=20, metadata=tuple(("txn-token", token) for token in tokens))
    messages: list[bytes] = []
    try:
        async with asyncio.timeout(OPEN_SECONDS if described.server_streaming else 20):
            if described.server_streaming:
                async for message in running:
                    messages.append(message.SerializeToString(deterministic=True))  # noqa: PERF401 (kept when it fails)
            else:
                messages.append((await running).SerializeToString(deterministic=True))
    except TimeoutError:
        running.cancel()
        return Answer("OPEN", messages=tuple(messages))
    except grpc.aio.AioRpcError as error:
        failure = from_rpc_error(error)
        trailing: Any = error.trailing_metadata() or ()
        known = any(key == "grpc-status-details-bin" for key, _ in trailing)
        return Answer(
            error.code().name,
            failure.reason if known else "",
            error.details() or "",
            failure.next_action if known else "",
            tuple(messages),
        )
    return Answer("OK", messages=tuple(messages))


def filled(method: str, values: Mapping[str, Any]) -> Message:
    """Return a request whose fields of these names hold these values, at any depth; lists get one value."""
    request = message_factory.GetMessageClass(METHODS[method].input_type)()
    _fill(request, values)
    return request


def names_any(method: str, names: Mapping[str, Any]) -> bool:
    """Tell whether a method's request has a field of one of these names."""
    return any(name in names for name in _fields(METHODS[method].input_type, set()))


def _fill(message: Message, values: Mapping[str, Any]) -> None:
    for described in message.DESCRIPTOR.fields:
        if described.name in values:
            value = values[described.name]
            if described.is_repeated:
                getattr(message, described.name).append(value)
            else:
                setattr(message, described.name, value)


def _fields(message: Any, seen: set[str]) -> Iterator[str]:
    if message.full_name in seen:
        return
    seen.add(message.full_name)
    for described in message.fields:
        yield described.name
        if described.type == FieldDescriptor.TYPE_MESSAGE:
            yield from _fields(described.message_type, seen)


async def _once(message: Message) -> AsyncIterator[Message]:
    yield message


async def _silence() -> AsyncIterator[Message]:
    """Open a request stream and say nothing: grpc.aio forgets the server's status when a message crosses it."""
    await asyncio.Event().wait()
    yield  # type: ignore[misc] # never reached; makes this a generator
