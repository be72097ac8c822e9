"""Python SDK: what agents and people call. Needs nothing but grpc and protobuf.

    async with Client.open("profiles/agent-refund-bot/profile.toml") as client:
        request = client.request(user_jwt)
        proposal = await request.propose(Draft("Refund order 1001", [Step("s1", "shop.refund@1.0.0", "shop", args)]))
        await request.commit(proposal.plan_id, proposal.plan_digest)
        plan = await request.wait(proposal.plan_id)

Errors are `counterseal.errors.ServiceError`s: `reason`, `message`, `metadata`, `next_action`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from counterseal.client.agent import AgentRequest, Proposal, outcome_name
from counterseal.client.connection import Connection
from counterseal.client.draft import Draft, EchoMismatch, Post, Step, Undo, verify_echo
from counterseal.client.person import Person
from counterseal.client.profile import Login, Profile
from counterseal.client.tokens import IdentityToken, Tokens
from counterseal.errors import InputInvalid
from counterseal.ids import new_id

__all__ = [
    "AgentRequest",
    "Client",
    "Connection",
    "Draft",
    "EchoMismatch",
    "IdentityToken",
    "Login",
    "Person",
    "Post",
    "Profile",
    "Proposal",
    "Step",
    "Tokens",
    "Undo",
    "outcome_name",
    "verify_echo",
]


class Client:
    """One workload's access to one deployment: a profile and its channels."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.connection = Connection(profile)

    @classmethod
    def open(cls, profile: Path | str) -> Self:
        """Return a client of a profile file; raises ConfigError. Nothing connects yet."""
        return cls(Profile.load(Path(profile)))

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the channels."""
        await self.connection.close()

    def request(
        self,
        identity_token: IdentityToken,
        *,
        tenant: str | None = None,
        request_id: str | None = None,
        session_id: str = "",
        constraints: Mapping[str, Any] | None = None,
        agent_version: str = "",
    ) -> AgentRequest:
        """Begin one user request as this agent. Everything proposed under it shares its id and its constraints."""
        wanted = request_id or new_id()
        tokens = self.tokens(
            identity_token,
            tenant=tenant,
            request_id=wanted,
            session_id=session_id,
            constraints=constraints,
            agent_version=agent_version,
        )
        return AgentRequest(self.connection, tokens, wanted)

    def person(self, identity_token: IdentityToken, *, tenant: str | None = None) -> Person:
        """Act as a person, with a `cli` or `console` certificate."""
        return Person(self.connection, self.tokens(identity_token, tenant=tenant, request_id=new_id()))

    def tokens(self, identity_token: IdentityToken, *, tenant: str | None, request_id: str, **more: Any) -> Tokens:
        """Return the txn-tokens of one request."""
        chosen = tenant or self.profile.tenant
        if chosen is None:
            raise InputInvalid("no tenant: name one, or set `tenant` in the profile")
        return Tokens(self.connection, identity_token, tenant=chosen, request_id=request_id, **more)
