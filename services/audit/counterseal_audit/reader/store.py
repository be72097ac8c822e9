"""What readers read: entries and hashes of one log, nothing of another (row-level security)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal_audit.database import connection, reading


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One row of a log."""

    index: int
    entry: bytes
    leaf_hash: bytes


LEAVES = (
    "SELECT idx AS at, leaf_hash AS hash FROM ledger_entry"
    " WHERE log_id = $1 AND idx = ANY($2::bigint[]) AND idx >= $3 AND idx <= $4"
)
NODES = (
    "SELECT n AS at, hash FROM ledger_node"
    " WHERE log_id = $1 AND level = $5 AND n = ANY($2::bigint[]) AND n >= $3 AND n <= $4"
)

Range = tuple[int, int, int]
"""Tile level, first hash, number of hashes."""


class ReaderStore:
    """Entries, leaf hashes and nodes."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

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

    async def hashes(self, log_id: int, ranges: Sequence[Range]) -> dict[tuple[int, int], bytes]:
        """Return hashes by (tile level, position), for every range that is asked for.

        Positions are asked for one by one: under row-level security a bound that is computed in the statement
        (`start + n`) may not use the index, as addition is not leakproof, and the rest of the log would be read for
        every range. The outer bounds are for a planner without statistics.
        """
        wanted: dict[int, set[int]] = {}
        for level, start, count in ranges:
            wanted.setdefault(level, set()).update(range(start, start + count))
        found: dict[tuple[int, int], bytes] = {}
        async with reading(self._engine, log_id) as raw:
            for level, positions in sorted(wanted.items()):
                at = sorted(positions)
                if level == 0:
                    rows = await raw.fetch(LEAVES, log_id, at, at[0], at[-1])
                else:
                    rows = await raw.fetch(NODES, log_id, at, at[0], at[-1], level)
                found.update({(level, row["at"]): row["hash"] for row in rows})
        return found


def _entry(row: Any) -> StoredEntry:
    return StoredEntry(row["idx"], row["entry"], row["leaf_hash"])
