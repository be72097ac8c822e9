"""The key cache asks once for all, not too often, and notices archived keys."""

import asyncio
from collections.abc import Mapping

import pytest

from counterseal.errors import CredentialsUnavailable
from counterseal.rpc.keys import KeyCache, PublicKey, UnknownKey


class World:
    def __init__(self) -> None:
        self.now = 1_000_000
        self.fetches = 0
        self.down = False
        self.keys: dict[str, PublicKey] = {"ctx-prod:1": PublicKey(b"1" * 32)}
        self.cache = KeyCache(self.fetch, lambda: self.now)

    async def fetch(self) -> Mapping[str, PublicKey]:
        self.fetches += 1
        await asyncio.sleep(0)
        if self.down:
            raise CredentialsUnavailable
        return self.keys


async def test_a_hundred_waiters_cause_one_fetch() -> None:
    world = World()
    assert await asyncio.gather(*(world.cache.get("ctx-prod:1") for _ in range(100))) == [b"1" * 32] * 100
    assert world.fetches == 1


async def test_unknown_kids_cause_at_most_one_fetch_in_five_seconds() -> None:
    world = World()
    for _ in range(20):
        with pytest.raises(UnknownKey):
            await world.cache.get("ctx-prod:9")
    assert world.fetches == 1
    world.now += 5_000
    world.keys["ctx-prod:9"] = PublicKey(b"9" * 32)
    assert await world.cache.get("ctx-prod:9") == b"9" * 32


async def test_an_archived_key_verifies_old_things_only() -> None:
    world = World()
    world.keys["ctx-prod:0"] = PublicKey(b"0" * 32, active=False)
    with pytest.raises(UnknownKey):
        await world.cache.get("ctx-prod:0")
    assert await world.cache.get("ctx-prod:0", active_only=False) == b"0" * 32


async def test_a_key_that_is_archived_meanwhile_stops_counting() -> None:
    world = World()
    await world.cache.get("ctx-prod:1")
    world.keys = {"ctx-prod:1": PublicKey(b"1" * 32, active=False)}
    world.now += 31_000
    await world.cache.get("ctx-prod:1")  # starts the refresh behind the answer
    await asyncio.sleep(0.01)
    with pytest.raises(UnknownKey):
        await world.cache.get("ctx-prod:1")


async def test_known_keys_serve_on_while_the_token_service_is_away() -> None:
    world = World()
    await world.cache.get("ctx-prod:1")
    world.down = True
    world.now += 60_000
    assert await world.cache.get("ctx-prod:1") == b"1" * 32
    await asyncio.sleep(0.01)
    world.now += 60_000
    with pytest.raises(CredentialsUnavailable):
        await world.cache.get("ctx-prod:7")


async def test_a_cancelled_waiter_does_not_end_the_fetch_of_the_others() -> None:
    world = World()
    first = asyncio.create_task(world.cache.get("ctx-prod:1"))
    second = asyncio.create_task(world.cache.get("ctx-prod:1"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == b"1" * 32
