"""The service's own table `[credentials]`: whom it trusts to name people, which workloads exist, how much it lends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterseal.config import ConfigError, bind
from counterseal.identity import SpiffeId
from counterseal_credentials.tokens.jose import ALGORITHMS

KINDS = ("agent", "cli", "console")


@dataclass(frozen=True, slots=True)
class IssuerConfig:
    """One OpenID provider. primary: its subjects need no alias before them; exactly one issuer is.

    audience: the `aud` that its tokens for us carry. ca_file: roots for fetching `jwks_url`, the system's if absent.
    types: accepted values of the header's `typ`. roles_claim: the claim with the person's roles.
    tenants: to whom all its people belong. tenants_claim: the claim that lists a person's own tenants instead.
    """

    issuer: str
    audience: str
    jwks_url: str
    ca_file: Path | None = None
    algorithms: tuple[str, ...] = ("EdDSA", "RS256", "ES256")
    types: tuple[str, ...] = ("JWT",)
    roles_claim: str = "roles"
    tenants: tuple[str, ...] = ()
    tenants_claim: str | None = None
    primary: bool = False

    def __post_init__(self) -> None:
        """Refuse an issuer that could be impersonated on the way, or an algorithm that we do not verify."""
        if not self.jwks_url.startswith("https://"):
            raise ValueError("jwks_url must be https")
        if not self.algorithms or not set(self.algorithms) <= set(ALGORITHMS):
            raise ValueError(f"algorithms must be some of {', '.join(ALGORITHMS)}")


@dataclass(frozen=True, slots=True)
class Workload:
    """One registered caller of Exchange. clients: accepted `azp` of a person's token; by default the agent's bare name,
    or `counterseal-<kind>`. scopes: the most that its tokens carry. owner: the agent's owner, excluded from approving.
    """

    spiffe_id: str
    kind: str
    tenants: tuple[str, ...]
    scopes: tuple[str, ...] = ()
    agent: str = ""
    owner: str = ""
    versions: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    enabled: bool = True

    def __post_init__(self) -> None:
        """Refuse a registration whose SPIFFE id says something else than the registration."""
        peer = SpiffeId.parse(self.spiffe_id)
        if self.kind not in KINDS or peer.kind != self.kind:
            raise ValueError(f"kind must be one of {', '.join(KINDS)} and that of the SPIFFE id")
        if self.kind == "agent" and (self.agent != peer.name or not self.owner or not self.versions):
            raise ValueError("an agent has the name in its SPIFFE id, an owner and versions")

    @property
    def client_ids(self) -> tuple[str, ...]:
        """The clients for which a person's token may have been issued."""
        return self.clients or ((self.agent,) if self.kind == "agent" else (f"counterseal-{self.kind}",))


@dataclass(frozen=True, slots=True)
class CredentialsConfig:
    """Section `[credentials]`. persons: subject (without `user:`) -> person, where two accounts are one person.

    vault_address: what holders of a wrapper are told. max_grant_ttl_seconds, agent_limit, tenant_limit: live grants.
    stale_seconds: age of policy's containment stream beyond which only reading is lent.
    """

    vault_address: str
    tenants: tuple[str, ...]
    issuers: Mapping[str, IssuerConfig]
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    persons: Mapping[str, str] = field(default_factory=dict)
    max_grant_ttl_seconds: int = 900
    agent_limit: int = 20
    tenant_limit: int = 200
    stale_seconds: float = 5.0

    def __post_init__(self) -> None:
        """Refuse ambiguity about who a subject or a workload is, and whose a person is."""
        # One certificate serves all users of a command line: only the person's own token can say where they belong.
        if len(self.tenants) > 1 and any(not (i.tenants or i.tenants_claim) for i in self.issuers.values()):
            raise ValueError("with several tenants every issuer needs tenants or tenants_claim")
        if sum(issuer.primary for issuer in self.issuers.values()) != 1:
            raise ValueError("exactly one issuer must be primary")
        if len({issuer.issuer for issuer in self.issuers.values()}) != len(self.issuers):
            raise ValueError("two issuers have the same name")
        ids = [workload.spiffe_id for workload in self.workloads.values()]
        if len(set(ids)) != len(ids):
            raise ValueError("two workloads have the same SPIFFE id")

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> "CredentialsConfig":
        """Bind the table; raises ConfigError with every problem."""
        return bind(cls, dict(table), "credentials")

    def workload(self, spiffe_id: str) -> Workload | None:
        """Return the enabled registration of a peer, or None."""
        found = next((item for item in self.workloads.values() if item.spiffe_id == spiffe_id), None)
        return found if found is not None and found.enabled else None


__all__ = ["ConfigError", "CredentialsConfig", "IssuerConfig", "Workload"]
