"""The environment's public verification keys: taken from Vault, kept in our database, recorded in the ledger once each.

The database answers while Vault is away, and keeps versions that Vault no longer shows. A key's first sight is a
`key.archived` entry of the system log, so that old signatures can be checked from the ledger alone.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.clock import Clock, monotonic_ms
from counterseal.errors import CredentialsUnavailable
from counterseal.ids import IdSource
from counterseal.rpc.ledger_wire import new_entry
from counterseal.rpc.outbox import Outbox
from counterseal.vault import Vault, VaultRefused
from counterseal.vault.names import Environment
from counterseal_credentials.containment.engine import SYSTEM_TENANT

USES = {"ctx": "context", "decision": "decision", "log": "log"}
MAX_AGE_MS = 5_000

log = logging.getLogger("counterseal.credentials.keys")


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """One public key: `kid` such as `ctx-prod:3`, 32 bytes of Ed25519, `active`, `archived` or `compromised`."""

    kid: str
    use: str
    public_key: bytes
    state: str


class PublishedKeys:
    """All keys by kid, at most five seconds older than Vault while Vault answers."""

    def __init__(
        self,
        engine: AsyncEngine,
        vault: Vault,
        environment: Environment,
        outbox: Outbox,
        clock: Clock,
        new_id: IdSource,
        monotonic: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._engine, self._vault, self._environment, self._outbox = engine, vault, environment, outbox
        self._clock, self._new_id, self._monotonic = clock, new_id, monotonic
        self._keys: dict[str, PublishedKey] = {}
        self._read_at: int | None = None
        self._lock = asyncio.Lock()

    async def all(self) -> Mapping[str, PublishedKey]:
        """Return every key, compromised ones too. Raises CredentialsUnavailable when none is known yet."""
        if self._read_at is None or self._monotonic() - self._read_at >= MAX_AGE_MS:
            async with self._lock:
                if self._read_at is None or self._monotonic() - self._read_at >= MAX_AGE_MS:
                    await self._refresh()
        return self._keys

    async def _refresh(self) -> None:
        try:
            live = await self._from_vault()
        except (CredentialsUnavailable, VaultRefused) as error:
            log.warning("the keys could not be read from Vault", extra={"error": type(error).__name__})
            live = {}
        stored = await self._stored()
        fresh = [key for kid, key in live.items() if kid not in stored]
        if fresh:
            await self._archive(fresh)
            stored |= {key.kid: key for key in fresh}
        if not stored:
            raise CredentialsUnavailable("the verification keys cannot be read")
        self._keys = stored
        self._read_at = self._monotonic()

    async def _from_vault(self) -> dict[str, PublishedKey]:
        found = {}
        for short, use in USES.items():
            name = self._environment.key(short)
            for version, public in (await self._vault.transit_public_keys(self._environment.transit, name)).items():
                kid = f"{name}:{version}"
                found[kid] = PublishedKey(kid, use, public, "active")
        return found

    async def _stored(self) -> dict[str, PublishedKey]:
        async with self._engine.connect() as connection:
            rows = await connection.execute(sa.text("SELECT kid, use, public_key, state FROM signing_key"))
            return {row.kid: PublishedKey(row.kid, row.use, bytes(row.public_key), row.state) for row in rows}

    async def _archive(self, keys: list[PublishedKey]) -> None:
        async with self._engine.begin() as connection:
            for key in keys:
                made = await connection.scalar(
                    sa.text(
                        "INSERT INTO signing_key (kid, use, public_key, state, create_time) "
                        "VALUES (:kid, :use, :public, :state, clock_timestamp()) ON CONFLICT DO NOTHING RETURNING kid"
                    ),
                    {"kid": key.kid, "use": key.use, "public": key.public_key, "state": key.state},
                )
                if made is None:
                    continue  # another replica was first, and recorded it
                name, _, version = key.kid.rpartition(":")
                data = {
                    "kind": key.use,
                    "name": name,
                    "version": version,
                    "public_key": key.public_key.hex(),
                    "state": key.state,
                }
                entry = new_entry(
                    "key.archived",
                    data,
                    event_id=self._new_id(),
                    event_time_ms=self._clock(),
                    tenant=SYSTEM_TENANT,
                    environment=self._environment.name,
                )
                await self._outbox.put(connection, entry)
        self._outbox.wake()
