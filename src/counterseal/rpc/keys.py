"""Public keys of the environment by kid, fetched from the token service and refetched when a new kid is seen."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from counterseal.clock import monotonic_ms

REFETCH_INTERVAL_MS = 5_000
MAX_AGE_MS = 30_000


class UnknownKey(LookupError):
    """No key of that id is published, or it is archived and only active ones count."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One published verification key: 32 bytes of Ed25519, and whether live tokens and decisions may use it."""

    public_key: bytes
    active: bool = True


Fetch = Callable[[], Awaitable[Mapping[str, PublicKey]]]
"""Returns every published key by kid (`ctx-prod:3`), archived ones too."""


class KeyCache:
    """Caches the published keys. An unknown kid causes one fetch for all waiters, at most one per 5 s.

    Keys older than 30 s are refreshed behind the answer, so that an archived key stops counting; while the token
    service is away the known ones go on serving.
    """

    def __init__(self, fetch: Fetch, monotonic: Callable[[], int] = monotonic_ms) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._keys: Mapping[str, PublicKey] = {}
        self._tried_at: int | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def get(self, kid: str, active_only: bool = True) -> bytes:
        """Return the 32 public bytes of `kid`.

        Raises UnknownKey; and what the fetch raises when the kid is unknown and the token service does not answer.
        """
        found = self._keys.get(kid)
        if found is None:
            await self._refetch()
            found = self._keys.get(kid)
        elif self._age() > MAX_AGE_MS:
            self._start()
        if found is None or (active_only and not found.active):
            raise UnknownKey(kid)
        return found.public_key

    async def versions(self, name: str) -> list[bytes]:
        """Return the 32 public bytes of every active version of a key (`log-prod`); empty when none is published.

        Raises what the fetch raises when none is known and the token service does not answer.
        """
        if not self._named(name):
            await self._refetch()
        elif self._age() > MAX_AGE_MS:
            self._start()
        return self._named(name)

    async def refresh(self) -> None:
        """Fetch now, whatever was fetched before (at start, and when the credentials service rotates)."""
        self._tried_at = None
        await self._refetch()

    def _named(self, name: str) -> list[bytes]:
        mine = (kid for kid in self._keys if kid.rpartition(":")[0] == name)
        return [self._keys[kid].public_key for kid in sorted(mine) if self._keys[kid].active]

    def _age(self) -> int:
        return REFETCH_INTERVAL_MS + MAX_AGE_MS if self._tried_at is None else self._monotonic() - self._tried_at

    async def _refetch(self) -> None:
        task = self._start()
        if task is not None:
            # One caller's cancellation must not end the fetch that the others wait for.
            await asyncio.shield(task)

    def _start(self) -> asyncio.Task[None] | None:
        if self._fetching is None and self._age() >= REFETCH_INTERVAL_MS:
            self._tried_at = self._monotonic()
            self._fetching = asyncio.create_task(self._load(), name="fetch-keys")
            self._fetching.add_done_callback(self._ended)
        return self._fetching

    async def _load(self) -> None:
        self._keys = dict(await self._fetch())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if not task.cancelled():
            task.exception()  # a background refresh that failed is not an unretrieved exception
