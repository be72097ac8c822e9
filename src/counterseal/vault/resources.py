"""The desired state of Vault for one environment, as data: what setup writes and verify compares.

Pure: settings in, resources out. A resource's `body` is written as it stands and, but for `hidden` keys (secrets and
statements that Vault does not give back), must read back equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from counterseal.vault import policies, postgres
from counterseal.vault.names import KEY_USES, SERVICES, Tenant
from counterseal.vault.postgres import RoleStatements
from counterseal.vault.settings import Postgres, Provision, TenantSettings, lent_roles

GRANT_HEADER = "X-Counterseal-Grant"
YEAR_SECONDS = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Mount:
    """A secrets engine at a path; `options` only for KV."""

    path: str
    engine: str
    options: Mapping[str, str] = field(default_factory=dict)
    max_lease_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Resource:
    """One thing written by POST at `path` and read by GET there.

    once: exists or not, never rewritten (keys).
    """

    path: str
    body: Mapping[str, Any]
    once: bool = False
    hidden: frozenset[str] = frozenset()


def mounts(settings: Provision) -> list[Mount]:
    """Return every secrets engine of the environment."""
    env = settings.env
    found = [
        Mount(env.transit, "transit"),
        Mount(env.pki, "pki", max_lease_seconds=10 * YEAR_SECONDS),
        Mount(env.kv, "kv", {"version": "2"}),
        Mount(env.service_databases, "database"),
    ]
    for tenant, chosen in settings.tenant_names():
        found.append(Mount(tenant.secret_mount, "kv", {"version": "2"}))
        if chosen.database is not None:
            found.append(Mount(tenant.database_mount, "database"))
    return found


def resources(settings: Provision, passwords: Mapping[str, str]) -> list[Resource]:
    """Return everything inside the mounts, in the order in which it must be written.

    passwords: admin role -> password, for those whose password is set now; the others keep theirs.
    """
    return [
        # Without it the anchors' compare-and-set would be the writer's choice: KV takes a write that names no version.
        Resource(f"{settings.env.kv}/config", {"cas_required": True}),
        *_keys(settings),
        *_certificates(settings),
        *_policies(settings),
        *_logins(settings),
        *_service_databases(settings, passwords),
        *(item for tenant, chosen in settings.tenant_names() for item in _target(tenant, chosen, passwords)),
    ]


def _keys(settings: Provision) -> list[Resource]:
    env = settings.env
    keys = {env.key(use): "ed25519" for use in KEY_USES}
    keys |= {env.system_kek: "aes256-gcm96"}
    keys |= {tenant.kek: "aes256-gcm96" for tenant, _ in settings.tenant_names()}
    return [Resource(f"{env.transit}/keys/{key}", {"type": kind}, once=True) for key, kind in keys.items()]


def _certificates(settings: Provision) -> list[Resource]:
    env = settings.env
    found = []
    for role, (uri, dns) in settings.workloads().items():
        body: dict[str, Any] = {
            "allowed_uri_sans": [uri],
            "allowed_domains": [dns] if dns else [],
            "allow_bare_domains": bool(dns),
            "allow_subdomains": False,
            "allow_glob_domains": False,
            "allow_any_name": False,
            "allow_localhost": False,
            "allow_ip_sans": False,
            "require_cn": False,
            "no_store": True,
            "key_type": "ec",
            "key_bits": 256,
            "server_flag": bool(dns),
            "client_flag": True,
            "max_ttl": settings.certificate_ttl_seconds,
            "ttl": settings.certificate_ttl_seconds,
        }
        found.append(Resource(f"{env.pki}/roles/{role}", body))
    return found


def _policies(settings: Provision) -> list[Resource]:
    env = settings.env
    texts = {env.service_policy(s): policies.render(rules) for s, rules in policies.service_policies(env).items()}
    for tenant, chosen in settings.tenant_names():
        texts |= {role.policy: policies.grant_policy(role) for role in lent_roles(tenant, chosen)}
    return [Resource(f"sys/policies/acl/{name}", {"policy": text}) for name, text in texts.items()]


def _logins(settings: Provision) -> list[Resource]:
    env = settings.env
    found = []
    for service in SERVICES:
        name = env.service_policy(service)
        body = {
            "token_policies": [name],
            "token_no_default_policy": True,
            "token_period": 3600,
            "token_type": "service",
            "secret_id_num_uses": 0,
        }
        found.append(Resource(f"auth/approle/role/{name}", body))
    for tenant, _ in settings.tenant_names():
        body = {
            "allowed_policies_glob": [tenant.policy_glob],
            "orphan": True,
            "renewable": False,
            "token_explicit_max_ttl": 900,
            "token_no_default_policy": True,
            "token_type": "service",
        }
        found.append(Resource(f"auth/token/roles/{tenant.token_role}", body))
    # Vault's audit log then names the grant of every token that it makes for one.
    found.append(Resource(f"sys/config/auditing/request-headers/{GRANT_HEADER}", {"hmac": False}))
    return found


def _service_databases(settings: Provision, passwords: Mapping[str, str]) -> list[Resource]:
    server = settings.services_server
    if server is None:
        return []
    mount = settings.env.service_databases
    found = [_connection(mount, "services", server, "postgres", "vadmin", list(SERVICES), passwords)]
    for service in SERVICES:
        body = {"db_name": "services", "username": f"counterseal_{service}", "rotation_period": 24 * 3600}
        found.append(Resource(f"{mount}/static-roles/{service}", body))
    return found


def _target(tenant: Tenant, chosen: TenantSettings, passwords: Mapping[str, str]) -> list[Resource]:
    if chosen.database is None or chosen.server is None:
        return []
    mount = tenant.database_mount
    found = [_connection(mount, "target", chosen.server, chosen.database, tenant.admin, ["*"], passwords)]
    found += [
        _database_role(f"{mount}/roles/{role.name}", postgres.login_statements(role), role.tier)
        for role in lent_roles(tenant, chosen)
    ]
    runs = {
        "sweep": postgres.sweep_statements(),
        "fence": postgres.fence_statements(tenant, chosen.database),
        "janitor": postgres.janitor_statements(),
    }
    return found + [
        _database_role(f"{mount}/roles/{name}", statements, postgres.SWEEP_SECONDS) for name, statements in runs.items()
    ]


def _connection(
    mount: str,
    name: str,
    server: Postgres,
    database: str,
    admin: str,
    roles: list[str],
    passwords: Mapping[str, str],
) -> Resource:
    body: dict[str, Any] = {
        "plugin_name": "postgresql-database-plugin",
        "allowed_roles": roles,
        "connection_url": (
            f"postgresql://{{{{username}}}}:{{{{password}}}}@{server.host}:{server.port}/{database}"
            f"?sslmode={server.sslmode}"
        ),
        "username": admin,
        "password_authentication": "scram-sha-256",
        "username_template": (
            'g-{{ .DisplayName | replace "token-" "" | replace "-" "" | truncate 32 }}-{{ random 8 | lowercase }}'
        ),
        "max_open_connections": 8,
        "max_idle_connections": 4,
    }
    if admin in passwords:
        body["password"] = passwords[admin]
    return Resource(
        f"{mount}/config/{name}",
        body,
        hidden=frozenset(
            {"password", "connection_url", "username", "password_authentication", "username_template"}
            | {"max_open_connections", "max_idle_connections"}
        ),
    )


def _database_role(path: str, statements: RoleStatements, ttl_seconds: int) -> Resource:
    return Resource(
        path,
        {
            "db_name": "target",
            "creation_statements": list(statements.creation),
            "revocation_statements": list(statements.revocation),
            "rollback_statements": list(statements.rollback),
            "default_ttl": ttl_seconds,
            "max_ttl": ttl_seconds,
        },
    )
