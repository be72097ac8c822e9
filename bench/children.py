"""Server processes of a benchmark: started, their port read, ended whatever happens."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

START_SECONDS = 90


@contextlib.asynccontextmanager
async def child(log: Path, *arguments: str) -> AsyncIterator[tuple[int, int]]:
    """Run `python -m ARGUMENTS` and yield (pid, port); its standard error goes to `log`, as a service's would."""
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments, stdout=asyncio.subprocess.PIPE, stderr=stderr
        )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        if not line:
            raise RuntimeError(f"a server did not start; see {log}")
        yield process.pid, int(line)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
