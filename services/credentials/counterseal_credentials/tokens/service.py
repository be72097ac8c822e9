"""gRPC edge of the token service: proto in, values through, proto out."""

from typing import Any

from counterseal.api.credentials.v1 import token_pb2, token_pb2_grpc
from counterseal.errors import InputInvalid, PeerNotAllowed, ServiceError
from counterseal.identity import Caller, current_caller
from counterseal.rpc.interceptor import OnRefused, Refusal
from counterseal.rpc.method_table import EXECUTOR
from counterseal_credentials.registrations import Registrations
from counterseal_credentials.tokens import constraints
from counterseal_credentials.tokens.engine import Request
from counterseal_credentials.tokens.exchange import Exchange, Issued
from counterseal_credentials.tokens.keys import PublishedKeys

CACHE_SECONDS = 30
EXCHANGE = "/counterseal.api.credentials.v1.TokenService/ExchangeToken"
_STATES = {"active": token_pb2.KEY_STATE_ACTIVE, "archived": token_pb2.KEY_STATE_ARCHIVED}


class TokenService(token_pb2_grpc.TokenServiceServicer):
    """See `token.proto`."""

    def __init__(
        self, exchange: Exchange, keys: PublishedKeys, registrations: Registrations, on_refused: OnRefused
    ) -> None:
        self._exchange = exchange
        self._keys = keys
        self._registrations = registrations
        self._on_refused = on_refused

    async def ExchangeToken(  # noqa: N802
        self,
        request: token_pb2.ExchangeTokenRequest,
        context: Any,  # noqa: ARG002
    ) -> token_pb2.ExchangeTokenResponse:
        """Exchange a subject token for a txn-token. Who is refused here leaves a `call.refused`, as at every door."""
        caller = current_caller()
        try:
            return await self._exchange_token(request, caller)
        except ServiceError as error:
            workload = self._registrations.workload(caller.peer)
            # Nothing that an unverified request claims is written down, but for a tenant that is the workload's own.
            tenant = request.tenant if workload is not None and request.tenant in workload.tenants else ""
            agent = workload.agent if workload is not None else None
            await self._on_refused(Refusal(EXCHANGE, caller.peer, error.reason, tenant, "", agent or None))
            raise

    async def _exchange_token(
        self, request: token_pb2.ExchangeTokenRequest, caller: Caller
    ) -> token_pb2.ExchangeTokenResponse:
        kind = request.WhichOneof("subject_token")
        if kind == "signed_decision":
            if caller.peer_kind != EXECUTOR:
                raise PeerNotAllowed("only the executor continues a decision")
            decision = request.signed_decision
            return _answer(
                await self._exchange.continuation(
                    caller.peer, decision.statement, decision.signature, decision.key, request.canonical_plan
                )
            )
        if caller.peer_kind == EXECUTOR:
            raise PeerNotAllowed("the executor exchanges signed decisions only")
        wanted = Request(
            tenant=request.tenant,
            request_id=request.request_id,
            session_id=request.session_id,
            scopes=tuple(request.scopes),
            constraints=constraints.read(request.constraints),
            agent_version=request.agent_version,
        )
        if kind == "oidc_jwt":
            return _answer(await self._exchange.person(caller.peer, request.oidc_jwt, wanted))
        if kind == "txn_token":
            return _answer(await self._exchange.next_agent(caller.peer, request.txn_token, wanted))
        raise InputInvalid("exactly one subject token must be set", field="subject_token")

    async def GetKeys(  # noqa: N802
        self,
        request: token_pb2.GetKeysRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> token_pb2.GetKeysResponse:
        """Publish the verification keys; compromised ones are not among them."""
        answer = token_pb2.GetKeysResponse()
        answer.cache_ttl.FromSeconds(CACHE_SECONDS)
        for key in (await self._keys.all()).values():
            if key.state in _STATES:
                answer.keys.add(key=key.kid, use=key.use, public_key=key.public_key, state=_STATES[key.state])
        return answer


def _answer(issued: Issued) -> token_pb2.ExchangeTokenResponse:
    answer = token_pb2.ExchangeTokenResponse(txn_token=issued.token)
    answer.expire_time.FromSeconds(issued.expire_time)
    return answer
