"""The policy service's own parts on a real database, with a small ledger and a local signer, for contract tests."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import sqlalchemy as sa
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from counterseal.api.common.v1 import containment_pb2
from counterseal.api.policy.v1 import policy_admin_pb2 as pb
from counterseal.clock import system_clock
from counterseal.documents.plan import Actor, Condition, Plan, StepFill, build_plan, parse_draft
from counterseal.documents.tool import ToolDescriptor, build_tool
from counterseal.identity import Caller, acting_for
from counterseal.ids import new_id
from counterseal.rpc.ledger_client import LedgerClient
from counterseal.rpc.outbox import Outbox
from counterseal_policy.approvals.booth import Booth
from counterseal_policy.approvals.follower import PlanFollower
from counterseal_policy.approvals.service import ApprovalService
from counterseal_policy.config import PolicyConfig
from counterseal_policy.containment.adoption import Adoption
from counterseal_policy.containment.board import Board
from counterseal_policy.containment.peers import Moments
from counterseal_policy.containment.service import ContainmentService
from counterseal_policy.decisions.decider import Answer, Decider, PlanQuestion
from counterseal_policy.rules.condition import ConditionEngine
from counterseal_policy.snapshots.active import ActivePolicies
from counterseal_policy.snapshots.service import PolicyAdminService
from support.documents import draft_document, server_fields, tool_document
from support.ledger import TinyLedger, serve
from support.postgres import FreshDatabase, ServiceDatabase
from support.signer import LocalSigner

ENVIRONMENT = "prod"
TOOL: ToolDescriptor = build_tool(tool_document(reversibility="R2"))
UNDO: ToolDescriptor = build_tool(tool_document(name="shop.unrefund", reversibility="R2"))

FLOOR = b"""
apiVersion: counterseal/policy.v1
kind: RuleSet
metadata: {name: floor, scope: platform}
match: {tools: ["*"]}
rules:
  - {id: tenants-decide, effect: DELEGATE, when: "action.class_level <= 4"}
"""
SETTINGS = b"""
apiVersion: counterseal/policy.v1
kind: Settings
metadata: {name: demo, scope: platform}
default_stage: 3
"""


def catalogue(*tools: ToolDescriptor) -> bytes:
    entries = "".join(
        f"""
  - tool: {tool.reference}
    digest: "{tool.digest}"
    impact: {{reversibility: 2, cost: 0, compliance: 0, customer: 0, breadth: 0}}
    facts:
      num: {{amount_minor: {{from: "args:/amount_minor", min: 0, max: 1000000}}}}
      text: {{owner: {{from: "observed:/owner"}}}}
"""
        for tool in tools
    )
    head = "apiVersion: counterseal/policy.v1\nkind: ToolCatalogue\nmetadata: {name: shop, scope: tenant}\ntools:"
    return (head + entries).encode()


RULES = b"""
apiVersion: counterseal/policy.v1
kind: RuleSet
metadata: {name: shop, scope: tenant}
match: {tools: ["shop.*"]}
rules:
  - {id: small, effect: ALLOW, when: "action.num.amount_minor <= 2000"}
  - {id: huge, effect: DENY, when: "action.num.amount_minor > 100000", reason: {code: TOO_MUCH}}
  - id: large
    effect: REQUIRE_APPROVAL
    when: action.num.amount_minor > 2000
    approval: {need: 2, roles: [payments_lead]}
"""
DOCUMENTS = {
    "floor.yaml": FLOOR,
    "settings.yaml": SETTINGS,
    "tools.yaml": catalogue(TOOL, UNDO),
    "rules.yaml": RULES,
}


def agent(**changes: Any) -> Caller:
    """The executor calling with an agent's token."""
    values: dict[str, Any] = {
        "peer": "spiffe://counterseal.test/prod/svc/executor",
        "peer_kind": "svc/executor",
        "token": "t",
        "subject": "user:ana",
        "person_id": "p-ana",
        "agent": "refund-bot",
        "agent_version": "3.2.1",
        "chain": ({"sub": "refund-bot", "version": "3.2.1", "owner": "user:olga"},),
        "tenant": "acme",
        "environment": ENVIRONMENT,
        "request_id": "r-1",
        "txn": "0199d0a0-0000-7000-8000-0000000000ff",
        "subject_roles": frozenset({"refund_operator"}),
    }
    return Caller(**{**values, **changes})


def human(name: str, *roles: str, **changes: Any) -> Caller:
    """A person at the CLI."""
    values: dict[str, Any] = {
        "peer": "spiffe://counterseal.test/prod/cli",
        "peer_kind": "cli",
        "token": "t",
        "subject": f"user:{name}",
        "person_id": f"p-{name}",
        "tenant": "acme",
        "environment": ENVIRONMENT,
        "request_id": "r-2",
        "roles": frozenset(roles),
        "auth_time_ms": system_clock() - 1000,
    }
    return Caller(**{**values, **changes})


def plan(amount: int = 1500, *, tool: ToolDescriptor = TOOL, nonce: str = "0f" * 16, **changes: Any) -> Plan:
    """Canonical plan bytes of one step."""
    step = {
        "id": "s1",
        "tool": tool.reference,
        "target": "shop",
        "args": {"charge_id": "ch_1", "amount_minor": amount},
        "undo": {"tool": UNDO.reference, "args": {"charge_id": "ch_1", "amount_minor": amount}},
    }
    draft = parse_draft(draft_document(steps=[step], **changes.pop("document", {})))
    pre = (Condition("tool_state", "owner", "user:ana"),)
    values: dict[str, Any] = {
        "nonce": nonce,
        "request_id": "r-1",
        "actor": Actor("user:ana", "refund-bot", "3.2.1", ({"sub": "refund-bot"},)),
        "steps": {"s1": StepFill(tool.digest, pre, None, UNDO.digest)},
        **changes,
    }
    return build_plan(draft, server_fields(draft, **values))


class SilentPeers:
    """Executor and credentials that acknowledge every stop; `barriers` is what they were told directly."""

    def __init__(self) -> None:
        self.stops: list[tuple[str, int]] = []
        self.barriers: dict[str, list[containment_pb2.ContainmentState]] = {"executor": [], "credentials": []}

    async def stop(self, scope: str, epoch: int, reason_code: str, seconds: float) -> Moments:
        self.stops.append((scope, epoch))
        now = system_clock()
        return Moments(now, now, now, 2, 2, 0, [])

    async def barrier(self, peer: str) -> list[containment_pb2.ContainmentState]:
        return self.barriers[peer]


class CountingSigner(LocalSigner):
    """Signs, and says how often."""

    signed = 0

    async def sign(self, message: bytes) -> tuple[bytes, str]:
        self.signed += 1
        return await super().sign(message)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Ed25519 by PyNaCl."""
    try:
        VerifyKey(public_key).verify(message, signature)
    except BadSignatureError:
        return False
    return True


class Deadline:
    """The one thing of a gRPC context that our handlers ask for."""

    def time_remaining(self) -> float:
        return 5.0


CONTEXT = Deadline()


@dataclass
class Service:
    """Everything of one replica."""

    engine: AsyncEngine
    ledger: TinyLedger
    outbox: Outbox
    decider: Decider
    approvals: ApprovalService
    admin: PolicyAdminService
    containment: ContainmentService
    board: Board
    adoption: Adoption
    plans: PlanFollower
    peers: SilentPeers
    signer: CountingSigner
    owner_dsn: str
    admin_dsn: str
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, caller: Caller, method: Any, request: Any) -> Any:
        """Call a unary handler as a caller."""
        with acting_for(caller):
            return await method(request, CONTEXT)

    async def publish(self, documents: dict[str, bytes] | None = None, caller: Caller | None = None) -> str:
        author = caller or human("ida", "policy_author")
        listed = [pb.PolicyDocument(name=name, text=text) for name, text in (documents or DOCUMENTS).items()]
        answer = await self.call(author, self.admin.PublishPolicy, pb.PublishPolicyRequest(documents=listed))
        return str(answer.snapshot.snapshot_id)

    async def activate(self, snapshot_id: str) -> None:
        """Activate, by two people where two are needed."""
        request = pb.ActivateSnapshotRequest(snapshot_id=snapshot_id)
        roles = ("policy_author", "platform_author")
        answer = await self.call(human("ida", *roles), self.admin.ActivateSnapshot, request)
        if answer.HasField("second_person"):
            request.second_person.CopyFrom(answer.second_person)
            await self.call(human("pat", *roles), self.admin.ActivateSnapshot, request)

    async def authorize(
        self, of: Plan, purpose: str = "PREVIEW", caller: Caller | None = None, **changes: Any
    ) -> Answer:
        question = PlanQuestion(body=of.body, digest=of.digest, purpose=purpose, descriptors=[TOOL.body, UNDO.body])
        return await self.decider.authorize(caller or agent(), replace(question, **changes))

    async def sql(self, statement: str, **arguments: Any) -> list[Any]:
        """Run a statement under every tenant's eyes."""
        async with self.engine.begin() as connection:
            await connection.execute(sa.text("SELECT set_config('counterseal.tenant', '*', true)"))
            result = await connection.execute(sa.text(statement), arguments)
            return list(result) if result.returns_rows else []


@asynccontextmanager
async def policy_service(
    fresh_database: FreshDatabase, *, active: bool = True, adopted: bool = True, replicas: int = 1
) -> AsyncIterator[Any]:
    """One replica (or a list of several on one database), with the example policy active."""
    database = fresh_database("policy")
    ledger = TinyLedger("policy")
    made: list[Service] = []
    clients: list[LedgerClient] = []
    async with serve(ledger) as channel:
        for _ in range(replicas):
            engine = create_async_engine(database.sqlalchemy_url, pool_size=20)
            client = LedgerClient(channel)
            clients.append(client)
            service = _service(engine, ledger, channel, client, database)
            made.append(service)
            await service.board.refresh()
            if adopted:
                for peer in ("executor", "credentials"):
                    await service.adoption._once(peer)
        if active:
            await made[0].activate(await made[0].publish())
        try:
            yield made[0] if replicas == 1 else made
        finally:
            for service, client in zip(made, clients, strict=True):
                service.stopping.set()
                await service.outbox.settled()
                await client.close()
                await service.engine.dispose()


def _service(
    engine: AsyncEngine,
    ledger: TinyLedger,
    channel: grpc.aio.Channel,
    client: LedgerClient,
    database: ServiceDatabase,
) -> Service:
    outbox = Outbox(engine, client)
    rules = ConditionEngine()
    policies = ActivePolicies(engine, rules)
    board = Board(engine)
    peers: Any = SilentPeers()
    config = PolicyConfig(person_ids={"user:olga.admin": "p-olga"})
    adoption = Adoption(engine, board, peers, config.require_barrier_peers, ENVIRONMENT)
    signer = CountingSigner("decision-prod:1")
    stopping = asyncio.Event()
    decider = Decider(
        engine, outbox, signer, policies, adoption, config, ENVIRONMENT, system_clock, new_id, secrets.token_bytes
    )
    booth = Booth(engine, outbox, config, ENVIRONMENT, system_clock, new_id, secrets.token_bytes)
    return Service(
        engine=engine,
        ledger=ledger,
        outbox=outbox,
        decider=decider,
        approvals=ApprovalService(engine, booth, system_clock, stopping),
        admin=PolicyAdminService(engine, outbox, policies, rules, config, ENVIRONMENT, system_clock, new_id),
        containment=ContainmentService(
            engine,
            outbox,
            board,
            peers,
            ENVIRONMENT,
            config.operator_roles,
            config.platform_operator_roles,
            system_clock,
            new_id,
            stopping,
        ),
        board=board,
        adoption=adoption,
        plans=PlanFollower(engine, channel, outbox, ENVIRONMENT, system_clock, new_id),
        peers=peers,
        signer=signer,
        owner_dsn=database.owner_dsn,
        admin_dsn=database.admin_dsn,
        stopping=stopping,
    )
