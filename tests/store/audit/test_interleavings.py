"""Whatever another replica, or this process itself, does between two steps of a publisher, no honest log is refused.

Every call that leaves the publisher (database, anchors, signer) is a point where something else may happen: before it,
and after it, while its answer is on its way. Each point is tried, one at a time, with each thing that may happen.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from counterseal.errors import AnchorMissing
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.tree import Frontier, leaf_hash
from counterseal_audit.logs.store import Log
from support.audit import Replica, append_one, replica
from support.entries import changed
from support.postgres import FreshDatabase
from support.requirements import requirement
from support.rotations import TwoVersions

Happening = Callable[[], Awaitable[object]]


class Points:
    """Counts the points that are passed; at the `at`-th, `happens` happens, once."""

    def __init__(self) -> None:
        self.passed = 0
        self.at = -1
        self.happens: Happening | None = None

    async def reach(self) -> None:
        self.passed += 1
        if self.passed - 1 == self.at and self.happens is not None:
            happening, self.happens = self.happens, None
            await happening()


class Watched:
    """Something whose coroutine methods each pass a point before and after."""

    def __init__(self, inner: Any, points: Points) -> None:
        self._inner = inner
        self._points = points

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **more: Any) -> Any:
            await self._points.reach()
            answer = await found(*args, **more)
            await self._points.reach()
            return answer

        return call


def watched(inner: Any, points: Points) -> Any:
    return Watched(inner, points)


class Race:
    """Two replicas on one log; the first one's publisher can be held up at any point."""

    def __init__(self, one: Replica, two: Replica, signer: TwoVersions, log: Log) -> None:
        self.one, self.two, self.signer, self.log = one, two, signer, log
        self.points = Points()
        self.written = 0
        one.publisher.store = watched(one.checkpoints, self.points)
        one.publisher.anchors = watched(one.anchors, self.points)
        one.publisher.signer = watched(signer, self.points)
        one.ledger._store = watched(one.ledger._store, self.points)

    async def append(self, by: Replica) -> None:
        self.written += 1
        await append_one(by, changed(stream=f"plan:{self.written}"))

    async def rotate(self) -> None:
        self.signer.rotate()
        await self.two.operations.rotate(self.log)

    async def publish(self, by: Replica) -> None:
        await by.publisher._publish(self.log.bucket, [self.log])

    async def other_publishes(self) -> None:
        """Another replica signs what is there, rotations included."""
        await self.publish(self.two)

    async def other_goes_on(self) -> None:
        """Another replica signs what is there, the log grows, and it signs that as well."""
        await self.publish(self.two)
        await self.append(self.two)
        await self.publish(self.two)

    async def other_rotates(self) -> None:
        """Another replica signs, rotates the key and signs that."""
        await self.publish(self.two)
        await self.rotate()
        await self.publish(self.two)

    async def this_one_appends(self) -> None:
        """The publisher's own process appends."""
        await self.append(self.one)


HAPPENINGS = {
    "the other publishes": Race.other_publishes,
    "the other goes on": Race.other_goes_on,
    "the other rotates": Race.other_rotates,
    "this one appends": Race.this_one_appends,
}


@requirement("ledger:honest-logs-are-never-refused")
@pytest.mark.parametrize("happens", list(HAPPENINGS.values()), ids=list(HAPPENINGS))
async def test_nothing_that_happens_between_two_steps_of_a_publisher_forks_an_honest_log(
    fresh_database: FreshDatabase, happens: Callable[[Race], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    database, signer = fresh_database("audit"), TwoVersions()
    async with replica(database, signer) as one, replica(database, signer) as two:
        log = await one.log()
        race = Race(one, two, signer, log)
        await race.append(one)
        await race.append(two)
        at = 0
        while True:
            await race.rotate()
            await race.append(two)
            race.points.passed, race.points.at = 0, at
            race.points.happens = lambda: happens(race)
            await race.publish(one)
            reached, race.points.happens = race.points.happens is None, None
            await race.append(one)
            await race.append(two)
            await race.publish(two)
            assert not [record for record in caplog.records if record.levelname == "CRITICAL"], f"point {at}"
            ring = await two.checkpoints.keyring(log)
            assert [key.public for key in ring.keys] == [bytes(key.verify_key) for key in signer.keys.values()]
            if not reached:
                break
            at += 1
        await check(race)
        assert at > 12, "there are points to speak of"


async def check(race: Race) -> None:
    """As an auditor who pinned the genesis key: each note by a key accepted so far vouches for the next, once."""
    ring = await race.two.checkpoints.keyring(race.log)
    keys = [key.public for key in ring.keys]
    assert keys == [bytes(key.verify_key) for key in race.signer.keys.values()]
    rows = await race.two.reader.page(race.log.log_id, 0, 100_000)
    accepted = [race.log.key]
    for note, key in zip(
        await race.two.checkpoints.rotation_notes(race.log.log_id, len(rows)), ring.keys[1:], strict=True
    ):
        covering = open_checkpoint(note, accepted)
        assert covering.root == Frontier().extend(leaf_hash(row.entry) for row in rows[: covering.size]).root()
        accepted.append(key)
    last = await race.two.checkpoints.latest(race.log.log_id)
    assert last is not None
    assert open_checkpoint(last.published.note, [accepted[-1]]).size == len(rows)


@requirement("ledger:honest-logs-are-never-refused")
async def test_a_log_that_is_opened_while_another_replica_publishes_has_its_anchor(
    fresh_database: FreshDatabase,
) -> None:
    database = fresh_database("audit")
    async with replica(database) as two:
        await append_one(two, changed(stream="plan:0"))
        log = await two.log()
        at = 0
        reached = True
        while reached:
            async with replica(database) as one:
                points = Points()
                one.ledger.anchors = watched(one.anchors, points)
                one.ledger._checkpoints = watched(one.checkpoints, points)
                points.at = at
                await append_one(two, changed(stream=f"plan:{at + 1}"))
                points.happens = lambda: two.publisher._publish(log.bucket, [log])
                try:
                    await one.log()
                except AnchorMissing:
                    pytest.fail(f"point {at}")
                reached = points.happens is None
                at += 1
        assert at > 2
