"""Under load a flush waits for the calls that are on their way; it never waits where nobody comes."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from counterseal.ledger.tree import Frontier, leaf_hash
from counterseal_audit.append.engine import Prepared, Step
from counterseal_audit.append.mac import Head, HeadMac
from counterseal_audit.append.writer import FLUSH_ENTRIES, QUIET_TURNS, LogWriter

MAC = HeadMac(b"\x01" * 32, "counterseal.dev/0192aa")


class Instant:
    """A store that writes a batch within one turn of the loop."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self._after = Frontier().extend([leaf_hash(b"genesis")])

    async def head(self, _log_id: int) -> Head:
        return Head(True, self._after, self._after.root(), MAC.of(self._after))

    async def append(self, _log_id: int, step: Step, batch: Sequence[Prepared], written: Callable[[], None]) -> bool:
        await asyncio.sleep(0)
        self.batches.append(len(batch))
        self._after = step.after
        written()
        await asyncio.sleep(0)  # the connection goes back behind those who waited
        return True


def writer() -> tuple[LogWriter, Instant]:
    store: Any = Instant()
    return LogWriter(1, store, MAC), store


def item(number: int) -> Prepared:
    data = number.to_bytes(8)
    return Prepared(f"e{number}", data * 4, leaf_hash(data), data)


async def test_calls_that_are_on_their_way_share_the_next_flush() -> None:
    one, store = writer()

    async def call(caller: int) -> None:
        for n in range(20):
            for _ in range(1 + caller % 5):  # the way from the wire to the queue
                await asyncio.sleep(0)
            await one.submit([item(caller * 100 + n)])[0]

    await asyncio.gather(*(call(caller) for caller in range(64)))
    assert sum(store.batches) == 64 * 20
    assert sum(store.batches) / len(store.batches) > 32, "half of those who are there"


async def test_a_caller_alone_waits_for_nobody() -> None:
    one, store = writer()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    for n in range(20):
        before = turns
        await one.submit([item(n)])[0]
        assert turns - before < QUIET_TURNS, "the flush began at once"
        if n < 10:  # and then asks in the moment of the answer
            await asyncio.sleep(0.001)
    counting.cancel()
    assert store.batches == [1] * 20


async def test_who_comes_without_end_delays_no_flush_beyond_a_full_one() -> None:
    one, store = writer()
    futures = one.submit([item(0)])
    for n in range(1, 3 * FLUSH_ENTRIES):
        futures += one.submit([item(n)])
        await asyncio.sleep(0)
    await asyncio.gather(*futures)
    assert sum(store.batches) == 3 * FLUSH_ENTRIES
    assert len(store.batches) >= 3
