"""Writes `approval.expired` for tasks whose time ran out. Expiry itself is a comparison at every use, not this."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.clock import Clock
from counterseal.errors import PolicyUnavailable
from counterseal.ids import IdSource
from counterseal.rpc.outbox import Outbox
from counterseal_policy.approvals import store
from counterseal_policy.database import EVERY_TENANT, transaction
from counterseal_policy.decisions.asking import expired_entry

INTERVAL_SECONDS = 5.0

_log = logging.getLogger(__name__)


async def sweep(engine: AsyncEngine, outbox: Outbox, environment: str, clock: Clock, new_id: IdSource) -> int:
    """Expire up to 100 tasks and return how many."""
    async with transaction(engine, EVERY_TENANT) as connection:
        tasks = await store.due(connection)
        for task in tasks:
            await store.set_state(connection, task.task_id, "EXPIRED")
            await outbox.put(connection, expired_entry(task, environment, new_id(), clock()))
    if tasks:
        outbox.wake()
    return len(tasks)


async def run(stopping: asyncio.Event, once: Callable[[], Awaitable[int]]) -> None:
    """Sweep every five seconds until the drain; run it as one background task."""
    while not stopping.is_set():
        try:
            await once()
        except (PolicyUnavailable, sa.exc.SQLAlchemyError) as error:
            _log.warning("expired approvals are not swept: %s", type(error).__name__)
        try:
            async with asyncio.timeout(INTERVAL_SECONDS):
                await stopping.wait()
        except TimeoutError:
            continue
