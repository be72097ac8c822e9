"""What an append costs the database, in counts: they do not depend on how busy the machine is.

Statements per batch, rows per entry, the share of head updates that stay in their page (HOT), and bytes of write-ahead
log per entry at batches of 1, 16 and 256, each right after a checkpoint of the database, so that the images of whole
pages are in it.

Goals (audit, must-show 5): one statement per batch, <= 1.01 rows per entry without payload, >= 95 % HOT; and, the one
figure that is a time, batches of 256 take at least ten times as many entries a second as batches of one, in one run.
"""

import time
from typing import Any

import asyncpg

from bench.database import Maker, audit_database, cluster, opened
from bench.report import Figure
from bench.settings import Result, Settings

BATCHES = (1, 16, 256)
ROWS = "SELECT (SELECT count(*) FROM ledger_entry) + (SELECT count(*) FROM ledger_node)"
HOT = "SELECT n_tup_hot_upd, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'ledger_head'"
WAL = "SELECT pg_current_wal_lsn()::text"
DISTANCE = "SELECT pg_wal_lsn_diff($1::text::pg_lsn, $2::text::pg_lsn)::bigint"


async def run(settings: Settings) -> Result:
    """Append in batches of each size and read the server's counters around them."""
    result, maker, appended = Result(), Maker(), 0
    batches = 20 if settings.quick else 200
    with cluster(settings.work / "cluster") as running:
        database = await audit_database(running)
        statements: list[str] = []
        rates: list[float] = []

        async def connect() -> Any:
            connection = await asyncpg.connect(database.dsn)
            connection.add_query_logger(lambda record: statements.append(record.query))
            return connection

        admin = await asyncpg.connect(database.admin_dsn)
        try:
            for size in BATCHES:
                async with opened(database, connect=connect) as (_, writer):
                    await writer.submit([maker.one()])[0]  # the head is read once
                    await admin.execute("CHECKPOINT")
                    statements.clear()
                    before = await admin.fetchval(WAL)
                    begun = time.monotonic()
                    for _ in range(batches):
                        for answer in writer.submit(maker.many(size)):
                            await answer
                    rates.append(size * batches / (time.monotonic() - begun))
                    after = await admin.fetchval(WAL)
                    seen = len(statements)
                result.figures.extend(_of(size, batches, seen, await admin.fetchval(DISTANCE, after, before)))
                appended += 1 + batches * size
            result.figures.extend(await _rows(admin, appended))
            said = ", ".join(f"{rate:,.0f}/s at {size}" for size, rate in zip(BATCHES, rates, strict=True))
            name = "batches of 256 against batches of 1, entries a second"
            result.figures.append(Figure(name, rates[-1] / rates[0], "x", 10, at_most=False, detail=said))
        finally:
            await admin.close()
    return result


def _of(size: int, batches: int, statements: int, wal: int) -> list[Figure]:
    """The figures of one batch size."""
    entries = size * batches
    said = f"{statements} in {batches} batches"
    volume = f"{wal:,} bytes for {entries:,} entries"
    return [
        Figure(f"statements a batch of {size}", statements / batches, "", 1, at_most=True, detail=said),
        Figure(f"write-ahead log an entry, batches of {size}", wal / entries, "B", None, at_most=True, detail=volume),
    ]


async def _rows(admin: Any, entries: int) -> list[Figure]:
    """Rows an entry and the share of HOT updates, over everything."""
    rows = await admin.fetchval(ROWS) - 1  # without the genesis entry
    hot, updates = await admin.fetchrow(HOT)
    said = f"{hot:,} of {updates:,}"
    return [
        Figure("rows an entry", rows / entries, "", 1.01, at_most=True, detail=f"{rows:,} rows, {entries:,} entries"),
        Figure("head updates inside their page", 100 * hot / updates, "%", 95, at_most=False, detail=said),
    ]
