"""What readers read: entries and hashes of one log, nothing of another (row-level security)."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.ledger.tree import HASH_SIZE
from counterseal_audit.database import connection, reading, snapshot


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One row of a log."""

    index: int
    entry: bytes
    leaf_hash: bytes


LEAVES = (
    "SELECT array_agg(idx ORDER BY idx), string_agg(leaf_hash, '' ORDER BY idx) FROM ledger_entry"
    " WHERE log_id = $1 AND idx = ANY(${0}::bigint[]) AND idx >= ${1} AND idx <= ${2}"
)
NODES = (
    "SELECT array_agg(n ORDER BY n), string_agg(hash, '' ORDER BY n) FROM ledger_node"
    " WHERE log_id = $1 AND level = {level}::smallint AND n = ANY(${0}::bigint[]) AND n >= ${1} AND n <= ${2}"
)

Range = tuple[int, int, int]
"""Tile level, first hash, number of hashes."""


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

    async def hashes(self, log_id: int, ranges: Sequence[Range]) -> dict[tuple[int, int], bytes]:
        """Return hashes by (tile level, position), for every range that is asked for.

        Positions are asked for one by one: under row-level security a bound that is computed in the statement
        (`start + n`) may not use the index, as addition is not leakproof, and the rest of the log would be read for
        every range. The outer bounds are for a planner without statistics. The hashes of a level come as one value:
        as rows they cost three times as much to take apart as to hash.
        """
        wanted: dict[int, set[int]] = {}
        for level, start, count in ranges:
            wanted.setdefault(level, set()).update(range(start, start + count))
        if not wanted:
            return {}
        statement, arguments = _statement(log_id, wanted)
        async with reading(self._engine, log_id) as raw:
            rows = await raw.fetch(statement, *arguments)
        found: dict[tuple[int, int], bytes] = {}
        for level, (positions, joined) in zip(sorted(wanted), rows, strict=True):
            for n, at in enumerate(positions or ()):
                found[level, at] = joined[n * HASH_SIZE : (n + 1) * HASH_SIZE]
        return found


def _statement(log_id: int, wanted: Mapping[int, set[int]]) -> tuple[str, list[Any]]:
    """Return one statement for the hashes of all levels; its text depends on the levels alone."""
    parts: list[str] = []
    arguments: list[Any] = [log_id]
    for level, positions in sorted(wanted.items()):
        at = sorted(positions)
        first = len(arguments) + 1
        parts.append((NODES if level else LEAVES).format(first, first + 1, first + 2, level=level))
        arguments += [at, at[0], at[-1]]
    return " UNION ALL ".join(parts), arguments


def _entry(row: Any) -> StoredEntry:
    return StoredEntry(row["idx"], row["entry"], row["leaf_hash"])
