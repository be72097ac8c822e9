"""The follower: reads each log from where it stopped, in order of the index, and keeps what is searchable.

The index is gapless and in commit order, so nothing is overtaken; place and rows move in one transaction, so a crash
repeats a batch or has done it. Any number of replicas follow: the row of a log's place is locked, and who does not get
it goes on with the next log.
"""

import asyncio
import logging
from dataclasses import dataclass, field

import asyncpg

from counterseal.errors import ServiceError
from counterseal_audit.database import CONNECTION_LOST
from counterseal_audit.logs.keys import PseudonymKeys
from counterseal_audit.logs.store import Log, LogStore
from counterseal_audit.projection.engine import blinder, terms_of
from counterseal_audit.projection.store import ProjectionStore

BATCH = 500
POLL_SECONDS = 0.25
RECHECK_SECONDS = 30.0
"""How often a log that has not grown is looked at all the same: somebody may have emptied its projection."""

log = logging.getLogger("counterseal.audit.projection")


@dataclass(slots=True)
class Follower:
    """Fills the search projection of every log of an environment."""

    logs: LogStore
    store: ProjectionStore
    keys: PseudonymKeys
    environment: str
    _done: dict[int, int] = field(default_factory=dict)
    _counted: set[int] = field(default_factory=set)
    _logs: dict[int, Log] = field(default_factory=dict)

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow until `stopping`."""
        loop = asyncio.get_running_loop()
        recheck = loop.time() + RECHECK_SECONDS
        while not stopping.is_set():
            if loop.time() >= recheck:
                self.look_again()
                recheck = loop.time() + RECHECK_SECONDS
            try:
                behind = await self.step()
            except ServiceError as error:
                log.warning("the projection waits", extra={"reason": error.reason})
                behind = False
            except CONNECTION_LOST as error:
                log.warning("the projection waits", extra={"reason": type(error).__name__})
                behind = False
            if not behind:
                try:
                    await asyncio.wait_for(stopping.wait(), POLL_SECONDS)
                except TimeoutError:
                    continue

    async def step(self) -> bool:
        """Read one batch of each log that has grown; return whether one of them has more."""
        behind = False
        for log_id, size in (await self.store.sizes()).items():
            if self._done.get(log_id) != size:
                one = await self._log(log_id)
                if one is not None:
                    done = await self._follow_or_start_over(one)
                    behind = behind or (done is not None and done < size)
        return behind

    def look_again(self) -> None:
        """Look at every log in the next step, whether it has grown or not."""
        self._done.clear()

    async def _log(self, log_id: int) -> Log | None:
        if log_id not in self._logs:
            self._logs = {one.log_id: one for one in await self.logs.all(self.environment)}
        return self._logs.get(log_id)

    async def _follow_or_start_over(self, one: Log) -> int | None:
        try:
            return await self._follow(one)
        except asyncpg.UniqueViolationError:
            log.warning("the projection has rows beyond its place: it is made again", extra={"log_id": one.log_id})
            await self.store.reindex(one.log_id)
            return 0

    async def _follow(self, one: Log) -> int | None:
        """Read the next batch of a log; return the index after it, None when another replica reads it now."""
        blind = blinder(await self.keys.get(one.tenant))
        async with self.store.following(one.log_id) as following:
            if following is None:
                return None
            if not await following.is_whole(count_all=one.log_id not in self._counted):
                log.warning("the projection has lost rows: it is made again", extra={"log_id": one.log_id})
                await following.start_over()
            entries = await following.entries(BATCH)
            first = following.next_index
            if entries:
                await following.keep([terms_of(first + n, data, blind) for n, data in enumerate(entries)])
            done = following.next_index
        self._counted.add(one.log_id)
        self._done[one.log_id] = done
        return done
