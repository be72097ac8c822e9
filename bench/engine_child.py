"""A replica without RPC, as a process: `python -m bench.engine_child DSN TENANT CALLERS`.

For each number on standard input it appends for so many seconds, from the request on, and prints how many entries
became durable; it ends with its input. Several on one log race as replicas do.
"""

import asyncio
import sys
import time

from bench.database import opened
from bench.scenarios.ledger import Whole
from support.postgres import ServiceDatabase


async def work(dsn: str, tenant: str, callers: int) -> None:
    """Append when asked to."""
    async with opened(ServiceDatabase("bench", dsn, dsn, dsn), tenant) as (parts, _):
        side = Whole(parts.ledger, tenant)
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            end, counts = time.monotonic() + float(line), [0] * callers

            async def caller(number: int, end: float = end, counts: list[int] = counts) -> None:
                while time.monotonic() < end:
                    await side.call(number)
                    counts[number] += 1

            async with asyncio.TaskGroup() as group:
                for number in range(callers):
                    group.create_task(caller(number))
            print(sum(counts), flush=True)


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], sys.argv[2], int(sys.argv[3])))
