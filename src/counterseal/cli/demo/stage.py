"""What every scene works with: the running suite, an agent, people, the shop's rows, and the ledger."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from counterseal.api.common.v1.containment_pb2 import ContainmentState
from counterseal.api.credentials.v1 import grant_admin_pb2, grant_admin_pb2_grpc
from counterseal.api.executor.v1 import operator_pb2, operator_pb2_grpc
from counterseal.canonical import JsonObject, parse_canonical
from counterseal.cli.demo import shop, world
from counterseal.cli.demo.proxy import HoldingProxy
from counterseal.client import AgentRequest, Client, Draft, Person, Step, Undo
from counterseal.client.login import password_login
from counterseal.embedded.deployment import Deployment
from counterseal.embedded.layout import Running
from counterseal.errors import NotFound, ServiceError

CONFIDENCE_PPM = 990_000


class SceneFailed(AssertionError):
    """What a scene promises did not hold."""


def expect(holds: object, message: str) -> None:
    """Raise SceneFailed with the message unless the condition holds."""
    if not holds:
        raise SceneFailed(message)


async def refused(call: Awaitable[object], reason: str) -> ServiceError:
    """Await a call that must be refused for a reason, and return its error."""
    try:
        await call
    except ServiceError as error:
        expect(error.reason == reason, f"refused with {error.reason} ({error.message}) instead of {reason}")
        return error
    raise SceneFailed(f"was not refused with {reason}")


@dataclass(slots=True)
class Stage:
    """One demo run. kept_checkpoint: the signed head from before the scenes; scene 7 verifies against it."""

    deployment: Deployment
    running: Running
    proxy: HoldingProxy
    agent: Client
    cli: Client
    operator: Client
    kept_checkpoint: bytes = b""
    _logins: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _people: dict[str, Person] = field(default_factory=dict)

    def request(self, **options: Any) -> AgentRequest:
        """Begin a user request: ana asks, the agent acts."""
        return self.agent.request(self._login(self.agent, "ana"), **options)

    def person(self, user: str) -> Person:
        """Return a person's own calls."""
        if user not in self._people:
            self._people[user] = self.cli.person(self._login(self.cli, user))
        return self._people[user]

    def _login(self, client: Client, user: str) -> Callable[[], Awaitable[str]]:
        async def login() -> str:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._logins, password_login, client.profile, user)

        return login

    async def close(self) -> None:
        """Close the clients."""
        for client in (self.agent, self.cli, self.operator):
            await client.connection.close()
        self._logins.shutdown(wait=False)

    # --- the shop, as its owner sees it ---

    async def sql(self, text: str, *args: Any) -> list[Any]:
        """Run one statement on the shop's database as its owner, past the suite and past the proxy."""
        connection = await asyncpg.connect(self.running.targets[shop.ALIAS])
        try:
            return list(await connection.fetch(text, *args))
        finally:
            await connection.close()

    async def new_order(self, total_cents: int, customer: str = "ana") -> str:
        """Insert a paid order and return its id."""
        order_id = f"o-{secrets.token_hex(4)}"
        statement = "INSERT INTO shop.orders (order_id, customer, state, total_cents) VALUES ($1, $2, 'paid', $3)"
        await self.sql(statement, order_id, customer, total_cents)
        return order_id

    async def order(self, order_id: str) -> Any:
        """Return an order's row."""
        rows = await self.sql("SELECT * FROM shop.orders WHERE order_id = $1", order_id)
        return rows[0]

    # --- the ledger ---

    async def entries(self, plan_digest: str, type_: str = "") -> list[tuple[int, JsonObject]]:
        """Return a plan's ledger entries as (leaf index, entry), of one type or of all."""
        found = await self.person("omar").entries(plan_digest=plan_digest)
        parsed = [(entry.index, parse_canonical(bytes(entry.entry))) for entry in found]
        return [(index, entry) for index, entry in parsed if not type_ or entry["type"] == type_]

    async def entry(self, plan_digest: str, type_: str, *, seconds: float = 10.0) -> tuple[int, JsonObject]:
        """Return the first entry of a type, waiting for the producer's outbox; raises SceneFailed."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            found = await self.entries(plan_digest, type_)
            if found:
                return found[0]
            expect(asyncio.get_running_loop().time() < deadline, f"the ledger has no {type_} of {plan_digest}")
            await asyncio.sleep(0.1)


def refund(order_id: str, amount_cents: int, step: str = "s1") -> Step:
    """Return a refund with its undo."""
    return Step(
        step,
        "shop.refund_order@1.0.0",
        shop.ALIAS,
        {"order_id": order_id, "amount_cents": amount_cents},
        undo=Undo(
            "shop.restore_refund@1.0.0",
            {
                "order_id": order_id,
                "refunded_cents": {"$before": "/0/refunded_cents"},
                "version": {"$before": "/0/version"},
            },
        ),
        timeout_seconds=20,
    )


def draft(objective: str, *steps: Step) -> Draft:
    """Return a proposal by a confident agent."""
    return Draft(objective, steps, confidence_ppm=CONFIDENCE_PPM, model=("demo", "scripted", "1"))


async def prepare(stage: Stage) -> None:
    """Publish and activate the policy and register the tools, unless they are there; lift what is still stopped."""
    await publish(stage.person("pat"), stage.person("ida"))
    await register(stage.person("ida"), stage.person("omar"))
    for state in await stage.person("omar").containments():
        if state.stopped:
            await lift(stage, state.scope, state.epoch)
    stage.kept_checkpoint = await _first_checkpoint(stage.person("omar"))


async def _first_checkpoint(person: Person, *, seconds: float = 15.0) -> bytes:
    """Return the log's present signed head; a fresh log is signed within a second or two."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                found = await person.checkpoint()
            except NotFound:
                found = None
            if found is not None and found.checkpoint:
                return bytes(found.checkpoint)
            await asyncio.sleep(0.2)


async def publish(author: Person, second: Person) -> str:
    """Publish and activate the demo's policy; return the snapshot id."""
    snapshot = (await author.publish(world.policy_documents())).snapshot
    if not snapshot.active:
        answer = await author.activate(snapshot.snapshot_id)
        if answer.HasField("second_person"):  # everywhere but in an empty environment
            await second.activate(snapshot.snapshot_id, answer.second_person.request_digest)
    return str(snapshot.snapshot_id)


async def register(registrar: Person, second: Person) -> None:
    """Register the tools that are not there yet."""
    known = {tool.tool_digest for tool in await registrar.tools()}
    missing = [tool.body for tool in shop.descriptors() if tool.digest not in known]
    if missing:
        answer = await registrar.register(missing)
        if answer.HasField("second_person"):
            await second.register(missing, answer.second_person.request_digest)


async def lift(stage: Stage, scope: str, epoch: int) -> int:
    """Lift a scope by two people and return its new epoch."""
    first = await stage.person("omar").lift(scope, epoch)
    expect(first.HasField("second_person"), "one person alone lifted a stopped scope")
    done = await stage.person("ida").lift(scope, epoch, "", first.second_person.request_digest)
    expect(not done.state.stopped and done.state.epoch > epoch, f"{scope} was not lifted")
    await _heard(stage, scope, done.state.epoch)
    return int(done.state.epoch)


async def _heard(stage: Stage, scope: str, epoch: int, *, seconds: float = 15.0) -> None:
    """Wait until executor and credentials have heard of a lift, which travels by policy's stream alone."""
    connection = stage.operator.connection
    operator = operator_pb2_grpc.OperatorServiceStub(connection.channel("executor"))
    grants = grant_admin_pb2_grpc.GrantAdminServiceStub(connection.channel("credentials"))
    async with asyncio.timeout(seconds):
        while True:
            told = await connection.call("executor", operator.GetBarrier, operator_pb2.GetBarrierRequest())
            lent = await connection.call("credentials", grants.GetBarrier, grant_admin_pb2.GetBarrierRequest())
            if all(_is_lifted(answer.states, scope, epoch) for answer in (told, lent)):
                return
            await asyncio.sleep(0.1)


def _is_lifted(states: Iterable[ContainmentState], scope: str, epoch: int) -> bool:
    return any(state.scope == scope and state.epoch >= epoch and not state.stopped for state in states)


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write an export below `folder`; refuses paths that would leave it."""
    for name, content in files.items():
        file = (folder / name).resolve()
        expect(file.is_relative_to(folder.resolve()), f"the export names {name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
