"""Which logs exist: one per tenant, environment and shard, made together with its genesis entry."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.errors import LogForked
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import Frontier
from counterseal_audit.append.engine import Prepared
from counterseal_audit.database import NAME_LOG, connection, named
from counterseal_audit.logs.anchors import bucket_of

_COLUMNS = (
    "log_id, tenant, environment, shard, origin, vkey, bucket,"
    " (extract(epoch FROM create_time) * 1000)::bigint AS create_time_ms"
)


_NEWEST = (
    f"SELECT one.*, {NAME_LOG.format('one.log_id')} FROM (SELECT {_COLUMNS} FROM ledger_log"
    " WHERE tenant = $1 AND environment = $2 ORDER BY shard DESC LIMIT 1) one"
)
_ONE = (
    f"SELECT {_COLUMNS}, {NAME_LOG.format('log_id')} FROM ledger_log"
    " WHERE tenant = $1 AND environment = $2 AND shard = $3"
)

_CLOSE_OLDER = (
    "UPDATE ledger_head SET open = false WHERE open AND log_id IN"
    " (SELECT log_id FROM ledger_log WHERE tenant = $1 AND environment = $2 AND shard < $3)"
)
"""A forked log may be continued before every replica has noticed that it is: none appends behind such a head."""


@dataclass(frozen=True, slots=True)
class Log:
    """One log, as it was created; `vkey` is the key that its genesis entry names."""

    log_id: int
    tenant: str
    environment: str
    shard: int
    origin: str
    vkey: str
    bucket: int
    create_time_ms: int = 0

    @property
    def key(self) -> VerifierKey:
        """The log's verifier key."""
        return VerifierKey.parse(self.vkey)


class LogStore:
    """The rows of `ledger_log`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def find(self, tenant: str, environment: str, shard: int | None = None) -> Log | None:
        """Return a shard of a tenant's log, the newest where none is named; None when there is none.

        Inside a snapshot the log is named by the same statement: its rows are asked for next.
        """
        async with connection(self._engine) as raw:
            named_shard = () if shard is None else (shard,)
            row = await raw.fetchrow(_NEWEST if shard is None else _ONE, tenant, environment, *named_shard)
        if row is None:
            return None
        *columns, _ = row.values()
        log = Log(*columns)
        named(self._engine, log.log_id)
        return log

    async def shards(self, tenant: str, environment: str) -> list[Log]:
        """Return all shards of a tenant's log, oldest first."""
        async with connection(self._engine) as raw:
            rows = await raw.fetch(
                f"SELECT {_COLUMNS} FROM ledger_log WHERE tenant = $1 AND environment = $2 ORDER BY shard",
                tenant,
                environment,
            )
        return [_log(row) for row in rows]

    async def onward(self, tenant: str, environment: str, shard: int) -> list[Log]:
        """Return the first shard from number `shard` on and the one behind it, as far as there are any."""
        async with connection(self._engine) as raw:
            rows = await raw.fetch(
                f"SELECT {_COLUMNS} FROM ledger_log WHERE tenant = $1 AND environment = $2 AND shard >= $3"
                " ORDER BY shard LIMIT 2",
                tenant,
                environment,
                shard,
            )
        return [_log(row) for row in rows]

    async def all(self, environment: str) -> list[Log]:
        """Return every log of an environment."""
        async with connection(self._engine) as raw:
            rows = await raw.fetch(f"SELECT {_COLUMNS} FROM ledger_log WHERE environment = $1", environment)
        return [_log(row) for row in rows]

    async def create(
        self,
        tenant: str,
        environment: str,
        shard: int,
        key: VerifierKey,
        genesis: Prepared,
        seal: Callable[[Frontier], bytes],
    ) -> Log:
        """Create a shard with its genesis entry at index 0, or return the one that somebody else just created.

        The origin is the key's name; seal: makes the head's MAC. One transaction: a log without genesis is never seen.
        Raises LogForked when the origin is another log's.
        """
        head = Frontier().extend([genesis.leaf_hash])
        async with connection(self._engine) as raw, raw.transaction():
            row = await raw.fetchrow(
                "INSERT INTO ledger_log (tenant, environment, shard, origin, vkey, bucket)"
                " VALUES ($1, $2, $3, $4, $5, $6)"
                " ON CONFLICT DO NOTHING"  # of either key: two replicas that create one log meet at its name as well
                f" RETURNING {_COLUMNS}",
                tenant,
                environment,
                shard,
                key.name,
                key.vkey,
                bucket_of(key.name),
            )
            if row is not None:
                log = _log(row)
                await raw.execute(
                    "INSERT INTO ledger_head (log_id, size, frontier, root, mac) VALUES ($1, 1, $2, $3, $4)",
                    log.log_id,
                    head.serialize(),
                    head.root(),
                    seal(head),
                )
                await raw.execute(
                    "INSERT INTO ledger_entry (log_id, idx, event_id, req_hash, leaf_hash, entry)"
                    " VALUES ($1, 0, $2, $3, $4, $5)",
                    log.log_id,
                    genesis.event_id,
                    genesis.req_hash,
                    genesis.leaf_hash,
                    genesis.entry,
                )
                await raw.execute(_CLOSE_OLDER, tenant, environment, shard)
                await raw.execute(
                    "INSERT INTO ledger_bucket (bucket) VALUES ($1) ON CONFLICT (bucket) DO NOTHING", log.bucket
                )
                return log
        existing = [log for log in await self.shards(tenant, environment) if log.shard == shard]
        if not existing:
            raise LogForked("another log has the name that was reserved for this one")
        return existing[0]


def _log(row: Any) -> Log:
    return Log(**dict(row))
