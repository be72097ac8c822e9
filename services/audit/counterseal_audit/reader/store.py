"""What readers read: entries and hashes of one log, nothing of another (row-level security)."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.errors import InternalError
from counterseal.ledger.tree import HASH_SIZE
from counterseal_audit.database import connection, reading, snapshot


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One row of a log."""

    index: int
    entry: bytes
    leaf_hash: bytes


RUNS = """
SELECT r.last, r.hashes
  FROM unnest($2::smallint[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS w(level, first, past, number), LATERAL (
    SELECT max(at) AS last, string_agg(hash, '' ORDER BY at) AS hashes FROM (
      (SELECT e.idx AS at, e.leaf_hash AS hash FROM ledger_entry e
        WHERE w.level = 0 AND e.log_id = $1 AND e.idx >= w.first AND e.idx < w.past ORDER BY e.idx LIMIT 256)
      UNION ALL
      (SELECT n.n, n.hash FROM ledger_node n
        WHERE w.level > 0 AND n.log_id = $1 AND n.level = w.level AND n.n >= w.first AND n.n < w.past
        ORDER BY n.n LIMIT 256)
    ) one
  ) r ORDER BY w.number
"""
"""The limits are for the planner: it cannot see how short a run is, and would compile the statement first."""

Run = tuple[int, int, int]
"""Tile level, first hash, number of hashes (at most 256)."""


class ReaderStore:
    """Entries, leaf hashes and nodes."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[None]:
        """Have whatever this task reads inside answered as of one moment, by any store of the same database."""
        async with snapshot(self._engine):
            yield

    async def size(self, log_id: int) -> int:
        """Return how many entries the log has."""
        async with connection(self._engine) as raw:
            return int(await raw.fetchval("SELECT size FROM ledger_head WHERE log_id = $1", log_id))

    async def by_index(self, log_id: int, index: int) -> StoredEntry | None:
        """Return one entry."""
        found = await self.page(log_id, index, 1)
        return found[0] if found and found[0].index == index else None

    async def by_event_id(self, log_id: int, event_id: str) -> StoredEntry | None:
        """Return one entry."""
        async with reading(self._engine, log_id) as raw:
            row = await raw.fetchrow(
                "SELECT idx, entry, leaf_hash FROM ledger_entry WHERE log_id = $1 AND event_id = $2::uuid",
                log_id,
                event_id,
            )
        return None if row is None else _entry(row)

    async def page(self, log_id: int, start: int, count: int, contains: Sequence[bytes] = ()) -> list[StoredEntry]:
        """Return up to `count` entries from index `start` on whose bytes hold every text of `contains`."""
        async with reading(self._engine, log_id) as raw:
            rows = await raw.fetch(
                "SELECT idx, entry, leaf_hash FROM ledger_entry WHERE log_id = $1 AND idx >= $2"
                " AND (SELECT coalesce(bool_and(position(needle IN entry) > 0), true) FROM unnest($4::bytea[]) needle)"
                " ORDER BY idx LIMIT $3",
                log_id,
                start,
                count,
                list(contains),
            )
        return [_entry(row) for row in rows]

    async def runs(self, log_id: int, runs: Sequence[Run]) -> list[bytes]:
        """Return the hashes of each run, joined; fewer where the level ends. Raises InternalError at a gap.

        The bounds are passed, not computed in the statement: under row-level security only leakproof conditions use the
        index, addition is none, and the rest of the log would be read for every run. A run comes as one value: as rows
        its hashes cost more to take apart than to hash.
        """
        async with reading(self._engine, log_id) as raw:
            rows = await raw.fetch(
                RUNS,
                log_id,
                [level for level, _, _ in runs],
                [first for _, first, _ in runs],
                [first + count for _, first, count in runs],
            )
        found: list[bytes] = []
        for (level, first, _), (last, hashes) in zip(runs, rows, strict=True):
            joined: bytes = hashes or b""
            if joined and len(joined) != (last - first + 1) * HASH_SIZE:
                raise InternalError("a stored hash is missing", level=level, start=first)
            found.append(joined)
        return found


def _entry(row: Any) -> StoredEntry:
    return StoredEntry(row["idx"], row["entry"], row["leaf_hash"])
