r"""Names of everything that lives in Vault or at a target: parsed once, every path derived.

A part is `fullmatch([a-z0-9]+(-[a-z0-9]+)*)` of bounded length; `--` joins parts, so `grant--prod--*` cannot match
`prod-eu`. Guards two traps: HTTP clients normalise `acme/../evil` before the server could refuse it, and
`re.match('^..$')` accepts `'acme\\n'`.
"""

import re
from dataclasses import dataclass
from typing import Literal

MAX_PART = 24
MAX_ENVIRONMENT = 12
TIERS = (60, 300, 900)
"""Lives of a database login in seconds; Vault knows no life per request, so there is a role per tier."""

Mode = Literal["rw", "ro"]
MODES: tuple[Mode, ...] = ("rw", "ro")
KEY_USES = ("ctx", "decision", "log")
SERVICES = ("policy", "credentials", "audit", "executor")
RESERVED_ROLES = ("sweep", "fence", "janitor")

_PART = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SEGMENT = re.compile(r"[A-Za-z0-9_+*.-]+")


class BadName(ValueError):
    """A name part or a path has characters, a form or a length that is not allowed."""


def part(text: str, limit: int = MAX_PART) -> str:
    """Return `text` if it may be part of a name; raises BadName."""
    if len(text) > limit or not _PART.fullmatch(text):
        raise BadName(f"{text!r} is not a name of at most {limit} characters in [a-z0-9-]")
    return text


def safe_path(path: str) -> str:
    """Return an API path whose segments cannot climb or hide anything; raises BadName."""
    for segment in path.split("/"):
        if not _SEGMENT.fullmatch(segment) or segment in (".", ".."):
            raise BadName(f"{path!r} is not a path")
    return path


@dataclass(frozen=True, slots=True)
class Environment:
    """One deployment: its keys, mounts and policies."""

    name: str

    def __post_init__(self) -> None:
        part(self.name, MAX_ENVIRONMENT)

    @property
    def transit(self) -> str:
        """Mount of the signing keys."""
        return f"transit/{self.name}"

    @property
    def pki(self) -> str:
        """Mount of the certificate authority."""
        return f"pki/{self.name}"

    @property
    def kv(self) -> str:
        """Mount of the services' own key-value store."""
        return f"kv/{self.name}"

    @property
    def service_databases(self) -> str:
        """Mount of the services' own database logins."""
        return f"dbsvc/{self.name}"

    @property
    def system_kek(self) -> str:
        """Transit key that seals what belongs to the environment's own log; no tenant can have this name."""
        return "kek--_system"

    def key(self, use: str) -> str:
        """Return the transit key of a use: `ctx`, `decision` or `log`."""
        if use not in KEY_USES:
            raise BadName(f"{use!r} is not a use of a signing key")
        return f"{use}-{self.name}"

    def service_policy(self, service: str) -> str:
        """Return the name of a service's Vault policy, and of its AppRole."""
        if service not in SERVICES:
            raise BadName(f"{service!r} is not a service")
        return f"svc--{self.name}--{service}"

    def tenant(self, name: str) -> "Tenant":
        """Return a tenant of this environment."""
        return Tenant(self, name)


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant of one environment."""

    environment: Environment
    name: str

    def __post_init__(self) -> None:
        part(self.name)

    @property
    def database_mount(self) -> str:
        """Mount of the database credentials lent to this tenant's steps."""
        return f"db/{self.environment.name}/{self.name}"

    @property
    def secret_mount(self) -> str:
        """Mount of the tools' static secrets."""
        return f"secret/{self.environment.name}/{self.name}"

    @property
    def token_role(self) -> str:
        """Token role under which grants' tokens are made."""
        return f"grant--{self.environment.name}--{self.name}"

    @property
    def token_creation_path(self) -> str:
        """Path that creates grants' tokens; also the prefix of their leases."""
        return f"auth/token/create/{self.token_role}"

    @property
    def policy_glob(self) -> str:
        """The only policies that the token role may give."""
        return f"g--{self.environment.name}--{self.name}--*"

    @property
    def kek(self) -> str:
        """Transit key that seals this tenant's payloads."""
        return f"kek--{self.name}"

    @property
    def group(self) -> str:
        """PostgreSQL group of all of the tenant's logins; holds CONNECT."""
        return f"cs--{self.name}"

    @property
    def admin(self) -> str:
        """PostgreSQL role by which Vault makes and drops the tenant's logins."""
        return f"vadmin--{self.name}"

    def role(self, action: str, mode: Mode, tier: int) -> "DatabaseRole":
        """Return a database role of this tenant."""
        return DatabaseRole(self, action, mode, tier)


@dataclass(frozen=True, slots=True)
class DatabaseRole:
    """What a grant lends: an action's role, reading or writing, for a tier's life."""

    tenant: Tenant
    action: str
    mode: Mode
    tier: int

    def __post_init__(self) -> None:
        if part(self.action) in RESERVED_ROLES or self.mode not in MODES or self.tier not in TIERS:
            raise BadName(f"{self.action!r}, {self.mode!r}, {self.tier!r} is not a database role")

    @property
    def name(self) -> str:
        """Name of Vault's role."""
        return f"{self.action}--{self.mode}--{self.tier}"

    @property
    def policy(self) -> str:
        """The one policy of the grant's token."""
        tenant = self.tenant
        return f"g--{tenant.environment.name}--{tenant.name}--{self.name}"

    @property
    def credential_path(self) -> str:
        """Path whose read creates the login."""
        return f"{self.tenant.database_mount}/creds/{self.name}"

    @property
    def group(self) -> str:
        """PostgreSQL group with the action's privileges."""
        return f"{self.tenant.group}--{self.action}--{self.mode}"


def smallest_tier(seconds: int) -> int:
    """Return the shortest tier that lasts at least `seconds`; raises BadName beyond the longest."""
    for tier in TIERS:
        if seconds <= tier:
            return tier
    raise BadName(f"no login lives {seconds} seconds; the longest tier is {TIERS[-1]}")


def login_prefix(grant_id: str) -> str:
    """Return how the logins of a grant start at the target: its log names the grant."""
    return f"g-{grant_id.replace('-', '')}-"
