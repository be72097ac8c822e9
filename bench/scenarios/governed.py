"""A governed write, from proposal to a verified end, beside what it cannot be faster than (reported, not demanded).

Subject: an agent proposes a refund, verifies the echo, commits, and waits until the effect was read back: five RPCs of
the agent, policy asked twice, every entry durable in the ledger, a credential minted, redeemed, revoked and verified
dead for the write and for each read. Floors, on the same database and the same Vault: the bare UPDATE in a transaction,
and the same with a login that Vault makes before it and revokes after it.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from bench.measure import compare
from bench.report import figure_of
from bench.settings import Result, Settings
from counterseal.cli.demo import shop, world
from counterseal.cli.demo.stage import draft, publish, refund, register
from counterseal.client import AgentRequest, Client
from counterseal.client.login import password_login
from counterseal.embedded.deployment import Deployment
from counterseal.embedded.layout import SERVICES, Running
from counterseal.vault import Vault
from counterseal.vault.names import Environment

ENVIRONMENT = "bench"
CALLERS = (1, 8)
UPDATE = "UPDATE shop.orders SET refunded_cents = refunded_cents + 1, version = version + 1 WHERE order_id = $1"
LOCK = "SELECT refunded_cents, version FROM shop.orders WHERE order_id = $1 FOR UPDATE"
INSERT = (
    "INSERT INTO shop.orders (order_id, customer, state, total_cents) "
    "SELECT prefix || n, 'ana', 'paid', 1000000000 FROM unnest($1::text[]) AS prefix, generate_series(0, 63) AS n"
)


@dataclass
class BareWrite:
    """The target's own price: one transaction that locks and updates the row, on a kept connection."""

    name: str
    pids: Sequence[int]
    pool: Any

    async def call(self, worker: int) -> object:
        """Refund one cent."""
        async with self.pool.acquire() as connection:
            return await _write(connection, f"bare-{worker}")


@dataclass
class LentWrite:
    """The same with Vault's database engine: a login made for this write, one connection, revoked afterwards."""

    name: str
    pids: Sequence[int]
    running: Running
    vault: Vault

    async def call(self, worker: int) -> object:
        """Refund one cent by a fresh login."""
        tenant = Environment(ENVIRONMENT).tenant(world.TENANT)
        lease = await self.vault.call("GET", tenant.role(shop.ROLE, "rw", 60).credential_path)
        cluster, login = self.running.target_cluster, lease["data"]
        connection = await asyncpg.connect(cluster.dsn("shop", login["username"], login["password"]))
        try:
            await _write(connection, f"lent-{worker}")
        finally:
            await connection.close()
        return await self.vault.call("POST", "sys/leases/revoke", {"lease_id": lease["lease_id"], "sync": True})


@dataclass
class GovernedWrite:
    """The whole chain; each worker has a request and an order of its own."""

    name: str
    pids: Sequence[int]
    requests: Sequence[AgentRequest]

    async def call(self, worker: int) -> object:
        """Refund one cent and wait for the verified end."""
        plan = await self.requests[worker].run(draft("Refund a cent", refund(f"governed-{worker}", 1)))
        if plan.state != "SUCCEEDED":
            raise RuntimeError(f"a governed write ended {plan.state} {plan.reason_code}")
        return plan


async def run(settings: Settings) -> Result:
    """Compare with both floors at one caller and at eight."""
    result = Result()
    async with suite(settings) as (deployment, agent):
        running = deployment.running
        pids = [pid for service in SERVICES if (pid := deployment.supervisor.pid(service)) is not None]
        bao = running.openbao
        vault = await Vault.login_approle(
            bao.address, bao.operator_role_id, bao.operator_secret_id, ca_file=bao.ca_file
        )
        pool = await asyncpg.create_pool(running.targets[shop.ALIAS], min_size=8, max_size=8)
        try:
            await pool.execute(INSERT, ["bare-", "lent-", "governed-"])
            requests = [agent.request(password_login(agent.profile, "ana")) for _ in range(max(CALLERS))]
            subject = GovernedWrite("governed", pids, requests)
            floors = (
                BareWrite("bare transaction", (), pool),
                LentWrite("bare transaction by a login of Vault", (), running, vault),
            )
            for callers in CALLERS:
                for floor in floors:
                    name = f"governed write against a {floor.name}"
                    comparison = await compare(name, floor, subject, settings.load(callers))
                    result.comparisons.append(comparison)
                    result.figures.append(figure_of(comparison, None))
        finally:
            await pool.close()
            vault.close()
    return result


@asynccontextmanager
async def suite(settings: Settings) -> AsyncIterator[tuple[Deployment, Client]]:
    """The whole suite with the demo's shop, policy and tools."""
    async with Deployment(settings.work / "stack", world.wanted(ENVIRONMENT)) as deployment:
        running = deployment.running
        async with Client.open(running.profile("cli")) as people:
            person = {user: people.person(password_login(people.profile, user)) for user in ("pat", "ida", "omar")}
            await publish(person["pat"], person["ida"])
            await register(person["ida"], person["omar"])
        async with Client.open(running.profile(f"agent-{world.AGENT}")) as agent:
            yield deployment, agent


async def _write(connection: Any, order_id: str) -> object:
    async with connection.transaction():
        await connection.fetch(LOCK, order_id)
        return await connection.execute(UPDATE, order_id)
