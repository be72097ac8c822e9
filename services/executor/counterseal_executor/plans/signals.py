"""Wake-up calls inside one process: a hint that a plan changed. Whoever waits looks at the database anyway."""

import asyncio
from collections import defaultdict


class Signals:
    """Plan id -> those who wait for its next change."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def changed(self, plan_id: str) -> None:
        """Wake everybody who waits for this plan."""
        for event in self._waiting.get(plan_id, ()):
            event.set()

    async def wait(self, plan_id: str, seconds: float) -> None:
        """Return at the plan's next change, or after `seconds`."""
        event = asyncio.Event()
        self._waiting[plan_id].add(event)
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting[plan_id].discard(event)
            if not self._waiting[plan_id]:
                del self._waiting[plan_id]
