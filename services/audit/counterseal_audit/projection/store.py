"""The rows of `ledger_search` and `ledger_follower`: written by the follower's role, read by the runtime role."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.errors import LedgerUnavailable
from counterseal_audit.database import CONNECTION_LOST, connection, reading
from counterseal_audit.projection.engine import Query, Terms

FOLLOWER = "counterseal_audit_follower"
NAME = "search"


class Following:
    """One transaction of the follower on one log, which it holds alone."""

    def __init__(self, raw: Any, log_id: int, next_index: int) -> None:
        self._raw = raw
        self._log_id = log_id
        self.next_index = next_index

    async def entries(self, count: int) -> list[bytes]:
        """Return up to `count` entries from the next index on; stops at a gap, which would be a lost entry."""
        rows = await self._raw.fetch(
            "SELECT idx, entry FROM ledger_entry WHERE log_id = $1 AND idx >= $2 ORDER BY idx LIMIT $3",
            self._log_id,
            self.next_index,
            count,
        )
        return [row["entry"] for position, row in enumerate(rows) if row["idx"] == self.next_index + position]

    async def keep(self, batch: Sequence[Terms]) -> None:
        """Store the terms of the next entries and move on, in this transaction."""
        rows = [(int(field), value, one.index, one.event_time_ms) for one in batch for field, value in one.values]
        await self._raw.execute(
            "INSERT INTO ledger_search (log_id, field, value, idx, event_time_ms)"
            " SELECT $1, f, v, i, t"
            " FROM unnest($2::smallint[], $3::text[], $4::bigint[], $5::bigint[]) AS r(f, v, i, t)",
            self._log_id,
            [row[0] for row in rows],
            [row[1] for row in rows],
            [row[2] for row in rows],
            [row[3] for row in rows],
        )
        await self._move_to(self.next_index + len(batch))

    async def is_whole(self, *, count_all: bool = False) -> bool:
        """Tell whether the last entry before the next one is in the projection; with `count_all`, whether all are."""
        counted = await self._raw.fetchval(
            "SELECT count(*) FROM ledger_search"
            " WHERE log_id = $1 AND field = 0 AND value = '' AND idx >= $2 AND idx < $3",
            self._log_id,
            0 if count_all else self.next_index - 1,
            self.next_index,
        )
        return bool(counted == (self.next_index if count_all else min(1, self.next_index)))

    async def start_over(self) -> None:
        """Forget everything about the log, in this transaction."""
        await self._raw.execute("DELETE FROM ledger_search WHERE log_id = $1", self._log_id)
        await self._move_to(0)

    async def _move_to(self, index: int) -> None:
        await self._raw.execute(
            "UPDATE ledger_follower SET next_idx = $3 WHERE name = $1 AND log_id = $2", NAME, self._log_id, index
        )
        self.next_index = index


@dataclass(frozen=True, slots=True)
class Hit:
    """An entry that a query means."""

    index: int
    entry: bytes
    leaf_hash: bytes


@dataclass(frozen=True, slots=True)
class Hits:
    """What the projection knows of a query: up to its indexed size, of a log that had `size` entries."""

    entries: list[Hit]
    indexed_size: int
    size: int


class ProjectionStore:
    """The search projection of every log, one log at a time."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def following(self, log_id: int, *, wait: bool = False) -> AsyncIterator[Following | None]:
        """Open the follower's transaction on a log; None while another replica has it, unless `wait`."""
        async with connection(self._engine) as raw, raw.transaction():
            await raw.execute(f"SET LOCAL ROLE {FOLLOWER}")
            await raw.execute("SELECT set_config('counterseal.log_id', $1, true)", str(log_id))
            await raw.execute(
                "INSERT INTO ledger_follower (name, log_id, next_idx) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING",
                NAME,
                log_id,
            )
            next_index = await raw.fetchval(
                "SELECT next_idx FROM ledger_follower WHERE name = $1 AND log_id = $2 FOR UPDATE"
                + ("" if wait else " SKIP LOCKED"),
                NAME,
                log_id,
            )
            yield None if next_index is None else Following(raw, log_id, next_index)

    async def sizes(self) -> dict[int, int]:
        """Return the size of every head: which logs may have grown."""
        async with connection(self._engine) as raw:
            return {row["log_id"]: row["size"] for row in await raw.fetch("SELECT log_id, size FROM ledger_head")}

    async def indexed_size(self, log_id: int) -> int:
        """Return how many entries, from the first on, are in the projection."""
        async with reading(self._engine, log_id) as raw:
            return await _indexed_size(raw, log_id)

    async def find(self, log_id: int, query: Query, start: int, count: int, end: int | None = None) -> Hits:
        """Return up to `count` entries that a query means, from index `start` up to `end`.

        Entries from the indexed size on are not looked at. Raises LedgerUnavailable.
        """
        async with reading(self._engine, log_id) as raw:
            at = await raw.fetchrow(
                "SELECT h.size, coalesce(f.next_idx, 0) AS indexed FROM ledger_head h LEFT JOIN ledger_follower f"
                " ON f.name = $1 AND f.log_id = h.log_id WHERE h.log_id = $2",
                NAME,
                log_id,
            )
            before = at["indexed"] if end is None else min(end, at["indexed"])
            if start >= before:
                return Hits([], at["indexed"], at["size"])
            sql, arguments = _statement(log_id, query, start, before, count)
            rows = await raw.fetch(
                f"SELECT e.idx, e.entry, e.leaf_hash FROM ({sql}) f JOIN ledger_entry e"
                " ON e.log_id = $1 AND e.idx = f.idx ORDER BY e.idx",
                *arguments,
            )
        return Hits([Hit(row["idx"], row["entry"], row["leaf_hash"]) for row in rows], at["indexed"], at["size"])

    async def rows(self, log_id: int) -> list[tuple[int, str, int, int]]:
        """Return the whole projection of a log, sorted: for comparing it with one that was made again."""
        async with reading(self._engine, log_id) as raw:
            rows = await raw.fetch(
                "SELECT field, value, idx, event_time_ms FROM ledger_search WHERE log_id = $1"
                " ORDER BY idx, field, value",
                log_id,
            )
        return [tuple(row) for row in rows]

    async def reindex(self, log_id: int) -> None:
        """Empty a log's projection; the follower fills it again. Raises LedgerUnavailable."""
        try:
            async with self.following(log_id, wait=True) as following:
                if following is not None:
                    await following.start_over()
        except CONNECTION_LOST as error:
            raise LedgerUnavailable("the ledger's database does not answer") from error


async def _indexed_size(raw: Any, log_id: int) -> int:
    found = await raw.fetchval("SELECT next_idx FROM ledger_follower WHERE name = $1 AND log_id = $2", NAME, log_id)
    return found or 0


def _statement(log_id: int, query: Query, start: int, end: int, count: int) -> tuple[str, list[Any]]:
    """Return the search as SQL: the leading filter's rows in order of the index, the others as look-ups.

    Each value of the leader is walked on its own, so that every walk has the index's order and ends at the limit.
    """
    arguments: list[Any] = [log_id, start, end, count, query.since_ms, query.until_ms]
    within = "s.log_id = $1 AND s.idx >= $2 AND s.idx < $3"
    times = " AND ($5::bigint IS NULL OR s.event_time_ms >= $5) AND ($6::bigint IS NULL OR s.event_time_ms < $6)"
    checks = ""
    leader = query.leader()
    for field, values in query.any_of.items():
        if field is leader:
            continue
        arguments.append(list(values))
        checks += (
            " AND EXISTS (SELECT 1 FROM ledger_search o WHERE o.log_id = $1 AND o.idx = s.idx"
            f" AND o.field = {int(field)} AND o.value = ANY(${len(arguments)}::text[]))"
        )
    if leader is None:
        walk = f"SELECT s.idx FROM ledger_search s WHERE {within} AND s.field = 0 AND s.value = ''{times}"
        return f"{walk} ORDER BY s.idx LIMIT $4", arguments
    arguments.append(list(query.any_of[leader]))
    walk = (
        f"SELECT s.idx FROM ledger_search s WHERE {within} AND s.field = {int(leader)} AND s.value = v.value"
        f"{times}{checks} ORDER BY s.idx LIMIT $4"
    )
    found = f"SELECT DISTINCT w.idx FROM unnest(${len(arguments)}::text[]) AS v(value), LATERAL ({walk}) w"
    return f"{found} ORDER BY w.idx LIMIT $4", arguments
