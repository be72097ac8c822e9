"""The logins that readings of one plan share: the last reader gives them back."""

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from counterseal.ids import new_id
from counterseal_executor.plans.reading import Reader, Subject

STEP: Any = SimpleNamespace(id="s1", tool="shop.refund@1.0.0", target="shop", args={}, timeout_seconds=5)
TOOLS: Any = {STEP.tool: SimpleNamespace(credential_role="rw")}


class Slow:
    """A target that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.answer = asyncio.Event()

    async def observe(self, call: Any, credential: Any) -> Any:
        self.asked.release()
        await self.answer.wait()
        return SimpleNamespace(values={})


class World:
    def __init__(self) -> None:
        self.revoked: list[str] = []
        self.minted = 0
        self.tasks: list[asyncio.Task[None]] = []

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def read(self, *_: Any) -> str:
        self.minted += 1
        return "login"

    async def revoke(self, attempt_id: str, *_: Any) -> None:
        self.revoked.append(attempt_id)

    async def pass_by(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.mark.parametrize("order", ["a reader outlives it", "nobody reads"])
async def test_a_login_is_given_back_when_its_last_reader_is_done(order: str) -> None:
    target, world = Slow(), World()
    targets: Any = {"shop": SimpleNamespace(kind="sim")}
    reader = Reader({"sim": target}, targets, world, world, new_id, world.spawn)  # type: ignore[dict-item, arg-type]
    subject = Subject("acme", {})
    decision: Any = None

    def observe() -> asyncio.Task[Any]:
        return asyncio.create_task(reader.observe("plan", [STEP], TOOLS, subject, b"", decision, ""))

    reading = observe()
    await target.asked.acquire()
    if order == "a reader outlives it":
        reader.give_back("plan")
        await world.pass_by()
        assert world.revoked == [], "the login was taken from under a reader"
        target.answer.set()
        await reading
    else:
        target.answer.set()
        await reading
        await world.pass_by()
        assert world.revoked == [], "the login is kept for the commit"
        reader.give_back("plan")
    await world.pass_by()
    assert (len(world.revoked), world.minted) == (1, 1)
    for task in world.tasks:
        task.cancel()


async def test_logins_that_are_about_to_end_are_given_back_when_others_take_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, world = Slow(), World()
    target.answer.set()
    targets: Any = {"shop": SimpleNamespace(kind="sim")}
    reader = Reader({"sim": target}, targets, world, world, new_id, world.spawn)  # type: ignore[dict-item, arg-type]
    decision: Any = None
    monkeypatch.setattr("counterseal_executor.plans.reading.READ_SECONDS", 1)  # less than the margin: never used again
    for _ in range(2):
        await reader.observe("plan", [STEP], TOOLS, Subject("acme", {}), b"", decision, "")
    await world.pass_by()
    assert (len(world.revoked), world.minted) == (1, 2)
    for task in world.tasks:
        task.cancel()
