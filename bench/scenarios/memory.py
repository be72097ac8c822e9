"""Idle memory of each service as it is deployed (goal: <= 120 MiB resident).

Measured once everything is connected and has been left alone: RSS as the operating system shows it. PSS, which counts
shared pages once, is in the detail.
"""

import asyncio

from bench.cpu import memory_mib
from bench.report import Figure
from bench.settings import Result, Settings
from counterseal.embedded.deployment import Deployment
from counterseal.embedded.layout import SERVICES, Wanted

GOAL_MIB = 120.0
IDLE_SECONDS = 10.0


async def run(settings: Settings) -> Result:
    """Start the suite, wait, read."""
    result = Result()
    async with Deployment(settings.work / "stack", Wanted(environment="bench", tenants=("acme",))) as deployment:
        await asyncio.sleep(1.0 if settings.quick else IDLE_SECONDS)
        for service in SERVICES:
            pid = deployment.supervisor.pid(service)
            if pid is None:
                raise RuntimeError(f"{service} is not running")
            resident, shared = memory_mib(pid)
            detail = f"resident; {shared:.0f} MiB with shared pages divided among their users"
            result.figures.append(
                Figure(f"idle memory of {service}", resident, "MiB", GOAL_MIB, at_most=True, detail=detail)
            )
    return result
