"""The whole suite on one machine: the prepared stack, the four services on top, one owner per data directory."""

import asyncio
import contextlib
import fcntl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from counterseal.embedded.layout import Running, Wanted
from counterseal.embedded.stack import Stack
from counterseal.embedded.supervisor import Supervisor

RENEW_SECONDS = 3600.0


class AlreadyRunning(RuntimeError):
    """Another process runs the suite in this data directory."""


class Deployment:
    """Start and stop everything; also usable as a context manager.

    running, supervisor: set by `start`. environ: added to the services' environment (`COUNTERSEAL_...` overrides).
    """

    running: Running
    supervisor: Supervisor

    def __init__(
        self,
        data_dir: Path,
        wanted: Wanted,
        progress: Callable[[str], None] = lambda _: None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._data = data_dir
        self._progress = progress
        self._environ = environ
        self._stack = Stack(data_dir, wanted, progress)
        self._lock: IO[bytes] | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> Running:
        """Return when all four services are ready. Raises AlreadyRunning, StackFailed, ServiceFailed."""
        self._data.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self._data / "lock")
        try:
            self.running = await self._stack.start()
            self.supervisor = Supervisor(self.running, self._progress, self._environ)
            await self.supervisor.start()
        except BaseException:
            await self._stack.stop()
            self._unlock()
            raise
        self._renewing = asyncio.create_task(self._renewals(), name="renew-profiles")
        return self.running

    async def stop(self) -> None:
        """Stop services, then the stack, and give the data directory free."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        await self.supervisor.stop()
        await self._stack.stop()
        self._unlock()

    async def __aenter__(self) -> "Deployment":  # noqa: PYI034 (not meant to be subclassed)
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""
        await self.stop()

    async def _renewals(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            # Vault away for a while: the certificates live for hours.
            with contextlib.suppress(Exception):
                await self._stack.renew_profiles(self.running)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def in_use(data_dir: Path) -> bool:
    """Tell whether a process runs the suite in this data directory at this moment."""
    try:
        _lock(data_dir / "lock").close()
    except FileNotFoundError:
        return False
    except AlreadyRunning:
        return True
    return False


def _lock(file: Path) -> IO[bytes]:
    handle = file.open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise AlreadyRunning(f"something runs in {file.parent} already") from None
    return handle
