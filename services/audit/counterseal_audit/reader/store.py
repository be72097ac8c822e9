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
        """Return hashes by (tile level, position), for every range that is asked for."""
        found: dict[tuple[int, int], bytes] = {}
        leaves = [one for one in ranges if one[0] == 0]
        nodes = [one for one in ranges if one[0] > 0]
        async with reading(self._engine, log_id) as raw:
            if leaves:
                rows = await raw.fetch(
                    "SELECT e.idx AS at, e.leaf_hash AS hash FROM unnest($2::bigint[], $3::bigint[]) AS r(start, n)"
                    " JOIN ledger_entry e ON e.log_id = $1 AND e.idx >= r.start AND e.idx < r.start + r.n",
                    log_id,
                    [start for _, start, _ in leaves],
                    [count for _, _, count in leaves],
                )
                found.update({(0, row["at"]): row["hash"] for row in rows})
            if nodes:
                rows = await raw.fetch(
                    "SELECT h.level, h.n AS at, h.hash"
                    " FROM unnest($2::smallint[], $3::bigint[], $4::bigint[]) AS r(level, start, n)"
                    " JOIN ledger_node h ON h.log_id = $1 AND h.level = r.level"
                    " AND h.n >= r.start AND h.n < r.start + r.n",
                    log_id,
                    [level for level, _, _ in nodes],
                    [start for _, start, _ in nodes],
                    [count for _, _, count in nodes],
                )
                found.update({(row["level"], row["at"]): row["hash"] for row in rows})
        return found


def _entry(row: Any) -> StoredEntry:
    return StoredEntry(row["idx"], row["entry"], row["leaf_hash"])
