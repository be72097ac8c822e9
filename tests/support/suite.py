"""The whole suite as users run it, for end-to-end tests: real servers, four services as processes, mTLS, the bank.

It lives on a thread with a loop of its own, so that one stack serves tests whose loops come and go.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from counterseal.client import AgentRequest, Client, Person
from counterseal.client.login import password_login
from counterseal.embedded.deployment import Deployment
from counterseal.embedded.layout import Running, Wanted
from counterseal.errors import ServiceError
from support import bank
from support.behind import Behind
from support.vault_tap import VaultTap

T = TypeVar("T")


class LoopThread:
    """An event loop on a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="suite", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """Run to the end from another thread; what takes longer is cancelled, and ends its own processes first."""
        return asyncio.run_coroutine_threadsafe(_within(seconds, work), self.loop).result()

    async def here(self, work: Coroutine[Any, Any, T]) -> T:
        """Run over there, await here."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()


async def _within(seconds: float | None, work: Coroutine[Any, Any, T]) -> T:
    async with asyncio.timeout(seconds):
        return await work


class Suite(Behind):
    """A running deployment and everybody who may call it; Vault is seen past the tap."""

    def __init__(self, deployment: Deployment, running: Running, thread: LoopThread, tap: VaultTap | None) -> None:
        super().__init__(running)
        self.deployment = deployment
        self.thread = thread
        self.tap = tap
        self.identity_tokens: set[str] = set()
        self._logins = ThreadPoolExecutor(2, thread_name_prefix="login")

    # --- callers ---

    @contextlib.asynccontextmanager
    async def agent(self, user: str = "ana", agent: str = bank.AGENT, **options: Any) -> AsyncIterator[AgentRequest]:
        """Begin a user's request to an agent."""
        async with Client.open(self.running.profile(f"agent-{agent}")) as client:
            yield client.request(self.login(client, user), **options)

    @contextlib.asynccontextmanager
    async def person(self, user: str, tenant: str = bank.TENANT) -> AsyncIterator[Person]:
        """Act as a person with the command line's certificate."""
        async with Client.open(self.running.profile("cli")) as client:
            yield client.person(self.login(client, user), tenant=tenant)

    def login(self, client: Client, user: str) -> Callable[[], Awaitable[str]]:
        async def fetch() -> str:
            loop = asyncio.get_running_loop()
            token = await loop.run_in_executor(self._logins, password_login, client.profile, user)
            self.identity_tokens.add(token)
            return token

        return fetch

    # --- looking at the bank ---

    async def balance(self, account: str) -> int:
        rows = await self.sql("bank", "SELECT balance_cents FROM accounts WHERE id = $1", account)
        return int(rows[0]["balance_cents"])

    async def effects(self, account: str) -> list[int]:
        rows = await self.sql("bank", "SELECT amount_cents FROM effects WHERE account = $1 ORDER BY ctid", account)
        return [int(row["amount_cents"]) for row in rows]

    # --- processes ---

    def command(
        self, *words: str, stdin: bytes = b"", environ: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run `counterseal WORDS` as a process, as a user of this stack would."""
        script = Path(sys.executable).parent / "counterseal"
        return subprocess.run(
            [str(script), *words],
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
            env={**os.environ, **(environ or {})},
        )

    async def kill(self, service: str, *, hold: bool = False) -> None:
        """Send SIGKILL to a service's process."""
        await self.thread.here(self.deployment.supervisor.kill(service, hold=hold))

    async def ready(self, service: str) -> None:
        """Let a held service start, and wait until it serves."""
        self.deployment.supervisor.release(service)
        await self.thread.here(self.deployment.supervisor.ready(service))

    def close(self) -> None:
        self._logins.shutdown(wait=False)


@contextlib.contextmanager
def running_suite(home: Path, wanted: Wanted | None = None, *, tapped: bool = True) -> Iterator[Suite]:
    """Start everything below `home`, with the bank's policy active and its tools registered; stop it afterwards."""
    chosen = wanted or bank.wanted()
    data = home / "dev"
    tap = VaultTap(data / "openbao") if tapped else None
    environ: dict[str, str] = {}
    if tap is not None:
        tap.start()
        environ["COUNTERSEAL_VAULT__ADDRESS"] = tap.address
        chosen = bank.with_settings(chosen, {"credentials": {"vault_address": tap.address}})
    thread = LoopThread()
    deployment = Deployment(data, chosen, environ=environ)
    try:
        running = thread.run(deployment.start(), 180)
        try:
            suite = Suite(deployment, running, thread, tap)
            thread.run(prepare(suite), 120)
            yield suite
            suite.close()
        finally:
            thread.run(deployment.stop(), 120)
    finally:
        thread.close()
        if tap is not None:
            tap.stop()


async def prepare(suite: Suite) -> None:
    """Publish and activate the bank's policy and register its tools, as two people do."""
    async with suite.person("ida") as ida, suite.person("pat") as pat:
        published = await ida.publish(bank.policy_documents())
        snapshot = published.snapshot.snapshot_id
        activated = await ida.activate(snapshot)
        if activated.HasField("second_person"):
            await pat.activate(snapshot, activated.second_person.request_digest)
        bodies = [tool.body for tool in bank.TOOLS.values()]
        registered = await ida.register(bodies)
        if registered.HasField("second_person"):
            await pat.register(bodies, registered.second_person.request_digest)
    await suite.outboxes_drained()


async def reason_of(call: Awaitable[object]) -> str:
    """Return the reason for which a call is refused, or an empty text when it is not."""
    try:
        await call
    except ServiceError as error:
        return error.reason
    return ""
