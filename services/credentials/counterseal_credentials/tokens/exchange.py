"""Exchange: verify what is shown, look at the barrier, build the claims, sign them, record it.

Thin edge around the pure `engine`: keys, barrier, Vault and the outbox come in as parameters.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey
from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.clock import Clock
from counterseal.documents.decision import Statement, open_statement
from counterseal.documents.plan import parse_plan
from counterseal.errors import (
    Contained,
    CredentialsUnavailable,
    DecisionInvalid,
    PeerNotAllowed,
    TokenInvalid,
    TokenRevoked,
)
from counterseal.ids import IdSource
from counterseal.rpc.ledger_wire import new_entry
from counterseal.rpc.outbox import Outbox
from counterseal.rpc.txn_token import TokenClaims, assemble, signing_input
from counterseal.vault import Signer
from counterseal_credentials.config import CredentialsConfig, Workload
from counterseal_credentials.containment import store as barrier
from counterseal_credentials.containment.engine import epochs_of, stopped_in, token_scopes
from counterseal_credentials.registrations import Registrations
from counterseal_credentials.tokens import engine, jose, oidc
from counterseal_credentials.tokens.engine import Domain, Request
from counterseal_credentials.tokens.jwks_source import JwksSource

KeyOf = Callable[[str], Awaitable[bytes]]
VerifyToken = Callable[[str], Awaitable[TokenClaims]]


@dataclass(frozen=True, slots=True)
class Issued:
    """A signed token and when it ends, in seconds since 1970."""

    token: str
    expire_time: int


class Exchange:
    """The token service's one verb, in its three forms."""

    def __init__(
        self,
        config: CredentialsConfig,
        registrations: Registrations,
        domain: Domain,
        *,
        engine_: AsyncEngine,
        signer: Signer,
        kid: Callable[[], Awaitable[str]],
        verify_token: VerifyToken,
        decision_key: KeyOf,
        jwks: Mapping[str, JwksSource],
        outbox: Outbox,
        clock: Clock,
        new_id: IdSource,
    ) -> None:
        self._config, self._registrations, self._domain, self._engine = config, registrations, domain, engine_
        self._signer, self._kid, self._verify_token, self._decision_key = signer, kid, verify_token, decision_key
        self._jwks, self._outbox, self._clock, self._new_id = jwks, outbox, clock, new_id

    async def person(self, peer: str, raw: str, request: Request) -> Issued:
        """Exchange a person's OIDC JWT.

        Raises PeerNotAllowed, TenantMismatch, TokenInvalid, InputInvalid, Contained.
        """
        workload = self._workload(peer)
        person = await self._person(raw)
        claims = engine.for_person(self._domain, workload, person, request, self._new_id(), self._clock())
        return await self._issue(claims, "oidc", agent=workload.kind == "agent")

    async def next_agent(self, peer: str, raw: str, request: Request) -> Issued:
        """Exchange a txn-token for one in which the calling agent has joined the chain.

        Raises PeerNotAllowed, TokenInvalid, TokenRevoked (a scope of the old token was stopped since), InputInvalid.
        """
        workload = self._workload(peer)
        old = await self._verify_token(raw)
        claims = engine.for_next_agent(self._domain, workload, old, request, self._clock())
        return await self._issue(claims, "chain", agent=True, seen=old.epochs or {})

    async def continuation(self, executor: str, body: bytes, signature: bytes, key: str, plan_bytes: bytes) -> Issued:
        """Exchange a signed decision for a continuation token. Raises DecisionInvalid, PlanInvalid, Contained."""
        statement = await self._decision(body, signature, key)
        plan = parse_plan(plan_bytes)
        claims = engine.for_continuation(self._domain, executor, statement, plan, self._clock())
        extra = tuple(item.scope for item in statement.containment)
        return await self._issue(claims, "continuation", agent=True, extra=extra)

    async def _person(self, raw: str) -> oidc.Person:
        token = jose.split(raw)
        # Read before they are verified only to find out whose key to verify them with.
        alias = oidc.issuer_of(token, jose.json_object(token.payload), self._config.issuers)
        if token.key_id is None:
            raise TokenInvalid("the subject token names no key")
        claims = jose.check(token, await self._jwks[alias].get(token.key_id))
        return oidc.person_of(alias, self._config.issuers[alias], claims, self._registrations.persons, self._clock())

    async def _decision(self, body: bytes, signature: bytes, key: str) -> Statement:
        try:
            public_key = await self._decision_key(key)
        except LookupError:
            raise DecisionInvalid("the decision is signed by a key that is not known here") from None
        return open_statement(body, signature, public_key, verify_ed25519)

    async def _issue(
        self,
        claims: TokenClaims,
        grant_type: str,
        *,
        agent: bool,
        seen: Mapping[str, int] | None = None,
        extra: tuple[str, ...] = (),
    ) -> Issued:
        agents = [str(link.get("sub", "")) for link in claims.chain]
        scopes = token_scopes(claims.environment, claims.tenant, agents, claims.request_id)
        async with self._engine.connect() as connection:
            states = await barrier.states(connection, {*scopes, *extra})
        # A person's own token goes on: people must look, and lift.
        stopped = stopped_in((*scopes, *extra), states) if agent else None
        if stopped is not None:
            raise Contained(scope=stopped)
        for scope, epoch in (seen or {}).items():
            if scope in states and states[scope].epoch > epoch:
                raise TokenRevoked(scope=scope)
        # A trip from here on finds a token with the older epochs, which every barrier refuses.
        claims = replace(claims, epochs=epochs_of(scopes, states))
        token = await self._sign(claims)
        await self._record(claims, grant_type)
        return Issued(token, claims.expire_time)

    async def _record(self, claims: TokenClaims, grant_type: str) -> None:
        actor = claims.chain[0] if claims.chain else {}
        entry = new_entry(
            "token.exchanged",
            {
                "grant_type": grant_type,
                "scope": list(claims.scope),
                "ttl_seconds": claims.expire_time - claims.issue_time,
                "workload": claims.requester,
            },
            event_id=self._new_id(),
            event_time_ms=self._clock(),
            tenant=claims.tenant,
            environment=claims.environment,
            request_id=claims.request_id,
            txn=claims.txn,
            subject=claims.subject,
            agent=str(actor.get("sub", "")),
            agent_version=str(actor.get("version", "")),
        )
        async with self._engine.begin() as connection:
            await self._outbox.put(connection, entry)
        self._outbox.wake()

    async def _sign(self, claims: TokenClaims) -> str:
        # The kid is inside what is signed, so it must be known before: one version is pinned at a time.
        wanted = await self._kid()
        message = signing_input(claims, wanted)
        signature, kid = await self._signer.sign(message)
        if kid != wanted:  # Vault rotated between the two calls
            message = signing_input(claims, kid)
            signature, again = await self._signer.sign(message)
            if again != kid:
                raise CredentialsUnavailable("the signing key changed twice while signing")
        try:
            return assemble(message, signature)
        except ValueError:
            raise TokenInvalid("the token would be longer than services accept: ask for less") from None

    def _workload(self, peer: str) -> Workload:
        found = self._registrations.workload(peer)
        if found is None:
            raise PeerNotAllowed("the workload is not registered, or disabled")
        return found


def verify_ed25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether `signature` is a good Ed25519 signature (RFC 8032) of `message` under `public_key`."""
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True
