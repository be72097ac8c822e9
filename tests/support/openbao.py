"""A real OpenBao server per test process on the test cluster's storage, provisioned by `counterseal.vault`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from counterseal.embedded.openbao import OpenBao, OpenBaoServer
from counterseal.embedded.postgres import Cluster
from counterseal.vault import Vault, provision
from counterseal.vault.names import SERVICES
from counterseal.vault.settings import Action, Postgres, Provision, TenantSettings
from support.postgres import execute, off_loop, open_directory

ENVIRONMENT, TRUST_DOMAIN = "prod", "counterseal.test"


@dataclass(frozen=True, slots=True)
class Provisioned:
    """A provisioned Vault: environment `prod`; tenants `acme` and `evil`, each with a database, action `shop`."""

    server: OpenBao
    cluster: Cluster
    settings: Provision
    secrets: Path

    async def operator(self) -> Vault:
        """Log in as the operator. Close it after use."""
        return await login(self.server, self.server.operator_role_id, self.server.operator_secret_id)

    async def service(self, name: str) -> Vault:
        """Log in as one of the services, by the AppRole that setup handed over."""
        folder = self.secrets / name
        role, secret = ((folder / kind).read_text().strip() for kind in ("role-id", "secret-id"))
        return await login(self.server, role, secret)


async def login(server: OpenBao, role_id: str, secret_id: str) -> Vault:
    return await Vault.login_approle(server.address, role_id, secret_id, ca_file=server.ca_file)


@pytest.fixture(scope="session")
def openbao_server(postgres_cluster: Cluster) -> Iterator[tuple[OpenBaoServer, OpenBao]]:
    """The server object (to stop and start it again) and how to reach it."""
    off_loop(lambda: execute(postgres_cluster.dsn(), "CREATE DATABASE openbao"))
    with open_directory("counterseal-bao-") as home:
        server = OpenBaoServer(home / "openbao", postgres_cluster.dsn("openbao") + "?sslmode=disable")
        try:
            yield server, server.start()
        finally:
            server.stop()


@pytest.fixture(scope="session")
def openbao(openbao_server: tuple[OpenBaoServer, OpenBao]) -> OpenBao:
    """One running, unsealed server per test process, with its operator's AppRole; nothing is provisioned."""
    return openbao_server[1]


@pytest.fixture(scope="session")
def provisioned(openbao: OpenBao, postgres_cluster: Cluster) -> Iterator[Provisioned]:
    """The server after `vault setup`."""
    with open_directory("counterseal-secrets-") as home:
        password = home / "superuser-password"
        password.write_text(postgres_cluster.password)
        server = Postgres(
            postgres_cluster.host, postgres_cluster.port, superuser_password_file=password, sslmode="disable"
        )
        action = Action(rw=("SELECT, INSERT, UPDATE, DELETE ON TABLE orders",), ro=("SELECT ON TABLE orders",))
        tenants = {name: TenantSettings(f"shop_{name}", server, {"shop": action}) for name in ("acme", "evil")}
        settings = Provision(
            ENVIRONMENT,
            TRUST_DOMAIN,
            agents=("refund-bot", "audit-bot"),
            tenants=tenants,
            services_server=server,
            secrets_dir=home / "secrets",
        )
        off_loop(lambda: _databases(postgres_cluster))

        async def run() -> None:
            vault = await login(openbao, openbao.operator_role_id, openbao.operator_secret_id)
            await provision.setup(vault, settings)
            vault.close()

        off_loop(run)
        yield Provisioned(openbao, postgres_cluster, settings, home / "secrets")


async def _databases(cluster: Cluster) -> None:
    for service in SERVICES:
        # Also made, with a password, by the template of a service's own database: whoever comes first.
        await execute(
            cluster.dsn(),
            f"DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'counterseal_{service}') THEN "
            f"CREATE ROLE counterseal_{service} LOGIN; END IF; END $$",
        )
    for tenant in ("acme", "evil"):
        await execute(cluster.dsn(), f"CREATE DATABASE shop_{tenant}")
        await execute(
            cluster.dsn(f"shop_{tenant}"),
            "CREATE TABLE orders(id int PRIMARY KEY, state text NOT NULL)",
            "INSERT INTO orders SELECT n, 'pending' FROM generate_series(1, 100) n",
        )
