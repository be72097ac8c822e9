"""A call that is cancelled gives its connection back clean: nobody inherits its transaction."""

import asyncio
import contextlib

from counterseal_audit.database import connection, reading
from support.audit import replica
from support.postgres import FreshDatabase

ROUNDS = 60


async def test_a_cancelled_reading_leaves_no_transaction_on_the_connection(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:

        async def read() -> None:
            async with reading(parts.engine, 1) as raw:
                await raw.fetchval("SELECT 1")

        for steps in range(ROUNDS):  # cancelled at every place where the reading waits, its end included
            task = asyncio.create_task(read())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            async with connection(parts.engine) as raw:
                assert not raw.is_in_transaction(), f"after {steps} steps"
                await raw.execute("CREATE TEMPORARY TABLE IF NOT EXISTS writable (n int)")
