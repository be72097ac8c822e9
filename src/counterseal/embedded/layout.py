"""What an embedded stack is asked for and what it gives back: plain values, no processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from counterseal.embedded.openbao import OpenBao
from counterseal.embedded.postgres import Cluster
from counterseal.vault.settings import Action, Provision

SERVICES = ("audit", "credentials", "policy", "executor")
"""In the order in which they can start."""

TRUST_DOMAIN = "counterseal.dev"


@dataclass(frozen=True, slots=True)
class Target:
    """A database that steps act on: one per tenant.

    alias: what tool descriptors name. schema: SQL run once, as the database's owner, when it is created.
    actions: credential role -> privileges, such as `Action(rw=("SELECT, UPDATE ON TABLE orders",))`.
    """

    alias: str
    tenant: str
    database: str
    schema: str = ""
    actions: Mapping[str, Action] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Agent:
    """A registered agent workload. owner: a subject such as `user:olga`; tenants: where it may act."""

    owner: str
    tenants: tuple[str, ...]
    versions: tuple[str, ...] = ("1.0.0",)
    scopes: tuple[str, ...] = ("plan.propose", "plan.commit", "plan.read")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One stack. users: OIDC user name -> roles. tenants: every tenant that may be named.

    user_tenants: user name -> the tenants where the user belongs, for those who do not belong to all.

    durable: False trades the disk's safety for speed (tests and throw-away workloads).
    service_settings: service -> keys laid over its own generated table.
    """

    environment: str
    tenants: tuple[str, ...]
    agents: Mapping[str, Agent] = field(default_factory=dict)
    users: Mapping[str, Sequence[str]] = field(default_factory=dict)
    user_tenants: Mapping[str, Sequence[str]] = field(default_factory=dict)
    targets: tuple[Target, ...] = ()
    durable: bool = True
    service_settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Running:
    """A prepared stack: servers are up, services can be started.

    configs: service -> its TOML file. addresses: service -> `host:port` that it will listen on.
    control, target_cluster: PostgreSQL superusers; targets: alias -> superuser DSN of that database.
    profiles: directory with one folder per client (`cli`, `console`, `operator`, `agent-<name>`), each with `cert.pem`,
    `key.pem`, `ca.pem` and `profile.toml`. issuer_password_file: what every development user logs in with.
    """

    environment: str
    trust_domain: str
    data_dir: Path
    configs: Mapping[str, Path]
    addresses: Mapping[str, str]
    control: Cluster
    target_cluster: Cluster
    targets: Mapping[str, str]
    openbao: OpenBao
    vault_settings: Provision
    vault_settings_file: Path
    profiles: Path
    issuer_url: str
    issuer_ca_file: Path
    issuer_password_file: Path
    logs: Path

    def profile(self, name: str) -> Path:
        """Return the profile file of a client: `cli`, `console`, `operator` or `agent-<name>`."""
        return self.profiles / name / "profile.toml"
