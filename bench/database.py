"""An audit database for engine-level scenarios: real PostgreSQL that waits for the disk, migrated, kept if asked to.

Keys are this process's own instead of Vault's: no Vault call is on the path that is measured here. Long logs are filled
in batches through the service's own append statement; a kept one is filled further from where it stopped.
"""

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from counterseal.embedded.postgres import Cluster, PostgresServer
from counterseal.ids import new_id
from counterseal.ledger.tree import leaf_hash
from counterseal.rpc.runtime import keep_loaded
from counterseal_audit.append import engine
from counterseal_audit.append.engine import Prepared
from counterseal_audit.append.writer import LogWriter
from counterseal_audit.logs.anchors import Anchor
from support.audit import Connect, LocalAnchors, Replica, replica
from support.entries import changed
from support.postgres import Databases, ServiceDatabase
from support.shapes import ENVIRONMENT

FILL_BATCH = 1024
PROGRESS_SECONDS = 5.0


@contextlib.contextmanager
def cluster(home: Path) -> Iterator[Cluster]:
    """A running cluster with the default durability below `home`."""
    server = PostgresServer(home)
    try:
        yield server.start()
    finally:
        server.stop()


async def audit_database(running: Cluster) -> ServiceDatabase:
    """Make a migrated database, or return the one that an earlier run left in the cluster."""
    connection = await asyncpg.connect(running.dsn())
    try:
        left = await connection.fetchval("SELECT datname FROM pg_database WHERE datname ~ '^t[0-9]+_audit$'")
    finally:
        await connection.close()
    if left is None:
        return Databases(running).fresh("audit")
    runtime = running.dsn(left, "counterseal_audit_test", "runtime")
    return ServiceDatabase(left, runtime, running.dsn(left, "counterseal_audit_owner", "owner"), running.dsn(left))


@contextlib.asynccontextmanager
async def opened(
    database: ServiceDatabase, tenant: str = "acme", connect: Connect | None = None
) -> AsyncIterator[tuple[Replica, LogWriter]]:
    """One replica's parts and the writer of a log, begun if there is none; connect: as `replica` takes it.

    Anchors live in this process only, so a log that another process wrote is anchored as it is found. What is loaded is
    left out of garbage collection, as in a service.
    """
    async with replica(database, connect=connect, anchors=LocalAnchors()) as parts:
        log = await parts.logs.find(tenant, ENVIRONMENT)
        if log is not None:
            head = await parts.ledger.stored_head(log)
            page = await parts.anchors.read(log.bucket)
            anchor = Anchor(head.frontier.size, head.root)
            await parts.anchors.write(log.bucket, page.advanced({log.origin: anchor}))
        writer = await parts.writer(tenant)
        keep_loaded()
        yield parts, writer


class Maker:
    """Makes entries that are ready to be written for the price of a hash: one is prepared, its id replaced by the next.

    Their bytes are the service's; the request hash, which only answers repetitions, is that of the first. Ids rise, as
    those of producers do, behind a beginning that no other maker has.
    """

    def __init__(self, tenant: str = "acme") -> None:
        request = changed(stream="", tenant=tenant)
        content = engine.check(
            request, producer="executor", environment=ENVIRONMENT, person=engine.pseudonymiser(b"\x00" * 32)
        )
        self._like = engine.make(content, producer="executor", receive_time_ms=request.event_time_ms)
        self._before, self._after = self._like.entry.split(request.event_id.encode())
        self._prefix = new_id()[:-12]
        self._numbers = itertools.count()

    def one(self) -> Prepared:
        """Return a fresh entry."""
        event_id = f"{self._prefix}{next(self._numbers):012x}"
        data = self._before + event_id.encode() + self._after
        return Prepared(event_id, self._like.req_hash, leaf_hash(data), data)

    def many(self, count: int) -> Sequence[Prepared]:
        """Return fresh entries."""
        return [self.one() for _ in range(count)]


async def sign(database: ServiceDatabase, tenant: str = "acme") -> None:
    """Publish a checkpoint of the log as it is now."""
    async with opened(database, tenant) as (parts, _):
        await parts.publisher.publish_once()
        await parts.checkpoints.release(parts.publisher.owner)  # the next one need not wait for the lease's end


async def fill(database: ServiceDatabase, size: int, tenant: str = "acme") -> None:
    """Append in batches until the log has at least `size` entries; goes on where an earlier run stopped."""
    maker = Maker(tenant)
    async with opened(database, tenant) as (parts, writer):
        head = await parts.ledger.stored_head(await parts.log(tenant))
        at = start = head.frontier.size
        began = told = time.monotonic()
        waiting: list[asyncio.Future[Any]] = []
        while at < size:
            batch = maker.many(min(FILL_BATCH, size - at))
            await asyncio.gather(*waiting)  # the batch before: this one was made while it was written
            waiting = list(writer.submit(batch))
            await asyncio.sleep(0)
            at += len(batch)
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                rate = (at - start) / (told - began)
                print(f"  {at:,} of {size:,} entries, {rate:,.0f}/s", file=sys.stderr, flush=True)
        await asyncio.gather(*waiting)
