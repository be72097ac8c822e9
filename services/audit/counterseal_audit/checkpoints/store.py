"""Checkpoint rows, the leases of the publisher, and the entry bytes that it hashes again."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import Frontier
from counterseal_audit.checkpoints.engine import Keyring, Published, Rotation
from counterseal_audit.database import connection, reading
from counterseal_audit.logs.store import Log

CHUNK = 2000


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A published checkpoint and when it was published (milliseconds)."""

    size: int
    published: Published
    publish_time_ms: int


@dataclass(frozen=True, slots=True)
class Signed:
    """How far a log was signed at some moment: its latest checkpoint, and the keys that were accepted up to there."""

    last: StoredCheckpoint | None
    ring: Keyring


@dataclass(frozen=True, slots=True)
class SignedTrees:
    """How large a log is, its latest checkpoint, and the checkpoints of exactly the sizes that were asked for."""

    log_size: int
    last: StoredCheckpoint | None
    by_size: Mapping[int, StoredCheckpoint]


@dataclass(frozen=True, slots=True)
class StoredRotation:
    """A `key.rotated` entry in its place, and the first note that covers it."""

    index: int
    entry: bytes
    note: bytes


@dataclass(frozen=True, slots=True)
class HeadSize:
    """How large a log is by its head row, and whether it takes entries: hints, checked before anything is signed."""

    size: int
    open: bool


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

    async def sizes(self) -> dict[int, HeadSize]:
        """Return the size of every head."""
        async with connection(self._engine) as raw:
            rows = await raw.fetch("SELECT log_id, size, open FROM ledger_head")
        return {row["log_id"]: HeadSize(row["size"], row["open"]) for row in rows}

    async def keyring(self, log: Log) -> Keyring:
        """Return the keys that a log was ever signed with."""
        async with reading(self._engine, log.log_id) as raw:
            return await _keyring(raw, log)

    async def signed(self, log: Log) -> Signed:
        """Return the latest checkpoint and the keys that were accepted up to it, both of one moment.

        Raises VerificationError when the rows are not such.
        """
        async with reading(self._engine, log.log_id) as raw:
            row = await raw.fetchrow(_SELECT + " ORDER BY size DESC LIMIT 1", log.log_id)
            return Signed(_stored(row), await _keyring(raw, log))

    async def rotation_notes(self, log_id: int, size: int) -> list[bytes]:
        """Return the notes that cover the rotations in the tree of a checkpoint of `size` entries, in order."""
        async with reading(self._engine, log_id) as raw:
            rows = await raw.fetch(
                "SELECT note FROM ledger_rotation WHERE log_id = $1 AND idx < $2 ORDER BY n", log_id, size
            )
        return [row["note"] for row in rows]

    async def rotations(self, log_id: int) -> list[StoredRotation]:
        """Return the rotations of the log's key, in order."""
        async with reading(self._engine, log_id) as raw:
            rows = await raw.fetch(
                "SELECT r.idx, e.entry, r.note FROM ledger_rotation r"
                " JOIN ledger_entry e ON e.log_id = r.log_id AND e.idx = r.idx WHERE r.log_id = $1 ORDER BY r.n",
                log_id,
            )
        return [StoredRotation(row["idx"], row["entry"], row["note"]) for row in rows]

    async def latest(self, log_id: int) -> StoredCheckpoint | None:
        """Return the latest checkpoint of a log."""
        async with reading(self._engine, log_id) as raw:
            row = await raw.fetchrow(_SELECT + " ORDER BY size DESC LIMIT 1", log_id)
        return _stored(row)

    async def trees(self, log_id: int, sizes: Sequence[int]) -> SignedTrees:
        """Return how far the log goes and is signed, and its checkpoints of exactly these sizes where there are any."""
        async with reading(self._engine, log_id) as raw:
            rows = await raw.fetch(
                "SELECT h.size AS log_size, c.* FROM ledger_head h LEFT JOIN LATERAL"
                f" (({_SELECT} ORDER BY size DESC LIMIT 1) UNION ALL ({_SELECT} AND size = ANY($2::bigint[]))) c"
                " ON true WHERE h.log_id = $1",
                log_id,
                list(sizes),
            )
        found = [one for row in rows if row["size"] is not None and (one := _stored(row)) is not None]
        last = max(found, key=lambda one: one.size, default=None)
        return SignedTrees(rows[0]["log_size"], last, {one.size: one for one in found})

    async def covering(self, log_id: int, size: int, *, witnessed: bool) -> StoredCheckpoint | None:
        """Return the smallest checkpoint that covers `size` entries; witnessed: one that meets the witness policy."""
        async with reading(self._engine, log_id) as raw:
            row = await raw.fetchrow(
                _SELECT + " AND size >= $2 AND (witnessed OR NOT $3) ORDER BY size LIMIT 1", log_id, size, witnessed
            )
        return _stored(row)

    async def sizes_after(self, log_id: int, start: int, end: int) -> list[int]:
        """Return the sizes of the checkpoints above `start` up to `end`, ascending."""
        async with reading(self._engine, log_id) as raw:
            rows = await raw.fetch(
                "SELECT size FROM ledger_checkpoint WHERE log_id = $1 AND size > $2 AND size <= $3 ORDER BY size",
                log_id,
                start,
                end,
            )
        return [row["size"] for row in rows]

    async def publish(
        self, log_id: int, published: Published, known_rotations: int, rotations: Sequence[Rotation] = ()
    ) -> bool:
        """Store a signed checkpoint with the rotations that it is the first to cover, all or nothing.

        known_rotations: how many rotations were stored when the checkpoint's signers were chosen.
        False, and nothing is stored, when this size is there already or another publisher stored a rotation meanwhile.
        """
        async with connection(self._engine) as raw:
            try:
                async with raw.transaction():
                    await raw.execute("SELECT set_config('counterseal.log_id', $1, true)", str(log_id))
                    done = await raw.execute(
                        "INSERT INTO ledger_checkpoint (log_id, size, root, frontier, note, cosigned, witnessed)"
                        " SELECT $1, $2, $3, $4, $5, $6, $7"
                        " WHERE (SELECT count(*) FROM ledger_rotation WHERE log_id = $1) = $8",
                        log_id,
                        published.frontier.size,
                        published.root,
                        published.frontier.serialize(),
                        published.note,
                        published.cosigned,
                        published.witnessed,
                        known_rotations,
                    )
                    if not str(done).endswith(" 1"):
                        return False
                    await raw.executemany(
                        "INSERT INTO ledger_rotation (log_id, n, idx, public_key, note) VALUES ($1, $2, $3, $4, $5)",
                        [(log_id, one.n, one.index, one.public, published.public) for one in rotations],
                    )
            except asyncpg.UniqueViolationError:
                return False
        return True

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
    "SELECT size, root, frontier, note, cosigned, witnessed,"
    " (extract(epoch FROM publish_time) * 1000)::bigint AS publish_time_ms FROM ledger_checkpoint WHERE log_id = $1"
)


async def _keyring(raw: Any, log: Log) -> Keyring:
    rows = await raw.fetch(
        "SELECT public_key, (extract(epoch FROM publish_time) * 1000)::bigint AS time_ms"
        " FROM ledger_rotation WHERE log_id = $1 ORDER BY n",
        log.log_id,
    )
    keys = [log.key, *(VerifierKey.make(log.origin, row["public_key"]) for row in rows)]
    return Keyring(tuple(keys), (0, *(row["time_ms"] for row in rows)))


def _stored(row: Any) -> StoredCheckpoint | None:
    if row is None:
        return None
    frontier = Frontier.parse(row["size"], row["frontier"])
    published = Published(frontier, row["root"], row["note"], row["cosigned"], row["witnessed"])
    return StoredCheckpoint(row["size"], published, row["publish_time_ms"])
