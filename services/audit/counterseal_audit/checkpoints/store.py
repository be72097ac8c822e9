"""Checkpoint rows, the leases of the publisher, and the entry bytes that it hashes again."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.ledger.tree import Frontier
from counterseal_audit.checkpoints.engine import Published
from counterseal_audit.database import connection, reading

CHUNK = 2000


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A published checkpoint and when it was published (milliseconds)."""

    size: int
    published: Published
    publish_time_ms: int


class CheckpointStore:
    """The rows of `ledger_checkpoint` and `ledger_bucket`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def lease(self, buckets: Sequence[int], owner: str, seconds: int) -> set[int]:
        """Take or renew the leases of buckets; return those that are ours for `seconds` from now."""
        async with connection(self._engine) as raw:
            rows = await raw.fetch(
                "UPDATE ledger_bucket SET lease_by = $2, lease_until = clock_timestamp() + make_interval(secs => $3)"
                " WHERE bucket = ANY($1::integer[]) AND (lease_by = $2 OR lease_until < clock_timestamp())"
                " RETURNING bucket",
                list(buckets),
                owner,
                float(seconds),
            )
        return {row["bucket"] for row in rows}

    async def release(self, owner: str) -> None:
        """Give up every lease, so that another replica need not wait for its end."""
        async with connection(self._engine) as raw:
            await raw.execute("UPDATE ledger_bucket SET lease_until = '-infinity' WHERE lease_by = $1", owner)

    async def sizes(self) -> dict[int, int]:
        """Return the size of every head."""
        async with connection(self._engine) as raw:
            return {row["log_id"]: row["size"] for row in await raw.fetch("SELECT log_id, size FROM ledger_head")}

    async def latest(self, log_id: int) -> StoredCheckpoint | None:
        """Return the latest checkpoint of a log."""
        async with reading(self._engine, log_id) as raw:
            row = await raw.fetchrow(_SELECT + " ORDER BY size DESC LIMIT 1", log_id)
        return _stored(row)

    async def at(self, log_id: int, size: int) -> StoredCheckpoint | None:
        """Return the checkpoint of exactly this size."""
        async with reading(self._engine, log_id) as raw:
            row = await raw.fetchrow(_SELECT + " AND size = $2", log_id, size)
        return _stored(row)

    async def publish(self, log_id: int, published: Published) -> bool:
        """Store a signed checkpoint; False when one of that size is there already."""
        async with connection(self._engine) as raw:
            done = await raw.execute(
                "INSERT INTO ledger_checkpoint (log_id, size, root, frontier, note) VALUES ($1, $2, $3, $4, $5)"
                " ON CONFLICT DO NOTHING",
                log_id,
                published.frontier.size,
                published.root,
                published.frontier.serialize(),
                published.note,
            )
        return str(done).endswith(" 1")

    async def entries(self, log_id: int, start: int, end: int) -> AsyncIterator[list[bytes]]:
        """Yield the entry bytes from index `start` up to `end` in order, a chunk at a time; stops at a gap."""
        while start < end:
            async with reading(self._engine, log_id) as raw:
                rows = await raw.fetch(
                    "SELECT idx, entry FROM ledger_entry WHERE log_id = $1 AND idx >= $2 AND idx < $3 ORDER BY idx",
                    log_id,
                    start,
                    min(end, start + CHUNK),
                )
            chunk = [row["entry"] for position, row in enumerate(rows) if row["idx"] == start + position]
            if not chunk:
                return
            yield chunk
            start += len(chunk)


_SELECT = (
    "SELECT size, root, frontier, note, (extract(epoch FROM publish_time) * 1000)::bigint AS publish_time_ms"
    " FROM ledger_checkpoint WHERE log_id = $1"
)


def _stored(row: Any) -> StoredCheckpoint | None:
    if row is None:
        return None
    published = Published(Frontier.parse(row["size"], row["frontier"]), row["root"], row["note"])
    return StoredCheckpoint(row["size"], published, row["publish_time_ms"])
