"""The audit service as it is deployed, for benchmarks and the hammer: PostgreSQL, OpenBao, and one replica or several.

Replicas are processes of the same configuration over one database; each listens on a port of its own.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from counterseal.embedded.layout import Running, Wanted
from counterseal.embedded.ports import LOOPBACK, free_port
from counterseal.embedded.stack import Stack
from counterseal.embedded.supervisor import Supervisor, console_script
from counterseal.rpc.tls import Identity, open_channel, server_name
from counterseal.vault import Vault
from counterseal.vault.names import Environment

ENVIRONMENT, TENANT = "bench", "acme"
WANTED = Wanted(environment=ENVIRONMENT, tenants=(TENANT,))
READY_SECONDS = 60.0
STOP_SECONDS = 20.0


class ReplicaEnded(RuntimeError):
    """A replica ended though nobody ended it; the message names its log file."""


@contextlib.asynccontextmanager
async def prepared(data: Path, wanted: Wanted = WANTED) -> AsyncIterator[Running]:
    """A prepared stack without services."""
    stack = Stack(data, wanted)
    running = await stack.start()
    try:
        yield running
    finally:
        await stack.stop()


@contextlib.asynccontextmanager
async def ledger(data: Path) -> AsyncIterator[tuple[Running, int, Identity]]:
    """A prepared stack with the audit service alone on top; yields its process and an executor's certificate."""
    async with prepared(data) as running:
        supervisor = Supervisor(running, services=("audit",))
        await supervisor.start()
        try:
            pid = supervisor.pid("audit")
            assert pid is not None
            yield running, pid, await executor_identity(running)
        finally:
            await supervisor.stop()


async def executor_identity(running: Running) -> Identity:
    """A certificate as the executor gets one, issued by the operator."""
    bao = running.openbao
    vault = await Vault.login_approle(bao.address, bao.operator_role_id, bao.operator_secret_id, ca_file=bao.ca_file)
    try:
        names = Environment(running.environment)
        uri = f"spiffe://{running.trust_domain}/{running.environment}/svc/executor"
        name = server_name("executor", running.environment)
        issued = await vault.issue_certificate(names.pki, "svc-executor", name, uri, "1h")
        return Identity(issued.cert_pem.encode(), issued.key_pem.encode(), issued.ca_pem.encode())
    finally:
        vault.close()


class Replica:
    """One `counterseal-audit` process; started again on the same port after it was killed."""

    def __init__(self, running: Running, number: int) -> None:
        self.number = number
        self.address = f"{LOOPBACK}:{free_port()}"
        self.kills = 0
        self._log = running.logs / f"audit-{number}.log"
        self._config = running.configs["audit"]
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process id of the running process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start the process; `Replicas.ready` waits for it."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *console_script("audit"),
                "--config",
                str(self._config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "COUNTERSEAL_SERVER__LISTEN": self.address},
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise ReplicaEnded when the process ended by itself."""
        if self._process is not None and self._process.returncode is not None:
            raise ReplicaEnded(f"replica {self.number} ended by itself, code {self._process.returncode}: {self._log}")

    async def kill(self) -> None:
        """SIGKILL, and start again. Raises ReplicaEnded when it had ended before."""
        self.check()
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        await process.wait()
        self.kills += 1
        await self.start()

    async def stop(self) -> None:
        """SIGTERM, after a while SIGKILL."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class Replicas:
    """Several replicas over one stack, and one channel to each with an executor's certificate."""

    def __init__(self, running: Running, replicas: list[Replica], identity: Identity) -> None:
        self.running = running
        self.all = replicas
        name = server_name("audit", running.environment)
        self.channels = [open_channel(one.address, identity, name) for one in replicas]

    async def serving(self, number: int) -> bool:
        """Tell whether a replica answers SERVING right now."""
        stub = health_pb2_grpc.HealthStub(self.channels[number])
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def ready(self, number: int) -> None:
        """Wait until a replica serves. Raises ReplicaEnded, TimeoutError."""
        async with asyncio.timeout(READY_SECONDS):
            while not await self.serving(number):
                self.all[number].check()
                await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Close the channels."""
        for channel in self.channels:
            await channel.close(None)


@contextlib.asynccontextmanager
async def replicas(running: Running, count: int) -> AsyncIterator[Replicas]:
    """`count` replicas that serve, on a prepared stack."""
    made = [Replica(running, number) for number in range(count)]
    several = Replicas(running, made, await executor_identity(running))
    try:
        for one in made:
            await one.start()
        for one in made:
            await several.ready(one.number)
        yield several
    finally:
        await several.close()
        await asyncio.gather(*(one.stop() for one in made))
