"""The suite's own loop: what does not end in time has cleaned up before anybody hears of it."""

import asyncio

import pytest

from support.suite import LoopThread


def test_work_that_takes_too_long_cleans_up_before_the_timeout_is_seen() -> None:
    thread, cleaned = LoopThread(), []

    async def start() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            cleaned.append("processes ended")

    try:
        with pytest.raises(TimeoutError):
            thread.run(start(), 0.05)
        assert cleaned == ["processes ended"]
    finally:
        thread.close()
