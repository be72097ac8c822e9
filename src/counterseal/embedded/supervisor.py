"""Runs the four services as processes of one machine: starts them, restarts what dies, stops them in order.

Services are started as their console scripts, never imported. Each writes to its own log file; ready is what gRPC
health says over mTLS. A supervisor that was killed leaves processes behind; the next start ends them by pid file.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from counterseal.embedded.layout import SERVICES, Running
from counterseal.rpc.tls import Identity, open_channel, server_name

READY_SECONDS = 60.0
STOP_SECONDS = 20.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 10.0
"""A process that lived this long and dies is restarted at once; faster deaths wait longer each time."""

STOP_ORDER = (("executor",), ("policy", "credentials"), ("audit",))
"""Callers before the called; the ledger last, so that outboxes can empty."""

Progress = Callable[[str], None]


class ServiceFailed(RuntimeError):
    """A service did not become ready; the message names its log file and repeats its last lines."""


@dataclass(slots=True)
class _Service:
    name: str
    log: Path
    process: asyncio.subprocess.Process | None = None
    keeper: "asyncio.Task[None] | None" = None
    starts: int = 0
    held: asyncio.Event = field(default_factory=asyncio.Event)


def console_script(service: str) -> list[str]:
    """Return the command that starts a service: its console script beside the running Python."""
    script = shutil.which(f"counterseal-{service}", path=str(Path(sys.executable).parent))
    if script:
        return [script]
    return [sys.executable, "-c", f"from counterseal_{service}.main import main; raise SystemExit(main())"]


class Supervisor:
    """The four services of a prepared stack. `start` returns when all are ready.

    environ: added to the services' environment. command: service -> the command line that starts it.
    services: which of them, in starting order; a benchmark of one needs no others.
    """

    def __init__(
        self,
        running: Running,
        progress: Progress = lambda _: None,
        environ: Mapping[str, str] | None = None,
        command: Callable[[str], list[str]] = console_script,
        services: Sequence[str] = SERVICES,
    ) -> None:
        self._running = running
        self._command = command
        self._progress = progress
        self._environ = {**os.environ, **(environ or {})}
        self._run = running.data_dir / "run"
        self._services = {name: _Service(name, running.logs / f"{name}.log") for name in services}
        for service in self._services.values():
            service.held.set()
        self._stopping = False

    async def start(self) -> None:
        """Start all four side by side and wait until each is ready; raises ServiceFailed and stops them again."""
        self._run.mkdir(exist_ok=True, mode=0o700)
        for service in self._services.values():
            _end_leftover(self._run / f"{service.name}.pid", str(self._running.configs[service.name]))
            service.keeper = asyncio.create_task(self._keep(service), name=f"keep-{service.name}")
        try:
            for name in self._services:
                self._progress(f"starting {name}")
                await self.ready(name)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End all services, callers before the called, each by SIGTERM and after a while by SIGKILL."""
        self._stopping = True
        for names in STOP_ORDER:
            await asyncio.gather(*(self._stop(self._services[name]) for name in names if name in self._services))

    def pid(self, name: str) -> int | None:
        """Return the service's process id, None while it is not running."""
        process = self._services[name].process
        return process.pid if process is not None and process.returncode is None else None

    def starts(self, name: str) -> int:
        """Return how often the service was started."""
        return self._services[name].starts

    async def kill(self, name: str, *, hold: bool = False) -> None:
        """Send SIGKILL; the service is restarted, with `hold` only after `release`."""
        service = self._services[name]
        if hold:
            service.held.clear()
        process = service.process
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    def release(self, name: str) -> None:
        """Let a held service start again."""
        self._services[name].held.set()

    async def ready(self, name: str, seconds: float = READY_SECONDS) -> None:
        """Wait until the service answers SERVING; raises ServiceFailed."""
        service = self._services[name]
        deadline = time.monotonic() + seconds
        # A channel of its own per try: a refused connection must not cost gRPC's reconnect backoff.
        while not await self.serving(name):
            gave_up = service.starts >= 3 and self.pid(name) is None
            if gave_up or time.monotonic() > deadline:
                raise ServiceFailed(f"{name} did not become ready; see {service.log}\n{_tail(service.log)}")
            await asyncio.sleep(0.1)

    async def serving(self, name: str) -> bool:
        """Tell whether the service answers SERVING right now, over mTLS."""
        folder = self._running.profiles / "operator"
        identity = Identity.from_files(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
        address = self._running.addresses[name]
        async with open_channel(address, identity, server_name(name, self._running.environment)) as channel:
            try:
                stub = health_pb2_grpc.HealthStub(channel)
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
            except grpc.aio.AioRpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def _stop(self, service: _Service) -> None:
        if service.keeper is None:
            return
        service.held.set()
        await _end(service.process)
        service.keeper.cancel()
        await asyncio.gather(service.keeper, return_exceptions=True)
        (self._run / f"{service.name}.pid").unlink(missing_ok=True)

    async def _keep(self, service: _Service) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping:
            await service.held.wait()
            started = time.monotonic()
            with service.log.open("ab") as log:
                service.process = await asyncio.create_subprocess_exec(
                    *self._command(service.name),
                    "--config",
                    str(self._running.configs[service.name]),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environ,
                    start_new_session=True,  # Ctrl-C reaches the supervisor, which stops services in order
                )
            service.starts += 1
            (self._run / f"{service.name}.pid").write_text(f"{service.process.pid}\n")
            code = await service.process.wait()
            if self._stopping:
                return
            if time.monotonic() - started > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._progress(f"{service.name} ended ({_ending(code)}); starting it again")
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)


async def _end(process: asyncio.subprocess.Process | None) -> None:
    if process is None or process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def _end_leftover(pid_file: Path, config: str) -> None:
    """End a service whose supervisor was killed; its command line names our configuration file."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        if config.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _tail(file: Path, lines: int = 8) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
    return ""
