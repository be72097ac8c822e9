"""Looking behind the services of a running stack: their databases, the targets, Vault. For tests only."""

import asyncio
from collections.abc import Iterable
from typing import Any

import asyncpg

from counterseal.embedded.layout import SERVICES, Running
from counterseal.vault import Vault, VaultRefused
from counterseal.vault.names import RESERVED_ROLES

READING = {"ledger_cursor", "tail_cursor", "erasure_position", "person_pseudonym"}

DATABASES = tuple(f"counterseal_{service}" for service in SERVICES)
PRODUCERS = tuple(name for name in DATABASES if name != "counterseal_audit")


class Behind:
    """A superuser's and an operator's view of one stack."""

    def __init__(self, running: Running) -> None:
        self.running = running

    async def sql(self, database: str, text: str, *args: object) -> list[Any]:
        """Run one statement as a superuser; `database` is a target's alias or a service's database."""
        dsn = self.running.targets.get(database) or self.running.control.dsn(database)
        connection = await asyncpg.connect(dsn)
        try:
            return list(await connection.fetch(text, *args))
        finally:
            await connection.close()

    async def vault(self) -> Vault:
        """Log in as the operator. Close it after use."""
        bao = self.running.openbao
        return await Vault.login_approle(bao.address, bao.operator_role_id, bao.operator_secret_id, ca_file=bao.ca_file)

    async def leases(self, tenants: Iterable[str]) -> list[str]:
        """List what Vault keeps alive for grants: every lease of the environment's databases, every grant's token.

        Not listed: the broker's own sweeps, whose leases stand for a statement that ran and for no login.
        """
        environment = self.running.environment
        vault = await self.vault()
        try:
            found = await _leases(vault, f"db/{environment}/")
            for tenant in tenants:
                found += await _leases(vault, f"auth/token/create/grant--{environment}--{tenant}/")
        finally:
            vault.close()
        return found

    async def outboxes_drained(self, seconds: float = 20.0) -> None:
        """Wait until the ledger has taken (or refused) all that its producers have to say; raises TimeoutError."""
        async with asyncio.timeout(seconds):
            for database in PRODUCERS:
                while await self.sql(
                    database, "SELECT 1 FROM outbox WHERE ack_time IS NULL AND refusal IS NULL LIMIT 1"
                ):
                    await asyncio.sleep(0.05)

    async def row_counts(self) -> dict[str, int]:
        """Return `database.table` -> rows, for every table of the services and of the targets.

        Not those that move by themselves: how far a service has read the ledger, and who has which pseudonym there.
        """
        counts: dict[str, int] = {}
        for database in (*DATABASES, *self.running.targets):
            tables = await self.sql(
                database,
                "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables "
                "WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1",
            )
            for table in tables:
                if table["name"].removeprefix("public.") in READING:
                    continue
                rows = await self.sql(database, f"SELECT count(*) AS n FROM {table['name']}")
                counts[f"{database}.{table['name'].removeprefix('public.')}"] = int(rows[0]["n"])
        return counts


async def _leases(vault: Vault, folder: str) -> list[str]:
    try:
        keys = (await vault.call("LIST", f"sys/leases/lookup/{folder.removesuffix('/')}"))["data"]["keys"]
    except VaultRefused as refused:
        if refused.status != 404:  # nothing was ever leased there
            raise
        return []
    found: list[str] = []
    for key in keys:
        if not key.endswith("/"):
            found.append(f"{folder}{key[:6]}..")
        elif not (folder.endswith("/creds/") and key.removesuffix("/") in RESERVED_ROLES):
            found += await _leases(vault, folder + key)
    return found
