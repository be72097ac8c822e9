"""Issue, redeem, report, revoke: the broker's four verbs, over store, Vault and ledger."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.clock import Clock
from counterseal.documents.decision import Statement, open_statement
from counterseal.documents.plan import Draft, Plan
from counterseal.documents.tool import parse_tool
from counterseal.errors import (
    AttemptRevoked,
    Contained,
    ContainmentStale,
    CredentialsUnavailable,
    DecisionInvalid,
    GrantLimit,
    IdempotencyKeyReused,
    InputInvalid,
    IntentMissing,
    NotFound,
    PlanBytesNeeded,
    ServiceError,
    TokenRevoked,
    WrongState,
)
from counterseal.identity import Caller
from counterseal.ids import IdSource, is_id
from counterseal.rpc.outbox import Outbox
from counterseal.vault import VaultRefused
from counterseal.vault.broker import Broker, WrappedToken
from counterseal.vault.names import Environment
from counterseal_credentials.config import CredentialsConfig
from counterseal_credentials.containment import store as barrier
from counterseal_credentials.containment.engine import outdated, token_scopes
from counterseal_credentials.database import EVERY_TENANT, transaction
from counterseal_credentials.grants import engine, store
from counterseal_credentials.grants.death import Undertaker
from counterseal_credentials.grants.engine import Asked, Lending, State
from counterseal_credentials.grants.entries import Entries
from counterseal_credentials.grants.store import Grant
from counterseal_credentials.tokens.exchange import verify_ed25519

CACHED_PLANS = 256
CLOSE_SECONDS = 5.0

log = logging.getLogger("counterseal.credentials.grants")

DecisionKey = Callable[[str], Awaitable[bytes]]
"""kid -> 32 public bytes of an *active* decision key; raises LookupError."""
ReadEntry = Callable[[str, str], Awaitable[dict[str, object] | None]]
"""(tenant, event id) -> a ledger entry's content, None when there is none."""


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What the holder gets, once: the wrapper, and where to use it."""

    wrapped: WrappedToken
    vault_address: str
    credential_path: str
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of an attempt's grants."""

    never_redeemed: bool
    verified_dead: bool
    verify_time: datetime | None


class Lender:
    """The broker. `fresh` tells whether policy's containment stream is young enough for writing."""

    def __init__(
        self,
        config: CredentialsConfig,
        environment: Environment,
        *,
        engine_: AsyncEngine,
        broker: Broker,
        undertaker: Undertaker,
        decision_key: DecisionKey,
        read_entry: ReadEntry,
        fresh: Callable[[], bool],
        entries: Entries,
        outbox: Outbox,
        clock: Clock,
        new_id: IdSource,
    ) -> None:
        self._config, self._environment, self._engine, self._broker = config, environment, engine_, broker
        self._undertaker, self._decision_key, self._read_entry = undertaker, decision_key, read_entry
        self._fresh, self._entries, self._outbox = fresh, entries, outbox
        self._clock, self._new_id = clock, new_id
        self._documents: OrderedDict[str, Plan | Draft] = OrderedDict()
        self._running: set[asyncio.Task[Any]] = set()

    async def issue(
        self, caller: Caller, asked: Asked, body: bytes, signature: bytes, key: str, plan: bytes, descriptor: bytes
    ) -> Grant:
        """Create a grant; makes no call to Vault. Idempotent on the key. Raises as `grant.proto` says."""
        decision: Statement | None = None
        try:
            decision = await self._decision(body, signature, key)
            return await self._issue(caller, asked, decision, plan, descriptor)
        except ServiceError as error:
            if error.reason not in ("PLAN_BYTES_NEEDED", "INPUT_INVALID") and is_id(asked.attempt_id):
                await self._record(caller.tenant, self._entries.denied(caller, asked, decision, error.reason))
            raise

    async def redeem(self, caller: Caller, grant_id: str) -> Redeemed:
        """Hand out the grant's wrapper, once, to its holder.

        Runs to its end even if the caller goes away: what was made in Vault must be recorded or killed.
        Raises NotFound, WrongState, Contained, AttemptRevoked, ContainmentStale, CredentialsUnavailable,
        LedgerUnavailable.
        """
        task = asyncio.create_task(self._redeem(caller, grant_id), name="redeem")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def report(self, holder: str, tenant: str, grant_id: str, lease_id: str) -> None:
        """Store the lease behind a grant. Raises NotFound, InputInvalid for a lease of another role.

        tenant: the token's, whose grants alone are seen; empty where the call carried none.
        """
        async with transaction(self._engine, tenant or EVERY_TENANT) as connection:
            grant = await store.get(connection, grant_id) if is_id(grant_id) else None
            if grant is None or grant.holder != holder:
                raise NotFound("there is no such grant")
            if not lease_id.startswith(f"{grant.role(self._environment).credential_path}/") or len(lease_id) > 512:
                raise InputInvalid("the lease is not one of the grant's role", field="lease_id")
            await store.report(connection, grant_id, holder, lease_id)

    async def revoke(self, tenant: str, attempt_id: str, reason: str, purpose: str | None, seconds: float) -> Ended:
        """Leave a tombstone (but for READ), kill the attempt's grants, wait up to `seconds` for verified death."""
        if not is_id(attempt_id):
            raise InputInvalid("attempt_id must be a UUID", field="attempt_id")
        async with transaction(self._engine, tenant) as connection:
            await store.tombstone(connection, tenant, attempt_id, leave=purpose != "READ")
            grants = await store.of_attempt(connection, tenant, attempt_id, purpose)
            for grant in grants:
                await self.end(connection, grant, reason)
        self._outbox.wake()
        ids = [grant.grant_id for grant in grants]
        after = await self._undertaker.wait(tenant, ids, 0)
        dying = [grant for grant in after.values() if grant.state is State.REVOKING]
        if dying:
            burial = asyncio.create_task(self._undertaker.bury(dying), name="bury")
            self._running.add(burial)
            burial.add_done_callback(self._running.discard)
            await asyncio.wait([burial], timeout=seconds)
            after = await self._undertaker.wait(tenant, ids, 0)
        times = [grant.verify_time for grant in after.values() if grant.verify_time is not None]
        dead = len(times) == len(after)
        return Ended(
            never_redeemed=all(grant.state is State.FAILED for grant in after.values()),
            verified_dead=dead,
            verify_time=max(times) if dead and times else None,
        )

    async def close(self) -> None:
        """Let what is under way end: a token that was made in Vault must be recorded or killed before the process goes.

        Bounded; what is cut off after that is the reconciler's, on another replica or after the restart.
        """
        if self._running:
            await asyncio.wait(set(self._running), timeout=CLOSE_SECONDS)
        await cancelled(self._running)

    async def end(self, connection: AsyncConnection, grant: Grant, reason: str) -> bool:
        """Move a live grant towards its end in the caller's transaction; tells whether it is dying."""
        if await store.fail(connection, grant, reason):
            ended = await store.get(connection, grant.grant_id)
            if ended is not None:
                await self._outbox.put(connection, self._entries.revoked(ended, never_redeemed=True))
            return False
        return await store.revoke(connection, grant, reason) or grant.state is State.REVOKING

    async def _decision(self, body: bytes, signature: bytes, key: str) -> Statement:
        try:
            public_key = await self._decision_key(key)
        except LookupError:
            raise DecisionInvalid("the decision is signed by a key that is not active here") from None
        return open_statement(body, signature, public_key, verify_ed25519)

    async def _issue(self, caller: Caller, asked: Asked, decision: Statement, plan: bytes, descriptor: bytes) -> Grant:
        engine.check_caller(decision, caller, self._environment.name, self._clock())
        engine.check_purpose(decision, asked, caller.scope)
        document = self._document(decision, plan)
        tool = parse_tool(descriptor)
        most = self._config.max_grant_ttl_seconds
        lending = engine.lend(decision, document, tool, asked, self._environment, most)
        digest = engine.request_digest(decision, asked, tool)
        async with transaction(self._engine, caller.tenant) as connection:
            known = await store.by_key(connection, caller.tenant, asked.idempotency_key)
        if known is not None:
            return _same(known, digest)
        if asked.purpose == "WRITE":
            if not self._fresh():
                raise ContainmentStale
            await self._check_intent(decision, asked, lending)
        return await self._insert(caller, asked, decision, lending, digest)

    async def _check_intent(self, decision: Statement, asked: Asked, lending: Lending) -> None:
        if not is_id(asked.intent_event_id):
            raise IntentMissing("an effect needs the event id of its acknowledged intent")
        entry = await self._read_entry(decision.tenant, asked.intent_event_id)
        if entry is None or not engine.check_intent(entry, decision, asked, lending.tool):
            raise IntentMissing("the ledger holds no intent of this attempt under that event id")

    async def _insert(self, caller: Caller, asked: Asked, decision: Statement, lending: Lending, digest: str) -> Grant:
        async with transaction(self._engine, caller.tenant) as connection:
            await self._check_barrier(connection, lending.scopes, lending.epochs, caller)
            buried = await store.tombstone(connection, caller.tenant, asked.attempt_id, leave=False)
            if buried and asked.purpose == "WRITE":
                raise AttemptRevoked
            if not await store.still_alive(connection, decision.expire_time_ms):
                raise DecisionInvalid("the decision has expired; ask again")
            known = await store.by_key(connection, caller.tenant, asked.idempotency_key)
            if known is not None:  # two calls with one key at once: the second waited for the attempt's row
                return _same(known, digest)
            limits = [(decision.agent, self._config.agent_limit)] if decision.agent else []
            full = await store.count_up(connection, caller.tenant, [*limits, ("", self._config.tenant_limit)])
            if full is not None:
                raise GrantLimit(limit_of=full)
            return await store.insert(connection, self._new_id(), asked, decision, lending, digest, caller.peer)

    async def _redeem(self, caller: Caller, grant_id: str) -> Redeemed:
        grant = await self._bind(caller, grant_id)
        role = grant.role(self._environment)
        try:
            wrapped = await self._broker.create_token(role, grant.grant_id, grant.ttl_seconds)
        except (VaultRefused, CredentialsUnavailable) as error:
            # Perhaps a token exists; nobody holds it, it has no lease, and it dies by its own life.
            await self._give_up(grant, "FAILED")
            log.warning("Vault made no token for a grant", extra={"grant_id": grant.grant_id})
            raise CredentialsUnavailable("Vault made no token for the grant") from error
        event_id = await self._keep(caller, grant, wrapped)
        if grant.purpose == "WRITE":
            await self._acknowledged(grant, event_id)
        return Redeemed(wrapped, self._config.vault_address, role.credential_path, grant.not_after)

    async def _bind(self, caller: Caller, grant_id: str) -> Grant:
        async with transaction(self._engine, caller.tenant) as connection:
            grant = await self._own(connection, caller, grant_id)
            await self._check_live(connection, grant, caller)
            if not await store.bind(connection, grant.grant_id):
                raise WrongState("the grant was redeemed, revoked or has expired", state=grant.state.value)
            return grant

    async def _keep(self, caller: Caller, grant: Grant, wrapped: WrappedToken) -> str:
        """Store the accessor before a lease can exist; when anybody was faster, kill the token and answer nothing."""
        entry = self._entries.granted(grant)
        try:
            async with transaction(self._engine, grant.tenant) as connection:
                await self._check_live(connection, grant, caller)
                if not await store.bound(connection, grant.grant_id, wrapped.accessor):
                    raise WrongState("the grant was revoked while it was redeemed")
                await self._outbox.put(connection, entry)
        except BaseException as error:
            await self._broker.revoke_token(wrapped.accessor)
            await self._give_up(grant, error.reason if isinstance(error, ServiceError) else "FAILED")
            raise
        self._outbox.wake()
        return entry.event_id

    async def _acknowledged(self, grant: Grant, event_id: str) -> None:
        """An effect's credential leaves only after the ledger has it; otherwise the grant dies unseen."""
        try:
            await self._outbox.deliver(event_id)
        except ServiceError:
            await self._give_up(grant, "LEDGER_UNAVAILABLE")
            raise

    async def _give_up(self, grant: Grant, reason: str) -> None:
        async with transaction(self._engine, grant.tenant) as connection:
            await self.end(connection, grant, reason)
        self._outbox.wake()

    async def _own(self, connection: AsyncConnection, caller: Caller, grant_id: str) -> Grant:
        grant = await store.get(connection, grant_id) if is_id(grant_id) else None
        if grant is None or (grant.tenant, grant.holder, grant.txn) != (caller.tenant, caller.peer, caller.txn):
            raise NotFound("there is no such grant")
        return grant

    async def _check_live(self, connection: AsyncConnection, grant: Grant, caller: Caller) -> None:
        await self._check_barrier(connection, grant.scopes, grant.epochs, caller)
        if grant.purpose == "WRITE":
            if not self._fresh():
                raise ContainmentStale
            if await store.tombstone(connection, grant.tenant, grant.attempt_id, leave=False):
                raise AttemptRevoked

    async def _check_barrier(
        self, connection: AsyncConnection, scopes: tuple[str, ...], epochs: tuple[int, ...], caller: Caller
    ) -> None:
        agents = [str(link.get("sub", "")) for link in caller.chain]
        of_token = token_scopes(caller.environment, caller.tenant, agents, caller.request_id)
        await barrier.lock_shared(connection)
        states = await barrier.states(connection, {*scopes, *of_token})
        for scope, seen in zip(scopes, epochs, strict=True):
            state = states.get(scope)
            if state is not None and (state.stopped or state.epoch > seen):
                raise Contained(scope=scope)
        dead = outdated(caller, states)
        if dead is not None:
            raise TokenRevoked(scope=dead)

    def _document(self, decision: Statement, plan: bytes) -> Plan | Draft:
        known = self._documents.get(decision.plan_digest)
        if known is None:
            if not plan:
                raise PlanBytesNeeded
            known = engine.read_document(decision, plan)
        if isinstance(known, Draft) and decision.purpose != "PREVIEW":
            raise DecisionInvalid("a draft can only be previewed")
        # The key is the digest, which says plan or draft: bytes of one kind never stand in for the other.
        self._documents[decision.plan_digest] = known
        self._documents.move_to_end(decision.plan_digest)
        while len(self._documents) > CACHED_PLANS:
            self._documents.popitem(last=False)
        return known

    async def _record(self, tenant: str, entry: ledger_pb2.NewEntry) -> None:
        async with transaction(self._engine, tenant) as connection:
            await self._outbox.put(connection, entry)
        self._outbox.wake()


async def cancelled(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel tasks and return once they have let go of their connections."""
    pending = set(tasks)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)


def _same(known: Grant, digest: str) -> Grant:
    if known.request_digest != digest:
        raise IdempotencyKeyReused
    return known
