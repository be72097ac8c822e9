"""Strikes as the schedule says, from outside: a SIGKILL to the process that the supervisor's list names."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from chaos.load import ClientLog
from chaos.schedule import Kill
from counterseal.embedded.layout import SERVICES
from counterseal.embedded.supervisor import Supervisor

WAIT_SECONDS = 600.0


async def strike(kills: Sequence[Kill], supervisor: Supervisor, log: ClientLog) -> list[dict[str, Any]]:
    """Kill and return what was struck; a service that is down at its time is struck as soon as it starts again.

    Raises TimeoutError for a service that stays down, or a suite that is up and brings no plan to an end.
    """
    begun = time.monotonic()
    struck: list[dict[str, Any]] = []
    for kill in kills:
        if kill.alone:
            await all_serving(supervisor)
            await _work_done(log, len(log.ends))
        await asyncio.sleep(kill.pause_seconds)
        async with asyncio.timeout(WAIT_SECONDS):
            while (process := supervisor.pid(kill.service)) is None:
                await asyncio.sleep(0.02)
        os.kill(process, signal.SIGKILL)
        at = round(time.monotonic() - begun, 3)
        struck.append({"service": kill.service, "after_seconds": at, "alone": kill.alone, "in_flight": log.in_flight()})
    return struck


async def all_serving(supervisor: Supervisor) -> None:
    """Wait until every service serves; raises TimeoutError."""
    async with asyncio.timeout(WAIT_SECONDS):
        for service in SERVICES:
            while not await supervisor.serving(service):
                await asyncio.sleep(0.2)


async def _work_done(log: ClientLog, before: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while len(log.ends) <= before:
            await asyncio.sleep(0.1)
