"""What the grant broker does at Vault: make a wrapped token per grant, see whether it is dead, kill by name prefix."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from counterseal.vault.client import Vault, VaultRefused, VaultUnavailable
from counterseal.vault.names import DatabaseRole, Environment, Tenant

WRAP_SECONDS = 20


class Life(Enum):
    """What Vault says about a token. DYING: it is being revoked right now, ask again."""

    ALIVE = "alive"
    DYING = "dying"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class WrappedToken:
    """A grant's token inside a single-use wrapper; only the accessor may be stored."""

    wrapping_token: str = field(repr=False)
    accessor: str = field(repr=False)
    creation_path: str


class Broker:
    """The broker's calls under the credentials service's own Vault login."""

    def __init__(self, issuing: Vault, revoking: Vault, environment: Environment) -> None:
        self._issuing = issuing
        self._revoking = revoking
        self._environment = environment

    @property
    def address(self) -> str:
        """Vault's address, for the holder of a wrapper."""
        return self._issuing.address

    async def create_token(self, role: DatabaseRole, grant_id: str, ttl_seconds: int) -> WrappedToken:
        """Make the one token of a grant, with the role's one policy, wrapped for 20 s.

        The *token* is wrapped, not a credential: a wrapper of a credential that lapses leaves its lease alive.
        No `num_uses`: the last use would revoke the lease that it fetched.
        """
        answer = await self._issuing.call(
            "POST",
            role.tenant.token_creation_path,
            {
                "policies": [role.policy],
                "ttl": f"{ttl_seconds}s",
                "explicit_max_ttl": f"{ttl_seconds}s",
                "display_name": grant_id,
                "no_default_policy": True,
                "renewable": False,
            },
            headers={"X-Counterseal-Grant": grant_id},
            wrap_ttl_seconds=WRAP_SECONDS,
        )
        wrap = answer["wrap_info"]
        return WrappedToken(wrap["token"], wrap["wrapped_accessor"], wrap["creation_path"])

    async def revoke_token(self, accessor: str) -> None:
        """Revoke a token by its accessor; one that is gone already is fine. Leases die some ms later."""
        try:
            await self._revoking.call("POST", "auth/token/revoke-accessor", {"accessor": accessor})
        except VaultRefused as refused:
            if refused.status not in (400, 404):
                raise

    async def token_life(self, accessor: str) -> Life:
        """Ask whether a token lives. While one dies Vault answers 403, as it does when *our* token is dead."""
        try:
            await self._revoking.call("POST", "auth/token/lookup-accessor", {"accessor": accessor})
        except VaultRefused as refused:
            if refused.status in (400, 404):
                return Life.GONE
            if refused.status != 403:
                raise
            # Raises when it is our own token that is refused: then nothing is known about the other one.
            await self._revoking.call("GET", "auth/token/lookup-self")
            return Life.DYING
        return Life.ALIVE

    async def lease_alive(self, lease_id: str) -> bool:
        """Tell whether Vault still holds a lease."""
        try:
            await self._revoking.call("POST", "sys/leases/lookup", {"lease_id": lease_id})
        except VaultRefused as refused:
            if refused.status in (400, 404):
                return False
            raise
        return True

    async def lease_issue_time(self, lease_id: str) -> datetime | None:
        """Return when a lease was issued, None when it is gone."""
        try:
            answer = await self._revoking.call("POST", "sys/leases/lookup", {"lease_id": lease_id})
        except VaultRefused as refused:
            if refused.status in (400, 404):
                return None
            raise
        # Vault prints nanoseconds, which this parser does not know: cut to microseconds.
        whole, _, rest = str(answer["data"]["issue_time"]).partition(".")
        fraction = rest.rstrip("Z")[:6]
        return datetime.fromisoformat(f"{whole.rstrip('Z')}.{fraction or '0'}+00:00")

    async def leases_of(self, role: DatabaseRole) -> list[str]:
        """Return the ids of every lease of a role; how a lease is found that nobody reported."""
        return [f"{role.credential_path}/{tail}" for tail in await self._list(role.credential_path)]

    async def leases_below(self, tenant: Tenant) -> list[str]:
        """Return the ids of every login lease of a tenant, those of sweeps left out."""
        found: list[str] = []
        for role in await self._list(f"{tenant.database_mount}/creds"):
            name = role.rstrip("/")
            if "--" in name:
                path = f"{tenant.database_mount}/creds/{name}"
                found += [f"{path}/{tail}" for tail in await self._list(path)]
        return found

    async def revoke_lease(self, lease_id: str) -> None:
        """Queue the end of one lease; one that is gone already is fine."""
        try:
            await self._revoking.call("POST", "sys/leases/revoke", {"lease_id": lease_id, "sync": False})
        except VaultRefused as refused:
            if refused.status not in (400, 404):
                raise

    async def revoke_prefix(self, prefix: str) -> None:
        """Queue the end of everything below a prefix, which ends at a path segment.

        `sync` must be false: the synchronous form stops at the first lease that fails and queues nothing.
        """
        await self._revoking.call("PUT", f"sys/leases/revoke-prefix/{prefix}", {"sync": False})

    async def irrevocable_count(self) -> int:
        """Return how many leases Vault has given up on."""
        answer = await self._revoking.call("GET", "sys/leases/count", params={"type": "irrevocable"})
        return int(answer["data"]["lease_count"])

    async def sweep(self, tenant: Tenant) -> bool:
        """End every session at the tenant's database whose login would be refused now.

        Returns True when there was none to end. Two clean sweeps in a row, 100 ms apart, are *settled*.
        """
        return await self._run(tenant, "sweep")

    async def fence(self, tenant: Tenant) -> bool:
        """Take CONNECT from all of a tenant's logins; giving it back is an operator's act."""
        return await self._run(tenant, "fence")

    async def sweep_janitor(self, tenant: Tenant) -> bool:
        """Drop logins that expired an hour ago: those that a crash left without a lease."""
        return await self._run(tenant, "janitor")

    async def _run(self, tenant: Tenant, role: str) -> bool:
        # Reading the role runs its statements; the sweep raises when it ended something, and Vault says so.
        try:
            await self._revoking.call("GET", f"{tenant.database_mount}/creds/{role}")
        except (VaultRefused, VaultUnavailable) as error:
            if any("counterseal: ended" in line for line in error.errors):
                return False
            raise
        return True

    async def _list(self, path: str) -> list[str]:
        try:
            answer = await self._revoking.call("LIST", f"sys/leases/lookup/{path}")
        except VaultRefused as refused:
            if refused.status == 404:
                return []
            raise
        return [str(key) for key in answer["data"]["keys"]]
