"""The grant broker on a real database, a real Vault and a real target, with a small ledger beside it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from counterseal.clock import system_clock
from counterseal.documents.decision import (
    Context,
    Obligation,
    ScopeEpoch,
    Statement,
    StepDecision,
    build_statement,
    nested_act,
    signing_input,
)
from counterseal.documents.plan import Draft, Plan
from counterseal.documents.tool import ToolDescriptor
from counterseal.identity import Caller, service_spiffe_id
from counterseal.ids import new_id
from counterseal.ledger.entry import parse
from counterseal.rpc.ledger_client import LedgerClient
from counterseal.rpc.ledger_wire import new_entry
from counterseal.rpc.outbox import Outbox
from counterseal.vault import Login, Vault
from counterseal.vault.broker import Broker
from counterseal.vault.names import Environment
from counterseal_credentials.config import CredentialsConfig, IssuerConfig
from counterseal_credentials.containment.kill import Barrier
from counterseal_credentials.grants.death import Undertaker
from counterseal_credentials.grants.engine import Asked
from counterseal_credentials.grants.entries import Entries
from counterseal_credentials.grants.lending import Lender, Redeemed
from counterseal_credentials.grants.reconciler import Reconciler
from counterseal_credentials.grants.store import Grant
from support import documents
from support.ledger import TinyLedger, serve
from support.openbao import ENVIRONMENT, TRUST_DOMAIN, Provisioned
from support.postgres import ServiceDatabase
from support.signer import LocalSigner

DECISION_KID = "decision-prod:1"
EXECUTOR = service_spiffe_id(TRUST_DOMAIN, ENVIRONMENT, "executor")
TENANTS = ("acme", "evil")


def config(**changes: Any) -> CredentialsConfig:
    issuer = IssuerConfig("https://issuer", "counterseal", "https://issuer/jwks", tenants=TENANTS, primary=True)
    values = {"vault_address": "https://vault", "tenants": TENANTS, "issuers": {"dev": issuer}, **changes}
    return CredentialsConfig(**values)


def tool(**changes: Any) -> ToolDescriptor:
    return documents.tool(**{"connector": {"kind": "postgres", "config": {}}, **changes})


@dataclass(frozen=True, slots=True)
class Case:
    """One step of one plan, and everything that an Issue for it needs."""

    plan: Plan | Draft
    tool: ToolDescriptor
    caller: Caller
    statement: Statement
    asked: Asked


class Desk:
    """The broker and its parts; `fresh` stands for the age of policy's stream."""

    def __init__(
        self, database: ServiceDatabase, engine: AsyncEngine, vault: Vault, ledger: TinyLedger, channel: Any
    ) -> None:
        self.database, self.engine, self.vault, self.ledger = database, engine, vault, ledger
        self.environment = Environment(ENVIRONMENT)
        self.fresh = True
        self.signer = LocalSigner(DECISION_KID)
        self.settings = config()
        self.outbox = Outbox(engine, LedgerClient(channel))
        self.broker = Broker(vault, vault.lane(4), self.environment)
        self.entries = Entries(ENVIRONMENT, system_clock, new_id)
        self.replica()

    def replica(self) -> "Desk":
        """Make the parts anew, as another process would have them."""
        self.undertaker = Undertaker(
            self.engine, self.broker, self.environment, self.entries, self.outbox, system_clock
        )
        self.lender = Lender(
            self.settings,
            self.environment,
            engine_=self.engine,
            broker=self.broker,
            undertaker=self.undertaker,
            decision_key=self.decision_key,
            read_entry=self.read_entry,
            fresh=lambda: self.fresh,
            entries=self.entries,
            outbox=self.outbox,
            clock=system_clock,
            new_id=new_id,
        )
        self.barrier = Barrier(
            self.engine,
            self.environment,
            TENANTS,
            broker=self.broker,
            lender=self.lender,
            undertaker=self.undertaker,
            entries=self.entries,
            outbox=self.outbox,
            clock=system_clock,
        )
        self.reconciler = Reconciler(
            self.engine,
            self.environment,
            TENANTS,
            broker=self.broker,
            lender=self.lender,
            undertaker=self.undertaker,
            barrier=self.barrier,
            clock=system_clock,
        )
        return self

    async def decision_key(self, kid: str) -> bytes:
        if kid != DECISION_KID:
            raise LookupError(kid)
        return self.signer.public_key

    async def read_entry(self, tenant: str, event_id: str) -> dict[str, Any] | None:
        for data in self.ledger.log:
            entry = parse(data)
            if (entry.tenant, entry.event_id) == (tenant, event_id):
                return entry.document
        return None

    def case(
        self, *, purpose: str = "WRITE", tenant: str = "acme", step: dict[str, Any] | None = None, **tools: Any
    ) -> Case:
        """A plan of one step under a COMMIT decision, by the worker of a fresh request; the ledger has its intent."""
        described = tool(**tools)
        request_id = new_id()
        chain = ({"sub": "refund-bot", "version": "3.2.1", "owner": "user:olga"},)
        draft = documents.draft_document(steps=[documents.step_document(**(step or {}))])
        plan = documents.plan(draft, tenant=tenant, request_id=request_id, plan_id=new_id(), nonce=new_id()[:8] * 4)
        plan = _with_digest(plan, described)
        now = system_clock()
        statement = Statement(
            decision_id=new_id(),
            purpose="COMMIT",
            outcome="ALLOW",
            reason_codes=("ALLOWED_BY_RULE",),
            tenant=tenant,
            environment=ENVIRONMENT,
            request_id=request_id,
            txn=new_id(),
            subject="user:ana",
            agent="refund-bot",
            agent_version="3.2.1",
            act=nested_act(chain),
            context=Context("ana", None, (), ("refund_operator",), {}),
            plan_digest=plan.digest,
            card_digest=None,
            snapshot_id=documents.DIGEST,
            task_id=None,
            votes=(),
            taint=False,
            steps=(StepDecision("s1", 3, ()),),
            containment=(ScopeEpoch(f"tenant:{tenant}", 0),),
            audience=("executor", "credentials"),
            issue_time_ms=now,
            expire_time_ms=now + 60_000,
        )
        attempt_id = new_id()
        asked = Asked(new_id(), purpose, attempt_id, "s1", False, "shop", "", 20)
        caller = Caller(
            peer=EXECUTOR,
            peer_kind="svc/executor",
            token="t",
            subject="user:ana",
            person_id="ana",
            agent="refund-bot",
            agent_version="3.2.1",
            chain=chain,
            tenant=tenant,
            environment=ENVIRONMENT,
            request_id=request_id,
            txn=statement.txn,
            scope=frozenset({f"plan:{plan.digest}"}),
            expire_time_ms=now + 300_000,
        )
        case = Case(plan, described, caller, statement, asked)
        return self.with_intent(case) if purpose == "WRITE" else case

    def with_intent(self, case: Case, **changes: Any) -> Case:
        """The case with a fresh attempt whose intent the ledger has; `changes` falsify the intent."""
        attempt_id = changes.pop("attempt_id", case.asked.attempt_id)
        entry = new_entry(
            "step.intent",
            {
                "attempt_id": attempt_id,
                "tool": case.tool.name,
                "version": case.tool.version,
                "tool_digest": changes.get("tool_digest", case.tool.digest),
                "effect": case.tool.effect,
                "target": changes.get("target", case.asked.target),
                "deadline_time_ms": system_clock() + 30_000,
                **({"undoes": new_id()} if case.asked.undo else {}),
            },
            event_id=new_id(),
            event_time_ms=system_clock(),
            tenant=changes.get("tenant", case.statement.tenant),
            environment=ENVIRONMENT,
            sealed=None,
            stream=f"plan:{new_id()}",
            seq=1,
            attempt=1,
            plan_digest=changes.get("plan_digest", case.statement.plan_digest),
            step=changes.get("step", "s1"),
            request_id=case.statement.request_id,
            subject="user:ana",
        )
        result = self.ledger.append(entry)
        assert result.HasField("appended"), result
        return replace(case, asked=replace(case.asked, attempt_id=attempt_id, intent_event_id=entry.event_id))

    async def issue(
        self, case: Case, *, plan: bytes | None = None, key: str = DECISION_KID, tool: bytes | None = None
    ) -> Grant:
        """Sign the case's statement as it stands and issue."""
        statement = build_statement(case.statement)
        signature, _ = await self.signer.sign(signing_input(statement.body))
        body = case.plan.body if plan is None else plan
        descriptor = case.tool.body if tool is None else tool
        return await self.lender.issue(case.caller, case.asked, statement.body, signature, key, body, descriptor)

    async def lend(self, case: Case) -> tuple[Grant, Login]:
        """Issue, redeem, unwrap, read the login, report the lease: what the executor does."""
        grant = await self.issue(case)
        return grant, await self.take(case, grant)

    async def take(self, case: Case, grant: Grant, *, report: bool = True) -> Login:
        redeemed = await self.lender.redeem(case.caller, grant.grant_id)
        login = await self.read(redeemed)
        if report:
            await self.lender.report(EXECUTOR, grant.tenant, grant.grant_id, login.lease_id)
        return login

    async def read(self, redeemed: Redeemed) -> Login:
        token = await self.vault.unwrap_token(redeemed.wrapped.wrapping_token)
        return await self.vault.read_login(redeemed.credential_path, token)

    async def scalar(self, query: str, **values: Any) -> Any:
        async with self.engine.begin() as connection:
            await connection.execute(sa.text("SELECT set_config('counterseal.tenant', '*', true)"))
            return await connection.scalar(sa.text(query), values)

    async def state(self, grant: Grant) -> str:
        return str(await self.scalar("SELECT state FROM grants WHERE grant_id = CAST(:g AS uuid)", g=grant.grant_id))

    async def recorded(self, *, every: bool = False) -> list[dict[str, Any]]:
        """Relay the outbox and return the ledger's entries about credentials and containment, or `every` one."""
        await self.scalar("SELECT pg_sleep(0.35)")  # the relay leaves young rows to `deliver`
        await self.outbox.relay_once()
        entries = [parse(data).document for data in self.ledger.log]
        return [entry for entry in entries if every or entry["type"].startswith(("credential.", "containment."))]


def obliged(case: Case, seconds: int) -> Case:
    """The case under an obligation that shortens grants."""
    step = StepDecision("s1", 3, (Obligation("max_grant_ttl", {"seconds": seconds}),))
    return replace(case, statement=replace(case.statement, steps=(step,)))


async def login_works(provisioned: Provisioned, login: Login, tenant: str = "acme") -> bool:
    """Tell whether the target lets the login in."""
    try:
        connection = await asyncpg.connect(provisioned.cluster.dsn(f"shop_{tenant}", login.username, login.password))
    except (asyncpg.PostgresError, OSError):
        return False
    await connection.close()
    return True


@asynccontextmanager
async def desk(provisioned: Provisioned, database: ServiceDatabase) -> AsyncIterator[Desk]:
    """One broker on its own database."""
    vault = await provisioned.service("credentials")
    engine = create_async_engine(database.sqlalchemy_url, pool_size=20)
    ledger = TinyLedger("credentials")
    async with serve(ledger) as channel:
        made = Desk(database, engine, vault, ledger, channel)
        try:
            yield made
        finally:
            await made.lender.close()
            await made.barrier.close()
            await _clear(made)
            await engine.dispose()
            vault.close()


async def _clear(made: Desk) -> None:
    """End what a test left alive in the shared Vault: another test's database would not know whose lease it is."""
    for tenant in (made.environment.tenant(name) for name in TENANTS):
        await made.broker.revoke_prefix(tenant.token_creation_path)
        await made.broker.revoke_prefix(f"{tenant.database_mount}/creds")
        for _ in range(200):
            if not await made.broker.leases_below(tenant):
                break
            await asyncio.sleep(0.02)


def _with_digest(plan: Plan, described: ToolDescriptor) -> Plan:
    """The plan with the descriptor's digest on every step and undo."""
    from counterseal.canonical import canonical, parse_canonical
    from counterseal.documents.plan import parse_plan

    document = parse_canonical(plan.body)
    for step in document["steps"]:
        step["tool_digest"] = described.digest
        if isinstance(step.get("undo"), dict):
            step["undo"]["tool_digest"] = described.digest
    return parse_plan(canonical(document))
