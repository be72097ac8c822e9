"""The one interceptor of every server: who calls, whether they may, for whom, until when; then the handler.

One class runs ordered plain functions instead of a chain of wrappers, because each wrapper costs throughput on every
call. Order: peer, method table, token, body, deadline, handler. Around them: error mapping, metrics and access log,
so that refusals are mapped, counted and logged like everything else.

Everything is denied by default: a method that the table does not list is refused, whoever calls.
Request streams are checked message by message, through the iterator that the handler gets; handlers of request
streams read from it and never from `context.read()`.
"""

import asyncio
import contextlib
import functools
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from counterseal import trace_context
from counterseal.clock import Clock
from counterseal.errors import (
    ContextMismatch,
    EnvironmentMismatch,
    InternalError,
    PeerNotAllowed,
    ServiceError,
    TokenInvalid,
)
from counterseal.identity import TOKEN_METADATA_KEY, Caller, SpiffeId, acting_for
from counterseal.rpc.method_table import METHODS, OPERATOR, SERVICES, MethodRule
from counterseal.rpc.status import from_rpc_error, to_status
from counterseal.rpc.tracing import Tracing
from counterseal.rpc.txn_token import TokenClaims
from counterseal.telemetry import ACCESS_LOG, CLEAN, RpcMetrics

EXEMPT = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    }
)
"""Served as they are, by exact name: their servicers are grpcio's own. mTLS has named a workload of ours before."""

MIN_SECONDS_LEFT = 0.1
MAX_UNARY_SECONDS = 60.0
MAX_PENDING_REPORTS = 256
MAX_KEPT_CALLERS = 4096

_MAY_OMIT_TOKEN = frozenset({*SERVICES, OPERATOR})

_workload = functools.lru_cache(1024)(SpiffeId.parse)
"""Connections are few and calls are many; the text is the whole key, and a refusal is not kept."""

access_log = logging.getLogger(ACCESS_LOG)
log = logging.getLogger("counterseal.rpc")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call refused before its handler, by a peer with a valid certificate: what a `call.refused` entry records."""

    method: str
    peer: str
    reason: str
    tenant: str
    request_id: str
    agent: str | None


OnRefused = Callable[[Refusal], Awaitable[None]]
CheckCaller = Callable[[Caller], Awaitable[None]]
"""Raises TokenRevoked when a containment scope of the caller's token is stopped or newer than the token."""


@dataclass(slots=True)
class Hooks:
    """What a service adds: both may be set while the service is built."""

    check_caller: CheckCaller | None = None
    on_refused: OnRefused | None = None


@dataclass(slots=True)
class _Call:
    """What the steps find out about one call."""

    method: str
    rule: MethodRule | None
    context: "grpc.aio.ServicerContext[Any, Any]"
    streams: bool
    started: float
    peer: SpiffeId | None = None
    claims: TokenClaims | None = None
    caller: Caller | None = None
    handled: bool = False
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Wrapped:
    """A method's handler within this interceptor. behavior: a coroutine function in every shape; make: its shape."""

    original: Any
    behavior: Callable[[Any, Any], Awaitable[Any]]
    make: Callable[[Any], Any]
    handler: Any


@dataclass(slots=True)
class Interceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """See the module's docstring.

    verify: returns the verified claims of a raw token (`TokenVerifier.verify`). rules: the method table.
    tracing: None where no spans are recorded; trace contexts are read, made and carried either way.
    """

    trust_domain: str
    environment: str
    verify: Callable[[str], Awaitable[TokenClaims]]
    clock: Clock
    hooks: Hooks = field(default_factory=Hooks)
    rules: Mapping[str, MethodRule] = field(default_factory=lambda: METHODS)
    metrics: RpcMetrics = field(default_factory=RpcMetrics)
    max_unary_seconds: float = MAX_UNARY_SECONDS
    tracing: Tracing | None = None
    _wrapped: dict[str, "_Wrapped"] = field(default_factory=dict)
    _callers: dict[tuple[str, str], tuple[TokenClaims, Caller]] = field(default_factory=dict)
    _reports: set["asyncio.Task[None]"] = field(default_factory=set)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return the handler to run for a call; wrapped once per method, since handlers never change."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method in EXEMPT:
            return handler
        known = self._wrapped.get(method)
        if known is None or known.original is not handler:
            known = self._wrapped[method] = self._wrap(method, handler)
        # The handler runs in this task, so it finds the context; the next call has a task of its own.
        context = trace_context.received(handler_call_details.invocation_metadata or ())
        if context is None:
            context = trace_context.fresh(self.tracing.ratio if self.tracing is not None else 0.0)
        trace_context.enter(context)
        if self.tracing is None or not context.sampled:
            return known.handler
        return known.make(await self.tracing.instrument(known.behavior, handler_call_details))

    def _wrap(self, method: str, handler: Any) -> "_Wrapped":
        shape, behavior = _shape(handler)
        rule = self.rules.get(method)
        streams_in, streams_out = handler.request_streaming, handler.response_streaming
        streams = streams_in or streams_out

        async def unary_in(request: Any, context: Any) -> Any:
            call = _Call(method, rule, context, streams, time.perf_counter())
            return await self._guard(call, lambda: self._answer(call, behavior, request, streams_out), body=request)

        async def stream_in(requests: Any, context: Any) -> Any:
            call = _Call(method, rule, context, streams, time.perf_counter())
            checked = self._checked(call, requests)
            return await self._guard(call, lambda: self._answer(call, behavior, checked, streams_out), body=None)

        make = functools.partial(
            shape,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        whole = stream_in if streams_in else unary_in
        return _Wrapped(handler, whole, make, make(whole))

    async def _guard(self, call: _Call, answer: Callable[[], Awaitable[Any]], *, body: Any) -> Any:
        code, reason = "OK", ""
        try:
            await self._admit(call, body)
            call.handled = True
            assert call.caller is not None  # noqa: S101 (_admit sets it or raises)
            with acting_for(call.caller):
                return await self._before_deadline(call, answer)
        except asyncio.CancelledError:
            # The client's clock ends the call, and its cancellation may be here a moment before our own deadline is.
            remaining = call.context.time_remaining()
            at_deadline = remaining is not None and remaining < MIN_SECONDS_LEFT
            code = "DEADLINE_EXCEEDED" if at_deadline else "CANCELLED"
            raise
        except grpc.aio.AbortError:
            code = _code_of(call.context)
            raise
        except Exception as error:  # noqa: BLE001 (whatever a handler raises, the client sees only a mapped error)
            failure = self._failure(call, error)
            code, reason = failure.code, failure.reason
            if not call.handled:
                self._report(call, reason)
            status = to_status(failure)
            await call.context.abort(status.code, status.details, status.trailing_metadata)
        finally:
            self._account(call, code, reason)

    async def _admit(self, call: _Call, body: Any) -> None:
        call.peer = self._peer(call.context)
        rule = self._rule(call)
        metadata = call.context.invocation_metadata() or ()
        call.claims = await self._token(call.peer, rule, metadata)
        call.caller = self._caller(call, call.peer, metadata)
        if self.hooks.check_caller is not None and call.caller.agent is not None:
            await self.hooks.check_caller(call.caller)
        if body is not None:
            self._body(call, body)
        call.seconds = self._seconds(call)

    def _peer(self, context: Any) -> SpiffeId:
        """Step 1: exactly one URI SAN, a workload of this trust domain and environment."""
        auth = context.auth_context() or {}
        uris = {bytes(value) for value in (*auth.get("peer_spiffe_id", ()), *auth.get("peer_uri", ()))}
        if len(uris) != 1 or not auth.get("peer_spiffe_id"):
            raise PeerNotAllowed("the caller's certificate does not name exactly one workload")
        try:
            peer = _workload(uris.pop().decode("ascii"))
        except ValueError:
            raise PeerNotAllowed("the caller's certificate does not name a workload of ours") from None
        if peer.trust_domain != self.trust_domain or peer.environment != self.environment:
            raise PeerNotAllowed("the caller is a workload of another environment")
        return peer

    def _rule(self, call: _Call) -> MethodRule:
        """Step 2: the method is listed, and the peer for it."""
        assert call.peer is not None  # noqa: S101 (step 1 ran)
        if call.rule is None or call.peer.kind not in call.rule.peers:
            raise PeerNotAllowed("the caller may not use this method", peer=call.peer.kind)
        return call.rule

    async def _token(self, peer: SpiffeId, rule: MethodRule, metadata: Any) -> TokenClaims | None:
        """Step 3: exactly one token where one is due, verified, for this environment, presented by who may hold it."""
        if rule.token == "none":  # noqa: S105 (a word of the method table)
            return None
        raw = [value for key, value in metadata if key == TOKEN_METADATA_KEY]
        if not raw and rule.token == "optional" and peer.kind in _MAY_OMIT_TOKEN:  # noqa: S105
            return None
        if len(raw) != 1 or not isinstance(raw[0], str):
            raise TokenInvalid("the call does not carry exactly one token")
        claims = await self.verify(raw[0])
        if claims.environment != self.environment:
            raise EnvironmentMismatch("the token is for another environment")
        # Services forward tokens; everyone else may only use the one that was issued to them.
        if peer.kind not in SERVICES and claims.requester != peer.uri:
            raise TokenInvalid("the token was issued to another workload")
        return claims

    def _caller(self, call: _Call, peer: SpiffeId, metadata: Any) -> Caller:
        """Return who calls. One token from one peer makes one value, which is kept: callers are frozen."""
        if call.claims is None:
            return Caller(peer=peer.uri, peer_kind=peer.kind, environment=self.environment)
        raw = next(value for key, value in metadata if key == TOKEN_METADATA_KEY)
        claims, caller = self._callers.get((raw, peer.uri), (None, None))
        # The claims are those that were verified just now: another object means another verification.
        if caller is None or claims is not call.claims:
            caller = call.claims.caller(peer, raw)
            if len(self._callers) >= MAX_KEPT_CALLERS:
                self._callers.clear()
            self._callers[raw, peer.uri] = (call.claims, caller)
        return caller

    def _body(self, call: _Call, body: Any) -> None:
        """Step 4: tenant and environment named in the request are the token's and ours."""
        fields = body.DESCRIPTOR.fields_by_name if hasattr(body, "DESCRIPTOR") else {}
        if "environment" in fields and body.environment and body.environment != self.environment:
            raise EnvironmentMismatch
        if call.claims is not None and "tenant" in fields and body.tenant and body.tenant != call.claims.tenant:
            raise ContextMismatch

    def _seconds(self, call: _Call) -> float | None:
        """Step 5: how long the handler may take; None where nothing of ours ends before the client's deadline."""
        remaining = call.context.time_remaining()
        if remaining is not None and remaining < MIN_SECONDS_LEFT:
            raise _DeadlineTooShort
        ours: float | None = None
        if not call.streams:
            ours = self.max_unary_seconds
        elif call.claims is not None:
            ours = max(0.0, call.claims.expire_time - self.clock() / 1000)
        if ours is None or remaining is None:
            return ours
        # gRPC ends the call at the client's own deadline, by cancelling the handler: a timer of ours beside it would
        # cost every call a tenth of its time and change nothing.
        return ours if ours < remaining else None

    async def _before_deadline(self, call: _Call, answer: Callable[[], Awaitable[Any]]) -> Any:
        if call.seconds is None:
            return await answer()
        limit = asyncio.timeout(call.seconds)
        try:
            async with limit:
                return await answer()
        except TimeoutError:
            if not limit.expired():
                raise
            if call.claims is not None and self.clock() >= call.claims.expire_time * 1000:
                raise TokenInvalid("the stream's token has expired; open it again with a fresh one") from None
            raise _DeadlineTooShort from None

    async def _answer(self, call: _Call, behavior: Any, request: Any, streams_out: bool) -> Any:
        if not streams_out:
            return await behavior(request, call.context)
        if not inspect.isasyncgenfunction(behavior):
            await behavior(request, call.context)  # this style writes to the context itself
            return None
        # Closing the generator here runs the handler's `finally` before this call's accounting, also on cancellation.
        async with contextlib.aclosing(behavior(request, call.context)) as responses:
            async for response in responses:
                await call.context.write(response)
        return None

    async def _checked(self, call: _Call, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self._body(call, request)
            yield request

    def _failure(self, call: _Call, error: BaseException) -> ServiceError:
        error = _first_of(error)
        if isinstance(error, ServiceError):
            return error
        if isinstance(error, grpc.aio.AioRpcError):
            return from_rpc_error(error)
        log.error("a handler failed", extra={"method": call.method}, exc_info=error)
        return InternalError("internal error")

    def _report(self, call: _Call, reason: str) -> None:
        """Tell the service of a refusal; never waits, and drops reports rather than pile them up."""
        if call.peer is None or self.hooks.on_refused is None or len(self._reports) >= MAX_PENDING_REPORTS:
            return
        claims = call.claims
        refusal = Refusal(
            method=call.method,
            peer=call.peer.uri,
            reason=reason,
            tenant=claims.tenant if claims else "",
            request_id=claims.request_id if claims else "",
            agent=(claims.chain[0]["sub"] if claims.chain else None) if claims else None,
        )
        task = asyncio.create_task(_shield_report(self.hooks.on_refused, refusal), name="call.refused")
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    def _account(self, call: _Call, code: str, reason: str) -> None:
        duration_ms = (time.perf_counter() - call.started) * 1000
        self.metrics.record(call.method if call.rule else "unlisted", code, reason, duration_ms)
        context = trace_context.current()
        if self.tracing is not None and context is not None and context.sampled:
            self.tracing.describe(code, reason, call.caller.request_id if call.caller else "")
        if access_log.isEnabledFor(logging.INFO):
            caller = call.caller
            fields = {
                "method": call.method,
                "peer": call.peer.uri if call.peer else "",
                "code": code,
                "reason": reason,
                "duration_ms": round(duration_ms, 2),
                "request_id": caller.request_id if caller else "",
                "trace_id": context.trace_id if context else "",
            }
            # Not `info()`: that walks the stack for a place in the code which no line of ours shows.
            record = logging.LogRecord(ACCESS_LOG, logging.INFO, "", 0, "call", (), None)
            setattr(record, CLEAN, fields)
            access_log.handle(record)


class _DeadlineTooShort(InternalError):
    """The call's deadline is too near, or has passed. Nothing is known about its effect."""

    code = "DEADLINE_EXCEEDED"


def _shape(handler: Any) -> tuple[Any, Any]:
    if handler.request_streaming:
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler, handler.stream_stream
        return grpc.stream_unary_rpc_method_handler, handler.stream_unary
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, handler.unary_stream
    return grpc.unary_unary_rpc_method_handler, handler.unary_unary


def _first_of(error: BaseException) -> BaseException:
    """Return what a TaskGroup in a handler wrapped: the first error of ours inside, else the first of all."""
    while isinstance(error, BaseExceptionGroup):
        error = next((e for e in error.exceptions if isinstance(e, ServiceError)), error.exceptions[0])
    return error


def _code_of(context: Any) -> str:
    # `context.code()` is None until something was set, and an int after an abort in some releases.
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return next((known.name for known in grpc.StatusCode if known.value[0] == code), "UNKNOWN")


async def _shield_report(hook: OnRefused, refusal: Refusal) -> None:
    try:
        await hook(refusal)
    except Exception:
        log.exception("a refusal was not recorded", extra={"method": refusal.method})
