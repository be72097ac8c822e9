"""txn-tokens for calls: exchanged from a person's OIDC token, kept until shortly before they expire."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from counterseal.api.credentials.v1 import token_pb2, token_pb2_grpc
from counterseal.canonical import canonical
from counterseal.client.connection import Connection
from counterseal.clock import Clock, system_clock
from counterseal.errors import InputInvalid

IdentityToken = str | Callable[[], Awaitable[str]]
"""A person's OIDC JWT, or a coroutine function that fetches a fresh one."""

RENEW_BEFORE_MS = 60_000


class Tokens:
    """The txn-token of one request: every plan proposed under it shares `request_id` and the request's constraints.

    constraints: what this request must not do (`read_only`, `max_amount_minor`, ...); they only narrow.
    """

    def __init__(
        self,
        connection: Connection,
        identity_token: IdentityToken,
        *,
        tenant: str,
        request_id: str,
        session_id: str = "",
        scopes: tuple[str, ...] = (),
        constraints: Mapping[str, Any] | None = None,
        agent_version: str = "",
        clock: Clock = system_clock,
    ) -> None:
        self._connection = connection
        self._identity_token = identity_token
        self._request = token_pb2.ExchangeTokenRequest(
            tenant=tenant,
            request_id=request_id,
            session_id=session_id,
            scopes=scopes,
            constraints=canonical(dict(constraints)) if constraints else b"",
            agent_version=agent_version,
        )
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token = ""
        self._expire_time_ms = 0

    async def get(self) -> str:
        """Return a token that lives for at least a minute; raises ServiceError (TOKEN_INVALID, CONTAINED, ...)."""
        async with self._lock:
            if self._clock() + RENEW_BEFORE_MS >= self._expire_time_ms:
                await self._exchange()
            return self._token

    async def _exchange(self) -> None:
        source = self._identity_token
        request = token_pb2.ExchangeTokenRequest()
        request.CopyFrom(self._request)
        request.oidc_jwt = source if isinstance(source, str) else await source()
        if not request.oidc_jwt:
            raise InputInvalid("there is no identity token to exchange")
        stub = token_pb2_grpc.TokenServiceStub(self._connection.channel("credentials"))
        answer = await self._connection.call("credentials", stub.ExchangeToken, request, repeat=True)
        self._token, self._expire_time_ms = answer.txn_token, answer.expire_time.ToMilliseconds()
