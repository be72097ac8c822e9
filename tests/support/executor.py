"""An executor in process: its own database on a real PostgreSQL, real gRPC to small peers, the simulated world.

The peers stand for what lies outside the executor's contract: a policy that signs whatever outcome the test asks for,
a broker that counts grants, and the tiny ledger. End-to-end tests use the real ones.
"""

# ruff: noqa: N802 (servicer methods bear the contract's names)

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import grpc
import sqlalchemy as sa
from google.protobuf.timestamp_pb2 import Timestamp
from nacl.signing import SigningKey
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from counterseal.api.audit.v1 import ledger_pb2_grpc, reader_pb2_grpc
from counterseal.api.common.v1 import containment_pb2, decision_pb2
from counterseal.api.credentials.v1 import grant_pb2, grant_pb2_grpc, token_pb2, token_pb2_grpc
from counterseal.api.executor.v1 import operator_pb2, plan_pb2, tool_pb2
from counterseal.api.policy.v1 import containment_pb2 as watch_pb2
from counterseal.api.policy.v1 import containment_pb2_grpc
from counterseal.api.policy.v1 import decision_pb2 as policy_pb2
from counterseal.api.policy.v1 import decision_pb2_grpc as policy_grpc
from counterseal.canonical import parse_canonical
from counterseal.clock import system_clock
from counterseal.documents.decision import (
    Context,
    Obligation,
    ScopeEpoch,
    Statement,
    StepDecision,
    build_statement,
    signing_input,
)
from counterseal.documents.plan import parse_plan
from counterseal.errors import AttemptRevoked, ServiceError
from counterseal.identity import Caller, acting_for
from counterseal.ids import new_id
from counterseal.rpc.interceptor import Hooks
from counterseal.rpc.runtime import Runtime
from counterseal.rpc.status import to_status
from counterseal.vault import Login
from counterseal_executor.config import ExecutorConfig
from counterseal_executor.connectors.base import Target
from counterseal_executor.connectors.sim_world import SimWorld
from counterseal_executor.containment.service import OperatorService
from counterseal_executor.main import assemble
from counterseal_executor.plans.service import PlanService
from counterseal_executor.tools.service import ToolService
from support.documents import tool_document
from support.ledger import TinyLedger, TinyReader
from support.signer import LocalSigner
from support.trace import check_traces

AGENT = Caller(
    peer="spiffe://counterseal.dev/prod/agent/refund-bot",
    peer_kind="agent",
    token="token-of-ana",
    subject="user:ana",
    person_id="ana",
    agent="refund-bot",
    agent_version="3.2.1",
    chain=({"sub": "refund-bot", "version": "3.2.1"},),
    tenant="acme",
    environment="prod",
    request_id="0199d0a0-0000-7000-8000-0000000000aa",
    txn="0199d0a0-0000-7000-8000-0000000000bb",
)
OMAR = Caller(
    peer="spiffe://counterseal.dev/prod/cli",
    peer_kind="cli",
    token="token-of-omar",
    subject="user:omar",
    person_id="omar",
    tenant="acme",
    environment="prod",
    request_id="0199d0a0-0000-7000-8000-0000000000cc",
    txn="0199d0a0-0000-7000-8000-0000000000dd",
    roles=frozenset({"operator"}),
)
LOG_KEY = bytes(SigningKey(b"\x01" * 32).verify_key)
"""What `support.audit.LocalLogSigner` signs logs by."""
IDA = replace(OMAR, subject="user:ida", person_id="ida", token="token-of-ida")


async def _abort(context: Any, error: ServiceError) -> None:
    status = to_status(error)
    await context.abort(status.code, status.details, status.trailing_metadata)


class FakePolicy(policy_grpc.DecisionServiceServicer, containment_pb2_grpc.ContainmentServiceServicer):
    """Answers `outcome[purpose]` (plans: `outcome["AUTHORIZE"]`, if set), signed by a real key; streams containment."""

    def __init__(self) -> None:
        self.signer = LocalSigner("decision-prod:1")
        self.outcome = {"PREVIEW": "ALLOW", "COMMIT": "ALLOW", "COMPENSATE": "ALLOW"}
        self.reasons: dict[str, list[str]] = {}
        self.epochs: dict[str, int] = {}
        self.life_ms = 60_000
        self.changes: dict[str, Any] = {}
        self.obligations: tuple[Obligation, ...] = ()
        self.asked: list[str] = []
        self.error: ServiceError | None = None
        self.watchers: set[asyncio.Queue[watch_pb2.WatchContainmentResponse]] = set()
        self.silent = False

    async def Decide(self, request: Any, context: Any) -> policy_pb2.DecideResponse:
        if self.error is not None:
            await _abort(context, self.error)
        steps = [step["id"] for step in parse_canonical(request.plan_draft)["steps"]]
        view, signed = await self._decide("PREVIEW", request.plan_draft_digest, steps)
        return policy_pb2.DecideResponse(decision=view, signed_decision=signed)

    async def AuthorizePlan(self, request: Any, context: Any) -> policy_pb2.AuthorizePlanResponse:
        if self.error is not None:
            await _abort(context, self.error)
        purpose = decision_pb2.DecisionPurpose.Name(request.purpose).removeprefix("DECISION_PURPOSE_")
        steps = [step.id for step in parse_plan(request.canonical_plan).steps]
        view, signed = await self._decide(purpose, request.plan_digest, steps, self.outcome.get("AUTHORIZE"))
        return policy_pb2.AuthorizePlanResponse(decision=view, signed_decision=signed)

    async def WatchContainment(self, request: Any, context: Any) -> AsyncIterator[Any]:
        queue: asyncio.Queue[watch_pb2.WatchContainmentResponse] = asyncio.Queue()
        self.watchers.add(queue)
        try:
            yield watch_pb2.WatchContainmentResponse(full=True)
            while True:
                try:
                    async with asyncio.timeout(0.5):
                        yield await queue.get()
                except TimeoutError:
                    if not self.silent:
                        yield watch_pb2.WatchContainmentResponse()
        finally:
            self.watchers.discard(queue)

    async def TripContainment(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def LiftContainment(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def ListContainments(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def stream(self, scope: str, epoch: int, *, stopped: bool) -> None:
        state = containment_pb2.ContainmentState(scope=scope, epoch=epoch, stopped=stopped, reason_code="TEST")
        for queue in self.watchers:
            queue.put_nowait(watch_pb2.WatchContainmentResponse(states=[state]))

    async def _decide(self, purpose: str, digest: str, steps: list[str], forced: str | None = None) -> tuple[Any, Any]:
        self.asked.append(purpose)
        outcome = forced or self.outcome[purpose]
        now = system_clock()
        decision_id = new_id()
        view = policy_pb2.Decision(
            decision_id=decision_id,
            outcome=decision_pb2.DecisionOutcome.Value(f"DECISION_OUTCOME_{outcome}"),
            reason_codes=self.reasons.get(purpose, ["ALLOWED_BY_RULE"]),
            task_id="task-1" if outcome == "REQUIRE_APPROVAL" else "",
        )
        if outcome == "DENY":
            return view, None
        scopes = {"environment:prod": 0, "tenant:acme": 0, "agent:acme/refund-bot": 0, f"plan:{digest}": 0}
        scopes |= {f"request:acme/{AGENT.request_id}": 0, "tool:acme/shop.refund": 0}
        values: dict[str, Any] = {
            "decision_id": decision_id,
            "purpose": purpose,
            "outcome": outcome,
            "reason_codes": ("ALLOWED_BY_RULE",),
            "tenant": "acme",
            "environment": "prod",
            "request_id": AGENT.request_id,
            "txn": AGENT.txn,
            "subject": AGENT.subject,
            "agent": AGENT.agent,
            "agent_version": AGENT.agent_version,
            "act": {"sub": "refund-bot", "version": "3.2.1"},
            "context": Context("ana", None, (), (), {}),
            "plan_digest": digest,
            "card_digest": None,
            "snapshot_id": "sha256:" + "cd" * 32,
            "task_id": None,
            "votes": (),
            "taint": False,
            "steps": tuple(StepDecision(step, 2, self.obligations) for step in steps),
            "containment": tuple(ScopeEpoch(s, e) for s, e in (scopes | self.epochs).items()),
            "audience": ("executor", "credentials"),
            "issue_time_ms": now,
            "expire_time_ms": now + self.life_ms,
            **self.changes,
        }
        statement = build_statement(Statement(**values))
        signature, key = await self.signer.sign(signing_input(statement.body))
        return view, decision_pb2.SignedDecision(statement=statement.body, signature=signature, key=key)


@dataclass
class FakeGrant:
    """One grant: enough of its life to test what the executor does with it."""

    grant_id: str
    attempt_id: str
    write: bool
    redeemed: bool = False
    dead: bool = False


class FakeBroker(token_pb2_grpc.TokenServiceServicer, grant_pb2_grpc.GrantServiceServicer):
    """Tokens and grants in memory. `login` is what every wrapper leads to."""

    def __init__(self) -> None:
        self.login = Login("postgres", "postgres", "lease/1", 60)
        self.grants: dict[str, FakeGrant] = {}
        self.tombstones: set[str] = set()
        self.calls: list[str] = []
        self.error: ServiceError | None = None
        self.error_on: str = ""
        self.dead_after = 0
        self.stolen = False
        self.before_redeem_write: Callable[[], Awaitable[None]] | None = None

    async def ExchangeToken(self, request: Any, context: Any) -> token_pb2.ExchangeTokenResponse:
        await self._note("exchange", context)
        answer = token_pb2.ExchangeTokenResponse(txn_token="continuation")
        answer.expire_time.FromMilliseconds(system_clock() + 300_000)
        return answer

    async def GetKeys(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def IssueGrant(self, request: Any, context: Any) -> grant_pb2.IssueGrantResponse:
        await self._note("issue", context)
        write = request.purpose == grant_pb2.GRANT_PURPOSE_WRITE
        if write and request.attempt_id in self.tombstones:
            await _abort(context, AttemptRevoked())
        grant = FakeGrant(new_id(), request.attempt_id, write)
        self.grants[grant.grant_id] = grant
        return grant_pb2.IssueGrantResponse(grant_id=grant.grant_id, expire_time=Timestamp(seconds=1 << 31))

    async def RedeemGrant(self, request: Any, context: Any) -> grant_pb2.RedeemGrantResponse:
        await self._note("redeem", context)
        grant = self.grants[request.grant_id]
        if grant.write and self.before_redeem_write is not None:
            await self.before_redeem_write()
        if grant.write and grant.attempt_id in self.tombstones:
            await _abort(context, AttemptRevoked())
        grant.redeemed = True
        return grant_pb2.RedeemGrantResponse(
            wrapping_token=request.grant_id, creation_path="auth/token/create/grant", credential_path="db/creds/x"
        )

    async def ReportLease(self, request: Any, context: Any) -> grant_pb2.ReportLeaseResponse:
        await self._note("report", context)
        return grant_pb2.ReportLeaseResponse()

    async def RevokeAttempt(self, request: Any, context: Any) -> grant_pb2.RevokeAttemptResponse:
        await self._note("revoke", context)
        mine = [grant for grant in self.grants.values() if grant.attempt_id == request.attempt_id]
        if request.purpose == grant_pb2.GRANT_PURPOSE_READ:
            mine = [grant for grant in mine if not grant.write]
        else:
            self.tombstones.add(request.attempt_id)
        if self.dead_after:
            self.dead_after -= 1
            return grant_pb2.RevokeAttemptResponse(never_redeemed=False, verified_dead=False)
        for grant in mine:
            grant.dead = True
        return grant_pb2.RevokeAttemptResponse(
            never_redeemed=not any(grant.redeemed for grant in mine), verified_dead=True
        )

    async def wrapping_lookup(self, wrapping_token: str) -> str:
        return "auth/token/create/evil" if self.stolen else "auth/token/create/grant"

    async def unwrap_token(self, wrapping_token: str) -> str:
        return "s.token"

    async def read_login(self, path: str, token: str) -> Login:
        return self.login

    async def _note(self, call: str, context: Any) -> None:
        self.calls.append(call)
        if self.error is not None and call == self.error_on:
            await _abort(context, self.error)


@dataclass(slots=True)
class SmallRuntime:
    """What `assemble` needs of a Runtime."""

    engine: AsyncEngine
    channels: Mapping[str, grpc.aio.Channel]
    keys: Any
    hooks: Hooks = field(default_factory=Hooks)
    environment: str = "prod"
    clock: Any = system_clock
    new_id: Any = new_id
    instance_id: str = field(default_factory=new_id)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    unfit: asyncio.Event = field(default_factory=asyncio.Event)
    backup_days: int = 35
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def channel(self, peer: str) -> grpc.aio.Channel:
        return self.channels[peer]

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work, name=name))


class _Context:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def time_remaining(self) -> float:
        return self._seconds


@dataclass
class Executor:
    """One executor process, seen through its servicers."""

    plans: PlanService
    tools: ToolService
    operator: OperatorService
    runtime: SmallRuntime

    async def propose(
        self, *steps: dict[str, Any], key: str | None = None, caller: Caller = AGENT, **fields: Any
    ) -> plan_pb2.ProposePlanResponse:
        request = plan_pb2.ProposePlanRequest(
            idempotency_key=key or new_id(),
            objective=fields.pop("objective", "Refund the broken kettle"),
            steps=[proposed(step) for step in steps or (refund(),)],
            **fields,
        )
        with acting_for(caller):
            return await self.plans.ProposePlan(request, None)

    async def commit(
        self, plan: Any, *, key: str | None = None, digest: str | None = None, caller: Caller = AGENT
    ) -> plan_pb2.Plan:
        request = plan_pb2.CommitPlanRequest(
            plan_id=plan.plan_id, plan_digest=digest or plan.plan_digest, idempotency_key=key or new_id()
        )
        with acting_for(caller):
            return (await self.plans.CommitPlan(request, None)).plan

    async def get(self, plan_id: str, caller: Caller = AGENT) -> plan_pb2.GetPlanResponse:
        with acting_for(caller):
            return await self.plans.GetPlan(plan_pb2.GetPlanRequest(plan_id=plan_id), None)

    async def cancel(self, plan_id: str, caller: Caller = AGENT) -> plan_pb2.Plan:
        with acting_for(caller):
            return (await self.plans.CancelPlan(plan_pb2.CancelPlanRequest(plan_id=plan_id), None)).plan

    async def watch(self, plan_id: str, after_seq: int = 0, caller: Caller = AGENT) -> list[plan_pb2.WatchPlanResponse]:
        request = plan_pb2.WatchPlanRequest(plan_id=plan_id, after_seq=after_seq)
        with acting_for(caller):
            return [event async for event in self.plans.WatchPlan(request, None)]

    async def until(self, plan_id: str, *states: str, seconds: float = 20) -> plan_pb2.Plan:
        """Return the plan once it is in one of the states; fails with what it is in instead."""
        plan = plan_pb2.Plan()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    plan = (await self.get(plan_id)).plan
                    if plan.state in states:
                        return plan
                    await asyncio.sleep(0.02)
        except TimeoutError:
            steps = {step.id: (step.state, step.reason_code, step.error_code) for step in plan.steps}
            raise AssertionError(f"the plan is {plan.state} ({plan.reason_code}), its steps {steps}") from None

    async def register(self, *documents: dict[str, Any], caller: Caller = OMAR) -> tool_pb2.RegisterToolResponse:
        request = tool_pb2.RegisterToolRequest(descriptors=[json.dumps(d).encode() for d in documents])
        with acting_for(caller):
            return await self.tools.RegisterTool(request, None)

    async def halt(self, scope: str, epoch: int = 0, *, seconds: float = 3) -> operator_pb2.HaltScopeResponse:
        request = operator_pb2.HaltScopeRequest(scope=scope, epoch=epoch, reason_code="TEST")
        return await self.operator.HaltScope(request, _Context(seconds))

    async def resume(self, plan_id: str, caller: Caller = OMAR) -> str:
        with acting_for(caller):
            return (await self.operator.ResumePlan(operator_pb2.ResumePlanRequest(plan_id=plan_id), None)).state

    async def resolve(self, plan_id: str, step: str, resolution: Any, caller: Caller = OMAR) -> str:
        request = operator_pb2.ResolveStepRequest(
            plan_id=plan_id, step_id=step, resolution=resolution, comment="looked at it by hand"
        )
        with acting_for(caller):
            return (await self.operator.ResolveStep(request, None)).state


@dataclass(frozen=True)
class Keys:
    """The one decision key that exists, and the keys that sign logs; `rotated` are those that a refresh shows."""

    public_key: bytes
    log_keys: list[bytes] = field(default_factory=lambda: [LOG_KEY])
    rotated: list[bytes] = field(default_factory=list)

    async def get(self, kid: str, active_only: bool = True) -> bytes:
        if kid != "decision-prod:1":
            raise LookupError(kid)
        return self.public_key

    async def versions(self, name: str) -> list[bytes]:
        return list(self.log_keys) if name == "log-prod" else []

    async def refresh(self) -> None:
        self.log_keys.extend(self.rotated)


@dataclass
class World:
    """The executor's surroundings; `start` makes further replicas on the same database."""

    engine: AsyncEngine
    policy: FakePolicy
    broker: FakeBroker
    ledger: TinyLedger
    channels: Mapping[str, grpc.aio.Channel]
    addresses: Mapping[str, str]
    sim: SimWorld
    config: ExecutorConfig
    running: list[Executor] = field(default_factory=list)
    check_traces: bool = True
    """Off where a test itself broke what is stored."""

    async def start(self, keys: Keys | None = None, **changes: Any) -> Executor:
        runtime = SmallRuntime(self.engine, self.channels, keys or Keys(self.policy.signer.public_key))
        services = await assemble(cast("Runtime", runtime), replace(self.config, **changes), self.broker)
        plans, tools, operator = (service for _, service in services)
        executor = Executor(
            cast("PlanService", plans), cast("ToolService", tools), cast("OperatorService", operator), runtime
        )
        self.running.append(executor)
        return executor

    async def delivered(self, seconds: float = 60) -> None:
        """Wait until the ledger has everything that this database recorded."""
        async with asyncio.timeout(seconds):
            while True:
                async with self.engine.connect() as connection:
                    if not await connection.scalar(sa.text("SELECT count(*) FROM outbox WHERE ack_time IS NULL")):
                        return
                await asyncio.sleep(0.05)

    def spawn_process(self) -> "subprocess.Popen[bytes]":
        """Start an executor in a process of its own, to be killed; it serves nothing and only works on plans."""
        (target,) = (target for target in self.config.targets.values() if target.kind == "sim")
        arguments = {
            "database": self.engine.url.render_as_string(hide_password=False),
            "addresses": dict(self.addresses),
            "world": target.settings["path"],
            "public_key": self.policy.signer.public_key.hex(),
        }
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        return subprocess.Popen(
            [sys.executable, "-m", "support.executor_process", json.dumps(arguments)], env=environment
        )

    async def stop(self, executor: Executor) -> None:
        executor.runtime.stopping.set()
        await asyncio.wait(executor.runtime.tasks, timeout=7)
        for task in executor.runtime.tasks:
            task.cancel()
        await asyncio.gather(*executor.runtime.tasks, return_exceptions=True)
        self.running.remove(executor)


@asynccontextmanager
async def world(
    database_url: str, sim_path: Path, audit: grpc.aio.Channel | None = None, **targets: Target
) -> AsyncIterator[World]:
    """Everything around an executor, for one test. audit: a channel to a real ledger, instead of the tiny one."""
    policy, broker, ledger = FakePolicy(), FakeBroker(), TinyLedger()
    servers: list[grpc.aio.Server] = []
    channels: dict[str, grpc.aio.Channel] = {}
    addresses: dict[str, str] = {}

    def decisions(server: grpc.aio.Server) -> None:
        policy_grpc.add_DecisionServiceServicer_to_server(policy, server)
        containment_pb2_grpc.add_ContainmentServiceServicer_to_server(policy, server)

    def grants(server: grpc.aio.Server) -> None:
        token_pb2_grpc.add_TokenServiceServicer_to_server(broker, server)
        grant_pb2_grpc.add_GrantServiceServicer_to_server(broker, server)

    def log(server: grpc.aio.Server) -> None:
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(ledger, server)
        tail = TinyReader(ledger)  # type: ignore[abstract] # nothing else is read of it
        reader_pb2_grpc.add_LedgerReaderServiceServicer_to_server(tail, server)

    adders: dict[str, Callable[[grpc.aio.Server], None]] = {"policy": decisions, "credentials": grants, "audit": log}
    for name, add in adders.items():
        server = grpc.aio.server()
        add(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
        addresses[name] = f"127.0.0.1:{port}"
        channels[name] = grpc.aio.insecure_channel(addresses[name])
    if audit is not None:
        await channels["audit"].close(None)
        channels["audit"] = audit
    engine = create_async_engine(database_url, pool_size=20)
    config = ExecutorConfig(
        targets={"shop": Target("shop", "sim", {"path": str(sim_path)}), **targets},
        lease_seconds=2.0,
        recovery_seconds=0.2,
    )
    surroundings = World(engine, policy, broker, ledger, channels, addresses, SimWorld(sim_path), config)
    try:
        yield surroundings
    finally:
        for executor in list(surroundings.running):
            await surroundings.stop(executor)
        if surroundings.check_traces:
            await check_traces(engine)
        await engine.dispose()
        for channel in channels.values():
            await channel.close(None)
        for server in servers:
            await server.stop(0)


def sim_tool(name: str, op: str, **changes: Any) -> dict[str, Any]:
    """Return a tool of the simulated world: `{key, value}` in, anything out."""
    reads = op == "read"
    properties: dict[str, Any] = {"key": {"type": "string"}}
    config: dict[str, Any] = {"op": op, "key": "/key"}
    if op in ("put", "append"):
        properties["value"] = {"type": ["string", "integer", "null"]}
        config["value"] = "/value"
    return tool_document(
        **{
            "name": name,
            "connector": {"kind": "sim", "config": config},
            "input_schema": {
                "type": "object",
                "properties": properties,
                "required": ["key"],
                "additionalProperties": False,
            },
            "output_schema": {
                "type": "object",
                "properties": {"exists": {"type": "boolean"}, "version": {"type": "integer"}},
                "additionalProperties": False,
            },
            "effect": "E0" if reads else "E3",
            "reversibility": "R0" if reads else "R2",
            "probe": not reads,
            **changes,
        }
    )


SIM_TOOLS = [
    sim_tool("shop.refund", "put"),
    sim_tool("shop.restore", "put"),
    sim_tool("shop.remove", "delete"),
    sim_tool("shop.look", "read"),
    sim_tool("shop.append", "append"),
    sim_tool("shop.opaque", "append", effect="E4", reversibility="R4", probe=False),
    sim_tool("shop.keyed", "append", effect="E2", probe=True, idempotency={"kind": "key", "window_seconds": 3600}),
]


def refund(step_id: str = "s1", key: str = "ch_1", value: Any = "refunded", **changes: Any) -> dict[str, Any]:
    """Return a write of the simulated world as one proposed step."""
    return {
        "id": step_id,
        "tool": "shop.refund@1.0.0",
        "target": "shop",
        "args": {"key": key, "value": value},
        **changes,
    }


def proposed(step: dict[str, Any]) -> plan_pb2.ProposedStep:
    """Return a step for the wire."""
    values = dict(step)
    args = json.dumps(values.pop("args")).encode()
    undo = values.pop("undo", None)
    values["post"] = [
        plan_pb2.ProposedCondition(
            **{"kind": "tool_state", **one, "value_json": json.dumps(one["value_json"]).encode()}
        )
        for one in values.pop("post", [])
    ]
    message = plan_pb2.ProposedStep(args_json=args, **values)
    if undo is not None:
        message.undo.CopyFrom(
            plan_pb2.ProposedUndo(
                tool=undo["tool"], args_json=json.dumps(undo["args"]).encode(), if_exists=undo.get("if_exists", False)
            )
        )
    return message


def fresh_secret() -> str:
    """Return text that must never be seen anywhere."""
    return secrets.token_hex(16)
