"""What `counterseal vault plan|setup|verify` is told: one file, bound to these frozen values. Secrets are paths."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from counterseal.vault.names import (
    MODES,
    RESERVED_ROLES,
    SERVICES,
    TIERS,
    BadName,
    DatabaseRole,
    Environment,
    Tenant,
    part,
)


@dataclass(frozen=True, slots=True)
class Postgres:
    """A PostgreSQL server as Vault and setup reach it.

    superuser_password_file: for what setup runs there; without it the statements are printed by `plan` for whoever
    may run them, and setup leaves that server alone. sslmode: `disable` only on loopback.
    """

    host: str
    port: int
    superuser: str = "postgres"
    superuser_password_file: Path | None = None
    sslmode: str = "verify-full"

    def __post_init__(self) -> None:
        if self.sslmode not in ("disable", "verify-full"):
            raise ValueError("sslmode must be verify-full, or disable on loopback")
        if self.sslmode == "disable" and self.host not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError("sslmode = disable is for loopback only")


@dataclass(frozen=True, slots=True)
class Action:
    """What one credential role may do: privileges such as `SELECT, UPDATE ON TABLE orders`.

    rw is for WRITE grants, ro for READ grants.
    """

    rw: tuple[str, ...] = ()
    ro: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TenantSettings:
    """A tenant: its target database (one per environment in this version) and the roles lent there."""

    database: str | None = None
    server: Postgres | None = None
    actions: Mapping[str, Action] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.database is None) != (self.server is None):
            raise ValueError("a tenant has a database and a server, or neither")


@dataclass(frozen=True, slots=True)
class Provision:
    """Everything that setup makes and verify compares, for one environment.

    services_server: where the four services' databases lie; None leaves their logins alone.
    certificate_ttl_seconds: life of service certificates; renewed long before.
    secrets_dir: where setup leaves AppRole ids and secrets for the services, one directory each, mode 0700.
    """

    environment: str
    trust_domain: str
    agents: tuple[str, ...] = ()
    tenants: Mapping[str, TenantSettings] = field(default_factory=dict)
    services_server: Postgres | None = None
    certificate_ttl_seconds: int = 6 * 3600
    secrets_dir: Path | None = None

    def __post_init__(self) -> None:
        try:
            Environment(self.environment)
            for agent in self.agents:
                part(agent)
            for name, settings in self.tenants.items():
                part(name)
                for action in settings.actions:
                    if part(action) in RESERVED_ROLES:
                        raise BadName(f"{action!r} is reserved")
        except BadName as error:
            raise ValueError(str(error)) from None

    @property
    def env(self) -> Environment:
        """The environment's names."""
        return Environment(self.environment)

    def tenant_names(self) -> list[tuple[Tenant, TenantSettings]]:
        """Return each tenant's names beside its settings, sorted."""
        return [(self.env.tenant(name), settings) for name, settings in sorted(self.tenants.items())]

    def spiffe_id(self, path: str) -> str:
        """Return `spiffe://<trust domain>/<environment>/<path>`."""
        return f"spiffe://{self.trust_domain}/{self.environment}/{path}"

    def workloads(self) -> dict[str, tuple[str, str]]:
        """Return PKI role -> (SPIFFE id, DNS name or empty)."""
        found = {f"svc-{s}": (self.spiffe_id(f"svc/{s}"), f"{s}.{self.environment}.internal") for s in SERVICES}
        found |= {f"agent-{a}": (self.spiffe_id(f"agent/{a}"), "") for a in self.agents}
        return found | {kind: (self.spiffe_id(kind), "") for kind in ("cli", "console", "operator")}


def lent_roles(tenant: Tenant, settings: TenantSettings) -> list[DatabaseRole]:
    """Return every database role of a tenant, in a stable order."""
    return [tenant.role(action, mode, tier) for action in sorted(settings.actions) for mode in MODES for tier in TIERS]
