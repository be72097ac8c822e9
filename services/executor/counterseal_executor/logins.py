"""Borrowing a credential: grant, wrapper, login. The only place of this service that touches Vault.

The broker hands over a single-use wrapper of a Vault token; whoever unwraps it first has it, so a wrapper that is
already used was stolen, and the grant is given up as such. Logins live in memory only and are never logged.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import CredentialsUnavailable
from counterseal.vault import Login, VaultRefused
from counterseal_executor.connectors.base import Credential, Target
from counterseal_executor.decisions import Decision
from counterseal_executor.peers import MAX_READ_SECONDS, READ, WRITE, Broker, Grant

WITHOUT_CREDENTIAL = frozenset({"sim"})
"""Connectors whose targets know no login; nothing is borrowed for them, and a lost attempt is waited out instead."""


class Unwrapper(Protocol):
    """The three calls of Vault that a holder of a wrapper makes."""

    async def wrapping_lookup(self, wrapping_token: str) -> str:
        """Return the path that created the wrapper."""

    async def unwrap_token(self, wrapping_token: str) -> str:
        """Return the wrapped token."""

    async def read_login(self, path: str, token: str) -> Login:
        """Return a login."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a login is for: the exact bytes, the step, its tool and target, and the decision that covers them.

    attempt_id: the attempt, or the id under which a draft's or plan's reads are grouped. undo: the step's undo.
    token: the txn-token under which the call is made.
    """

    attempt_id: str
    body: bytes
    decision: Decision
    step_id: str
    tool: ToolDescriptor
    target: Target
    token: str
    undo: bool = False


class Logins:
    """Borrows logins for reading and writing."""

    def __init__(self, broker: Broker, vault: Unwrapper) -> None:
        self._broker = broker
        self._vault = vault

    async def read(self, need: Need, seconds: int) -> Credential | None:
        """Borrow a read-only login for at most 60 s; None for targets that know no login."""
        if need.target.kind in WITHOUT_CREDENTIAL:
            return None
        grant = await self._issue(need, READ, min(seconds, MAX_READ_SECONDS), "")
        return await self._take(grant, need)

    async def issue_write(self, need: Need, intent_event_id: str, seconds: int) -> Grant | None:
        """Issue the grant of one attempt; the caller stores its id before it takes the login."""
        if need.target.kind in WITHOUT_CREDENTIAL:
            return None
        return await self._issue(need, WRITE, seconds, intent_event_id)

    async def take_write(self, grant: Grant | None, need: Need) -> Credential | None:
        """Redeem the grant once and read its login."""
        return None if grant is None else await self._take(grant, need)

    async def _issue(self, need: Need, purpose: Any, seconds: int, intent_event_id: str) -> Grant:
        return await self._broker.issue(
            purpose=purpose,
            attempt_id=need.attempt_id,
            decision=need.decision,
            plan=need.body,
            step_id=need.step_id,
            undo=need.undo,
            tool=need.tool,
            target=need.target.alias,
            intent_event_id=intent_event_id,
            ttl_seconds=seconds,
            token=need.token,
        )

    async def _take(self, grant: Grant, need: Need) -> Credential:
        wrapper = await self._broker.redeem(grant.grant_id, need.token)
        try:
            created_by = await self._vault.wrapping_lookup(wrapper.token)
            if created_by != wrapper.creation_path:
                raise CredentialsUnavailable("the wrapper was not made by the path that the broker names")
            token = await self._vault.unwrap_token(wrapper.token)
        except VaultRefused:
            # "Not valid or does not exist": somebody was first, or 20 s went by. Both end this grant.
            await self._broker.revoke(need.attempt_id, need.decision.statement.tenant, "STOLEN")
            raise CredentialsUnavailable("the wrapper was used already or has lapsed") from None
        try:
            login = await self._vault.read_login(wrapper.credential_path, token)
        except VaultRefused:
            raise CredentialsUnavailable("Vault refused the credential of a fresh grant") from None
        await self._broker.report_lease(grant.grant_id, login.lease_id)
        return Credential(login.username, login.password)
