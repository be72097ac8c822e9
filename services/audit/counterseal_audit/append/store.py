"""The one statement that appends a batch, and what is read when it did not.

READ COMMITTED and autocommit on purpose: REPEATABLE READ would turn a lost race into an error. The head row serialises
a log; logs share no row; there is no leader, no lease and no clock.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.ledger.tree import HASH_SIZE, Frontier
from counterseal_audit.append.engine import Prepared, Step
from counterseal_audit.append.mac import Head
from counterseal_audit.database import connection, reading, transaction

_HEAD_AND_ENTRIES = """
WITH h AS (
  UPDATE ledger_head SET {closing}size = $2::bigint + $3::bigint, frontier = $4, root = $5, mac = $7
   WHERE log_id = $1 AND size = $2 AND root = $6 AND open RETURNING 1
), e AS (
  INSERT INTO ledger_entry (log_id, idx, event_id, req_hash, leaf_hash, entry)
  SELECT $1, $2::bigint + t.o - 1, t.ev, substring($9::bytea FROM t.o::int * 32 - 31 FOR 32),
         substring($10::bytea FROM t.o::int * 32 - 31 FOR 32), t.en
    FROM h, unnest($8::uuid[], $11::bytea[]) WITH ORDINALITY AS t(ev, en, o)
  RETURNING 1
)"""
_NODES = """, n AS (
  INSERT INTO ledger_node (log_id, level, n, hash)
  SELECT $1, t.level, t.n, t.hash
    FROM h, unnest(${0}::smallint[], ${1}::bigint[], ${2}::bytea[]) AS t(level, n, hash)
  RETURNING 1
)"""
_PAYLOADS = """, p AS (
  INSERT INTO ledger_payload (log_id, idx, ord, due_on, held, dek_id, ciphertext)
  SELECT $1, $2::bigint + t.at, t.ord, t.due_on, t.held, t.dek_id, t.ciphertext
    FROM h, unnest(${0}::bigint[], ${1}::smallint[], ${2}::date[], ${3}::boolean[], ${4}::uuid[], ${5}::bytea[])
         AS t(at, ord, due_on, held, dek_id, ciphertext)
  RETURNING 1
)"""
_ANSWER = """
SELECT (SELECT count(*) FROM h), (SELECT count(*) FROM e), {nodes}, {payloads}, $5::bytea
"""
"""It repeats the root that was asked for: an answer to another statement is not taken for this one's."""

_FIRST_FREE = 12


@cache
def statement(*, nodes: bool, payloads: bool, closing: bool = False) -> str:
    """Return the statement for a batch with or without nodes and payloads; closing: with the log's last entries.

    Most small batches complete no tile and many seal nothing: what has no rows is left out, because to start and end
    an insert of none takes a tenth of an append. No statement opens a log again. Hashes come joined: an array of them
    costs the driver as much to encode.
    """
    text = _HEAD_AND_ENTRIES.format(closing="open = false, " if closing else "")
    text += _NODES.format(*range(_FIRST_FREE, _FIRST_FREE + 3)) if nodes else ""
    start = _FIRST_FREE + 3 * nodes
    text += _PAYLOADS.format(*range(start, start + 6)) if payloads else ""
    count = "(SELECT count(*) FROM {0})"
    return text + _ANSWER.format(
        nodes=count.format("n") if nodes else "0::bigint", payloads=count.format("p") if payloads else "0::bigint"
    )


KEY_DESTROYED = "CS001"
"""What the trigger of migration 0003 raises for a payload whose key is not live."""


class DuplicateIds(Exception):
    """Some event id of the batch is in the log already; nothing was written."""


class DataRefused(Exception):
    """The database refuses some row of the batch for what it holds; nothing was written."""


class KeyDestroyed(Exception):
    """Some payload of the batch is sealed with a key that was destroyed meanwhile; nothing was written."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry that is in the log."""

    index: int
    req_hash: bytes
    leaf_hash: bytes
    entry: bytes
    log_id: int


class AppendStore:
    """Heads and entries, for the writer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def head(self, log_id: int) -> Head:
        """Return the head row. Raises VerificationError when the frontier does not fit the size."""
        async with connection(self._engine) as raw:
            return _head(await raw.fetchrow(_SELECT_HEAD, log_id))

    async def append(self, log_id: int, step: Step, batch: Sequence[Prepared], written: Callable[[], None]) -> bool:
        """Write a batch behind the head that `step` starts from; False when the head has moved or is closed.

        written: called when it is durable, before the connection is given back: nobody need wait for that.
        Raises DuplicateIds, DataRefused.
        """
        async with connection(self._engine) as raw:
            done = await _append(raw, log_id, step, batch)
            if done:
                written()
                await asyncio.sleep(0)  # who waited for it goes on before the connection is given back
            return done

    async def append_locked(
        self, log_id: int, batch: Sequence[Prepared], make: Callable[[Head], Step], *, closing: bool = False
    ) -> Step | None:
        """Lock the head first, then run the same statement: for a writer that others are faster than.

        closing: close the log with this batch.

        Returns the step that was taken, None when the log is closed. Raises DuplicateIds, DataRefused.
        """
        async with connection(self._engine) as raw, transaction(raw, f"BEGIN; {_LIMIT}"):
            head = _head(await raw.fetchrow(f"{_SELECT_HEAD} FOR UPDATE", log_id))
            step = make(head)
            return step if await _append(raw, log_id, step, batch, closing=closing) else None

    async def seal_head(self, log_id: int, head: Head, mac: bytes) -> bool:
        """Give a head of before heads had MACs its own; False when it has one by now, or moved."""
        async with connection(self._engine) as raw:
            done = await raw.execute(
                "UPDATE ledger_head SET mac = $4 WHERE log_id = $1 AND size = $2 AND root = $3 AND mac IS NULL",
                log_id,
                head.frontier.size,
                head.root,
                mac,
            )
        return str(done).endswith(" 1")

    async def find(self, log_id: int, event_ids: Sequence[str]) -> dict[str, Stored]:
        """Return the entries that exist among `event_ids`."""
        async with reading(self._engine, log_id) as raw:
            rows = await raw.fetch(
                "SELECT event_id, idx, req_hash, leaf_hash, entry FROM ledger_entry"
                " WHERE log_id = $1 AND event_id = ANY($2::uuid[])",
                log_id,
                list(event_ids),
            )
        return {
            str(row["event_id"]): Stored(row["idx"], row["req_hash"], row["leaf_hash"], row["entry"], log_id)
            for row in rows
        }


LOCK_MS = 2000
"""How long a head may be locked by a process that does not go on (stopped, cut off): then the database ends it."""
_LIMIT = f"SET LOCAL idle_in_transaction_session_timeout = {LOCK_MS}"
_SELECT_HEAD = "SELECT open, size, frontier, root, mac FROM ledger_head WHERE log_id = $1"


def _head(row: Any) -> Head:
    return Head(row["open"], Frontier.parse(row["size"], row["frontier"]), row["root"], row["mac"])


def _joined(hashes: Sequence[bytes]) -> bytes:
    """Join hashes that the statement takes apart again. Raises ValueError when one has not 32 bytes."""
    if not {*map(len, hashes)} <= {HASH_SIZE}:
        raise ValueError("a hash has another length")
    return b"".join(hashes)


async def _append(raw: Any, log_id: int, step: Step, batch: Sequence[Prepared], *, closing: bool = False) -> bool:
    before, after = step.before, step.after
    sealed = [(at, one) for at, item in enumerate(batch) for one in item.payload]
    try:
        arguments: list[Any] = [
            log_id,
            before.size,
            len(batch),
            after.serialize(),
            after.root(),
            before.root(),
            step.mac,
            [item.event_id for item in batch],
            _joined([item.req_hash for item in batch]),
            _joined([item.leaf_hash for item in batch]),
            [item.entry for item in batch],
        ]
        if step.nodes:
            arguments += [node.level for node in step.nodes], [node.n for node in step.nodes]
            arguments.append([node.hash for node in step.nodes])
        if sealed:
            arguments += [at for at, _ in sealed], [one.ord for _, one in sealed], [one.due_on for _, one in sealed]
            arguments += [one.held for _, one in sealed], [one.dek_id for _, one in sealed]
            arguments.append([one.ciphertext for _, one in sealed])
        text = statement(nodes=bool(step.nodes), payloads=bool(sealed), closing=closing)
        answer = await raw.fetchrow(text, *arguments)
    except asyncpg.UniqueViolationError:
        raise DuplicateIds from None
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, ValueError) as error:
        raise DataRefused(type(error).__name__) from None
    except asyncpg.PostgresError as error:
        if error.sqlstate == KEY_DESTROYED:
            raise KeyDestroyed from None
        raise
    if answer is None or len(answer) != 5 or answer[-1] != after.root():
        raise asyncpg.InternalClientError("the answer is not that of this statement")
    moved, written, nodes, payloads, _ = answer
    if moved and (written, nodes, payloads) != (len(batch), len(step.nodes), len(sealed)):
        raise AssertionError("the statement wrote another number of rows than it was given")
    return bool(moved)
