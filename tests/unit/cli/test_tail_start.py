"""Where `audit tail` begins, also where there is nothing to tail yet."""

from types import SimpleNamespace
from typing import Any

import pytest

from counterseal.cli.audit_read import tail_start
from counterseal.errors import NotFound


class Ledger:
    """What the service answers for the newest log: shard and size, or that there is none."""

    def __init__(self, newest: tuple[int, int] | None) -> None:
        self.newest = newest

    async def entry(self, *, index: int) -> Any:
        assert index == 0
        if self.newest is None:
            raise NotFound("no such log")
        shard, size = self.newest
        return SimpleNamespace(entry=SimpleNamespace(shard=shard), size=size)


@pytest.mark.parametrize(
    ("newest", "asked", "start"),
    [
        ((2, 40), (None, None), (2, 40)),
        ((2, 40), (None, 7), (2, 7)),
        ((2, 40), (0, 7), (0, 7)),
        (None, (None, None), (0, 0)),
        (None, (None, 7), (0, 7)),
        (None, (0, 7), (0, 7)),
    ],
)
async def test_a_tail_begins_in_the_newest_log_and_waits_for_one_where_there_is_none(
    newest: tuple[int, int] | None, asked: tuple[int | None, int | None], start: tuple[int, int]
) -> None:
    assert await tail_start(Ledger(newest), *asked) == start  # type: ignore[arg-type]
