"""`counterseal vault setup` and `verify`: make Vault and PostgreSQL what the settings say, or say where they differ.

Runs under an operator's identity, never a service's. Setup is idempotent: what is right stays untouched, so that a
second run changes nothing and rotates nothing.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from counterseal.vault import postgres
from counterseal.vault.client import Vault, VaultRefused
from counterseal.vault.names import MODES, SERVICES, Tenant
from counterseal.vault.resources import Mount, Resource, mounts, resources
from counterseal.vault.settings import Postgres, Provision, TenantSettings

Progress = Callable[[str], None]
SERVICES_ADMIN = "vadmin"


class ProvisionFailed(RuntimeError):
    """A step of setup failed; names the step, holds no secret."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference: where, what was wanted, what is there."""

    where: str
    wanted: str
    found: str


async def setup(vault: Vault, settings: Provision, progress: Progress = lambda _: None) -> int:
    """Bring Vault and PostgreSQL to the settings; return how many things were changed.

    Raises ProvisionFailed, VaultUnavailable.
    """
    changed = 0
    progress("mounts")
    existing = await _mounts(vault)
    for mount in mounts(settings):
        if mount.path + "/" not in existing:
            changed += 1
            await _write(vault, f"sys/mounts/{mount.path}", _mount_body(mount))
    if "approle/" not in (await vault.call("GET", "sys/auth"))["data"]:
        await _write(vault, "sys/auth/approle", {"type": "approle"})
    changed += await _certificate_authority(vault, settings)
    progress("database roles")
    passwords = await _database_admins(vault, settings)
    progress("keys, policies, roles")
    for resource in resources(settings, passwords):
        found = await _read(vault, resource.path)
        if found is None or (not resource.once and (_differences(resource, found) or "password" in resource.body)):
            changed += 1
            await _write(vault, resource.path, resource.body)
    if settings.secrets_dir is not None:
        progress("service logins")
        changed += await _hand_over(vault, settings, settings.secrets_dir)
    return changed


async def verify(vault: Vault, settings: Provision) -> list[Drift]:
    """Compare live Vault and PostgreSQL with the settings; an empty list means that they agree."""
    drifts: list[Drift] = []
    existing = await _mounts(vault)
    drifts += [
        Drift(mount.path, mount.engine, existing.get(mount.path + "/") or "no mount")
        for mount in mounts(settings)
        if existing.get(mount.path + "/") != mount.engine
    ]
    for resource in resources(settings, {}):
        found = await _read(vault, resource.path)
        if found is None:
            drifts.append(Drift(resource.path, "present", "absent"))
        else:
            drifts += [Drift(f"{resource.path} {key}", *pair) for key, pair in _differences(resource, found).items()]
    drifts += await _strangers(vault, settings)
    for tenant, chosen in settings.tenant_names():
        drifts += await _target_drifts(tenant, chosen)
    return drifts


async def _certificate_authority(vault: Vault, settings: Provision) -> int:
    mount = settings.env.pki
    try:
        if (await vault.call("LIST", f"{mount}/issuers"))["data"]["keys"]:
            return 0
    except VaultRefused as refused:
        if refused.status != 404:
            raise
    body = {
        "common_name": f"Counterseal {settings.trust_domain} {settings.environment} root",
        "key_type": "ec",
        "key_bits": 256,
        "ttl": f"{10 * 365 * 24}h",
    }
    await _write(vault, f"{mount}/root/generate/internal", body)
    return 1


async def _database_admins(vault: Vault, settings: Provision) -> dict[str, str]:
    """Make groups and admins where setup may; return the passwords that are new."""
    passwords: dict[str, str] = {}
    server = settings.services_server
    if server is not None and server.superuser_password_file is not None:
        fresh = await _needs_password(vault, f"{settings.env.service_databases}/config/services", server)
        password = secrets.token_urlsafe(32) if fresh else None
        await _run_sql(server, "postgres", _services_statements(password))
        if password is not None:
            passwords[SERVICES_ADMIN] = password
    for tenant, chosen in settings.tenant_names():
        server = chosen.server
        if chosen.database is None or server is None or server.superuser_password_file is None:
            continue
        fresh = await _needs_password(vault, f"{tenant.database_mount}/config/target", server)
        password = secrets.token_urlsafe(32) if fresh else None
        await _run_sql(server, chosen.database, target_statements(tenant, chosen, password))
        if password is not None:
            passwords[tenant.admin] = password
    return passwords


def target_statements(tenant: Tenant, chosen: TenantSettings, admin_password: str | None) -> list[str]:
    """Return all that a superuser runs at a tenant's target; what `plan` prints."""
    if chosen.database is None:
        return []
    statements = postgres.setup_statements(tenant, chosen.database, admin_password)
    for action, privileges in sorted(chosen.actions.items()):
        for mode in MODES:
            group = tenant.role(action, mode, 60).group
            wanted = privileges.rw if mode == "rw" else privileges.ro
            statements += postgres.group_statements(group, tenant, wanted)
    return statements


def _services_statements(password: str | None) -> list[str]:
    admin = postgres.identifier(SERVICES_ADMIN)
    ensure = (
        f"DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{SERVICES_ADMIN}') "
        f"THEN CREATE ROLE {admin} LOGIN CREATEROLE; END IF; END $$"
    )
    statements = [ensure]
    if password is not None:
        statements.append(f"ALTER ROLE {admin} PASSWORD {postgres.literal(password)}")
    for service in SERVICES:
        statements += postgres.service_login_statements(service, SERVICES_ADMIN, f"counterseal_{service}")
    return statements


async def _needs_password(vault: Vault, config_path: str, server: Postgres) -> bool:
    """Tell whether Vault has no working connection at that server yet (new, or the server moved to another port)."""
    found = await _read(vault, config_path)
    if found is None:
        return True
    address = f"@{server.host}:{server.port}/"
    return address not in str(found.get("connection_details", {}).get("connection_url", ""))


async def _run_sql(server: Postgres, database: str, statements: list[str]) -> None:
    connection = await _connect(server, database)
    try:
        for statement in statements:
            await connection.execute(statement)
    except asyncpg.PostgresError as error:
        raise ProvisionFailed(f"PostgreSQL at {server.host}:{server.port}/{database}: {error.sqlstate}") from None
    finally:
        await connection.close()


async def _connect(server: Postgres, database: str) -> Any:
    assert server.superuser_password_file is not None  # noqa: S101
    try:
        return await asyncpg.connect(
            host=server.host,
            port=server.port,
            user=server.superuser,
            password=server.superuser_password_file.read_text().strip(),
            database=database,
            ssl=server.sslmode,
        )
    except (OSError, asyncpg.PostgresError) as error:
        where = f"{server.host}:{server.port}/{database}"
        raise ProvisionFailed(f"PostgreSQL at {where}: {type(error).__name__}") from None


async def _hand_over(vault: Vault, settings: Provision, directory: Path) -> int:
    """Leave each service's AppRole id and secret in files that only their owner reads; an existing secret stays."""
    changed = 0
    for service in SERVICES:
        folder = directory / service
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        role = f"auth/approle/role/{settings.env.service_policy(service)}"
        _private(folder / "role-id", str((await vault.call("GET", f"{role}/role-id"))["data"]["role_id"]))
        secret = folder / "secret-id"
        if not secret.exists() or not await _secret_known(vault, role, secret.read_text().strip()):
            _private(secret, str((await vault.call("POST", f"{role}/secret-id", {}))["data"]["secret_id"]))
            changed += 1
    return changed


async def _secret_known(vault: Vault, role: str, secret_id: str) -> bool:
    answer = await vault.call("POST", f"{role}/secret-id/lookup", {"secret_id": secret_id})
    return bool(answer.get("data"))


def _private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text(text + "\n")


async def _strangers(vault: Vault, settings: Provision) -> list[Drift]:
    """Name policies of our prefixes that the settings do not know: somebody's own way in."""
    env = settings.env
    names = (await vault.call("LIST", "sys/policies/acl"))["data"]["keys"]
    wanted = {item.path.removeprefix("sys/policies/acl/") for item in resources(settings, {})}
    prefixes = (f"g--{env.name}--", f"svc--{env.name}--")
    return [
        Drift(f"sys/policies/acl/{name}", "absent", "present")
        for name in names
        if name.startswith(prefixes) and name not in wanted
    ]


async def _target_drifts(tenant: Tenant, chosen: TenantSettings) -> list[Drift]:
    server = chosen.server
    if chosen.database is None or server is None or server.superuser_password_file is None:
        return []
    where = f"postgres {chosen.database}"
    connection = await _connect(server, chosen.database)
    try:
        found: list[Drift] = []
        if await connection.fetchval("SELECT current_setting('server_version_num')::int") < 160000:
            found.append(Drift(where, "PostgreSQL 16 or newer", "older: any CREATEROLE admin reaches other tenants"))
        # Every database of the cluster: a login may connect to its own only, and create nothing there.
        open_to_all = await connection.fetch(
            "SELECT datname FROM pg_database d WHERE datallowconn AND datname = $1 "
            "AND has_database_privilege('public', d.oid, 'CONNECT')",
            chosen.database,
        )
        found += [Drift(f"{where} {row['datname']}", "no CONNECT for PUBLIC", "CONNECT") for row in open_to_all]
        admin = await connection.fetchrow(
            "SELECT rolsuper, rolcreaterole, rolcanlogin, "
            "pg_has_role(rolname, 'pg_signal_backend', 'MEMBER') AS signal FROM pg_roles WHERE rolname = $1",
            tenant.admin,
        )
        if admin is None:
            found.append(Drift(f"{where} {tenant.admin}", "present", "absent"))
        elif (admin["rolsuper"], admin["rolcreaterole"], admin["rolcanlogin"], admin["signal"]) != (
            False,
            True,
            True,
            True,
        ):
            found.append(Drift(f"{where} {tenant.admin}", "LOGIN CREATEROLE, pg_signal_backend, no superuser", "other"))
        for action in sorted(chosen.actions):
            for mode in MODES:
                group = tenant.role(action, mode, 60).group
                row = await connection.fetchrow(
                    "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolcanlogin AS strong, "
                    "has_database_privilege(oid, current_database(), 'CREATE') AS creates "
                    "FROM pg_roles WHERE rolname = $1",
                    group,
                )
                if row is None or row["strong"] or row["creates"]:
                    found.append(
                        Drift(f"{where} {group}", "a plain group without CREATE", "absent" if row is None else "more")
                    )
        return found
    finally:
        await connection.close()


async def _mounts(vault: Vault) -> dict[str, str]:
    answer = await vault.call("GET", "sys/mounts")
    return {path: str(item["type"]) for path, item in answer["data"].items()}


def _mount_body(mount: Mount) -> dict[str, Any]:
    body: dict[str, Any] = {"type": mount.engine}
    if mount.options:
        body["options"] = dict(mount.options)
    if mount.max_lease_seconds:
        body["config"] = {"max_lease_ttl": f"{mount.max_lease_seconds}s"}
    return body


async def _read(vault: Vault, path: str) -> dict[str, Any] | None:
    try:
        return dict((await vault.call("GET", path)).get("data") or {})
    except VaultRefused as refused:
        if refused.status == 404 or (refused.status == 400 and "request-headers" in path):
            return None
        raise


async def _write(vault: Vault, path: str, body: Mapping[str, Any]) -> None:
    try:
        await vault.call("POST", path, body)
    except VaultRefused as refused:
        raise ProvisionFailed(f"Vault refused {path} ({refused.status})") from refused


def _differences(resource: Resource, found: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return key -> (wanted, found) for what does not read back as it was written."""
    # An audited header is answered inside a table of its own name.
    for value in found.values():
        if resource.path.startswith("sys/config/auditing") and isinstance(value, Mapping):
            found = value
    different = {}
    for key, wanted in resource.body.items():
        if key in resource.hidden:
            continue
        actual = found.get(key)
        if _normal(wanted) != _normal(actual):
            different[key] = (str(wanted), str(actual))
    return different


def _normal(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [str(item).strip() for item in value]
    if isinstance(value, str):
        return value.strip()
    return value if value is not None else []
