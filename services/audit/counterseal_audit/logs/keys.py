"""Keys of the logs: the one that signs checkpoints, the tenants' pseudonym keys, the head MAC's. All live in transit.

A pseudonym key is a data key of the tenant's own key-encryption key, the head MAC's one of the environment's: stored
wrapped, opened in memory only. Only
`datakey` makes one: `encrypt` on a destroyed key would silently create it again.
"""

import base64
from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.errors import CredentialsUnavailable, InputInvalid, SealUnavailable
from counterseal.ledger.registry import SYSTEM_TENANT
from counterseal.vault import Vault, VaultRefused
from counterseal.vault.names import Environment
from counterseal_audit.database import connection


class LogSigner(Protocol):
    """The transit key that signs all logs of an environment; a log names the public key, and so the version."""

    async def public_keys(self) -> dict[int, bytes]:
        """Return the 32-byte public keys by version."""

    async def sign_batch(self, messages: Sequence[bytes], version: int) -> list[bytes | None]:
        """Return the 64-byte signatures by that version, None for each that failed. Raises SealUnavailable."""


class Sealer(Protocol):
    """Makes and opens data keys of a tenant."""

    async def new_key(self, tenant: str) -> tuple[bytes, str]:
        """Return 32 random bytes and their wrapped form."""

    async def open(self, tenant: str, wrapped: str) -> bytes:
        """Return the bytes that were wrapped."""


class VaultLogSigner:
    """Signs by `log-<env>`."""

    def __init__(self, vault: Vault, environment: str) -> None:
        self._vault = vault
        self._names = Environment(environment)

    async def public_keys(self) -> dict[int, bytes]:
        """Return the public keys of all versions that Vault shows."""
        try:
            return await self._vault.transit_public_keys(self._names.transit, self._names.key("log"))
        except VaultRefused as refused:
            raise SealUnavailable("Vault refuses the log's public keys", status=refused.status) from refused
        except CredentialsUnavailable as error:
            raise SealUnavailable("Vault does not answer") from error

    async def sign_batch(self, messages: Sequence[bytes], version: int) -> list[bytes | None]:
        """Return the signatures by one version of the key; one call however many there are."""
        mount, key = self._names.transit, self._names.key("log")
        try:
            answers = await self._vault.transit_sign_batch(mount, key, messages, version)
        except VaultRefused as refused:
            raise SealUnavailable("Vault refuses to sign", status=refused.status) from refused
        except CredentialsUnavailable as error:
            raise SealUnavailable("Vault does not answer") from error
        return [answer[0] if answer is not None and answer[1] == version else None for answer in answers]


class VaultSealer:
    """Data keys by `kek--<tenant>`."""

    def __init__(self, vault: Vault, environment: str) -> None:
        self._vault = vault
        self._names = Environment(environment)

    async def new_key(self, tenant: str) -> tuple[bytes, str]:
        """Return a new data key. Raises InputInvalid when the tenant was never set up, SealUnavailable."""
        data = await self._call(f"datakey/plaintext/{self._kek(tenant)}", {"bits": 256}, tenant)
        return base64.b64decode(data["plaintext"]), str(data["ciphertext"])

    async def open(self, tenant: str, wrapped: str) -> bytes:
        """Return the data key. Raises SealUnavailable."""
        data = await self._call(f"decrypt/{self._kek(tenant)}", {"ciphertext": wrapped}, tenant)
        return base64.b64decode(data["plaintext"])

    def _kek(self, tenant: str) -> str:
        return self._names.system_kek if tenant == SYSTEM_TENANT else self._names.tenant(tenant).kek

    async def _call(self, path: str, body: dict[str, Any], tenant: str) -> dict[str, Any]:
        try:
            answer = await self._vault.call("POST", f"{self._names.transit}/{path}", body)
        except VaultRefused as refused:
            if refused.status in (400, 404):
                raise InputInvalid("the tenant is not set up in this environment", tenant=tenant) from refused
            raise SealUnavailable from refused
        except CredentialsUnavailable as error:
            raise SealUnavailable from error
        data: dict[str, Any] = answer["data"]
        return data


class PseudonymKeys:
    """The tenants' pseudonym keys: made on first use, the same on every replica, cached in memory."""

    def __init__(self, engine: AsyncEngine, sealer: Sealer) -> None:
        self._secrets = _Secrets(engine, sealer)

    async def get(self, tenant: str) -> bytes:
        """Return the tenant's key (32 bytes)."""
        return await self._secrets.get(f"pseudonym:{tenant}", tenant)


class HeadMacKey:
    """The environment's key for the MACs of head rows: stored wrapped, in clear in memory only."""

    def __init__(self, engine: AsyncEngine, sealer: Sealer) -> None:
        self._secrets = _Secrets(engine, sealer)

    async def get(self) -> bytes:
        """Return the key (32 bytes)."""
        return await self._secrets.get("head-mac", SYSTEM_TENANT)


class _Secrets:
    """Data keys by name, each wrapped by a tenant's key-encryption key."""

    def __init__(self, engine: AsyncEngine, sealer: Sealer) -> None:
        self._engine = engine
        self._sealer = sealer
        self._keys: dict[str, bytes] = {}

    async def get(self, name: str, tenant: str) -> bytes:
        key = self._keys.get(name)
        if key is None:
            key = self._keys[name] = await self._sealer.open(tenant, await self._wrapped(name, tenant))
        return key

    async def _wrapped(self, name: str, tenant: str) -> str:
        async with connection(self._engine) as raw:
            wrapped = await raw.fetchval("SELECT wrapped FROM ledger_secret WHERE name = $1", name)
        if wrapped is not None:
            return str(wrapped)
        _, fresh = await self._sealer.new_key(tenant)
        async with connection(self._engine) as raw:
            await raw.execute(
                "INSERT INTO ledger_secret (name, wrapped) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING", name, fresh
            )
            # Whoever was first decides: two replicas must not make two keys of one name.
            return str(await raw.fetchval("SELECT wrapped FROM ledger_secret WHERE name = $1", name))
