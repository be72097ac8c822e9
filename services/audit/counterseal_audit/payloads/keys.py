"""Data keys: one live key per log and person, wrapped by the tenant's key in transit, in clear in memory only.

A new person's first entry needs a key at once, so wrapped keys are made ahead, off the append path. Vault away and the
pool dry, an entry with sealed fields is refused (`SEAL_UNAVAILABLE`): nothing is ever stored in the clear meanwhile.
Only `datakey` makes keys: `encrypt` on a destroyed transit key would silently create it again (measured).
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.errors import LedgerUnavailable, ServiceError
from counterseal.ids import IdSource
from counterseal_audit.database import CONNECTION_LOST, connection
from counterseal_audit.logs.keys import Sealer
from counterseal_audit.logs.store import Log

POOL_KEYS = 16
MAX_CACHED = 10_000
LOOK_SECONDS = 1.0
LOOK_BACK_SECONDS = 86_400

log = logging.getLogger("counterseal.audit.payloads")


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key: its id, as entries name it in `srv.dek`, and 32 bytes."""

    dek_id: UUID
    key: bytes = field(repr=False)


class DataKeys:
    """The live keys that this process uses, and the pool behind them."""

    def __init__(self, engine: AsyncEngine, sealer: Sealer, new_id: IdSource, *, pool_keys: int = POOL_KEYS) -> None:
        self._engine = engine
        self._sealer = sealer
        self._new_id = new_id
        self._pool_keys = pool_keys
        self._live: OrderedDict[tuple[int, str], DataKey] = OrderedDict()
        self._opening: dict[tuple[int, str], asyncio.Lock] = {}
        self._pools: dict[str, deque[tuple[bytes, str]]] = {}
        self._used = asyncio.Event()

    async def live(self, of: Log, person: str) -> DataKey:
        """Return the live key of a person in a log, making it if there is none.

        Raises SealUnavailable when Vault is needed and away, LedgerUnavailable.
        """
        place = (of.log_id, person)
        known = self._live.get(place)
        if known is not None:
            self._live.move_to_end(place)
            return known
        lock = self._opening.setdefault(place, asyncio.Lock())
        try:
            async with lock:
                if place not in self._live:
                    self._live[place] = await self._find_or_make(of, person)
                    while len(self._live) > MAX_CACHED:
                        self._live.popitem(last=False)
                return self._live[place]
        except CONNECTION_LOST as error:
            raise LedgerUnavailable("the ledger's database does not answer") from error
        finally:
            if not lock.locked():
                self._opening.pop(place, None)

    async def open(self, tenant: str, wrapped: str) -> bytes:
        """Return a stored key in clear. Raises SealUnavailable."""
        return await self._sealer.open(tenant, wrapped)

    def forget(self, dek_ids: Iterable[UUID]) -> None:
        """Use keys no more: they were destroyed."""
        gone = set(dek_ids)
        for place in [place for place, known in self._live.items() if known.dek_id in gone]:
            del self._live[place]

    async def run(self, stopping: asyncio.Event) -> None:
        """Keep the pools full, and forget keys that other replicas destroyed, until `stopping` is set."""
        while not stopping.is_set():
            try:
                await self.look()
                await self.fill()
            except (ServiceError, *CONNECTION_LOST) as error:
                log.warning("data keys: %s", type(error).__name__)
            waits = [asyncio.create_task(stopping.wait()), asyncio.create_task(self._used.wait())]
            await asyncio.wait(waits, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            self._used.clear()

    async def look(self) -> None:
        """Forget what was destroyed lately; sealing with it would be refused by the database."""
        async with connection(self._engine) as raw:
            rows = await raw.fetch(
                "SELECT dek_id FROM ledger_dek WHERE destroy_time > clock_timestamp() - make_interval(secs => $1)",
                float(LOOK_BACK_SECONDS),
            )
        self.forget(UUID(str(row["dek_id"])) for row in rows)

    async def fill(self) -> None:
        """Fill the pool of every tenant that has been written for. Raises SealUnavailable."""
        for tenant, pool in list(self._pools.items()):
            while len(pool) < self._pool_keys:
                pool.append(await self._sealer.new_key(tenant))

    async def _find_or_make(self, of: Log, person: str) -> DataKey:
        async with connection(self._engine) as raw:
            row = await raw.fetchrow(_LIVE, of.log_id, person)
        if row is None:
            key, wrapped = await self._take(of.tenant)
            dek_id = self._new_id()
            async with connection(self._engine) as raw:
                await raw.execute(_INSERT, dek_id, of.log_id, person, wrapped)
                row = await raw.fetchrow(_LIVE, of.log_id, person)
            if row is None:
                raise LedgerUnavailable("the person is being erased; try again")
            if str(row["dek_id"]) == dek_id:
                return DataKey(UUID(dek_id), key)
            self._pools[of.tenant].append((key, wrapped))  # another replica was first: its key is the live one
        return DataKey(UUID(str(row["dek_id"])), await self._sealer.open(of.tenant, row["wrapped"]))

    async def _take(self, tenant: str) -> tuple[bytes, str]:
        pool = self._pools.setdefault(tenant, deque())
        self._used.set()
        return pool.popleft() if pool else await self._sealer.new_key(tenant)


_LIVE = "SELECT dek_id, wrapped FROM ledger_dek WHERE log_id = $1 AND subject = $2 AND destroy_time IS NULL"
_INSERT = (
    "INSERT INTO ledger_dek (dek_id, log_id, subject, wrapped) VALUES ($1::uuid, $2, $3, $4)"
    " ON CONFLICT (log_id, subject) WHERE destroy_time IS NULL DO NOTHING"
)
