"""Durable appends to the ledger against empty calls of the same size on the same server configuration.

Subject: the audit service as it is deployed, on a PostgreSQL that keeps its promises (fsync on) and a real OpenBao,
called by an executor's certificate; an append is answered when it is durable. Floors: a server that reads the same
requests and answers emptily, behind the same interceptor. Streams: one per caller, one entry per message.

Goals (docs/performance.md): unary >= 0.45 of an empty unary call; streamed >= 1.5 of an empty unary call and >= 0.85 of
an empty stream message.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from bench.children import child
from bench.material import NAME, Material
from bench.measure import Side, compare
from bench.report import figure_of
from bench.settings import Result, Settings
from counterseal.api.audit.v1 import ledger_pb2, ledger_pb2_grpc
from counterseal.embedded.layout import Running, Wanted
from counterseal.embedded.stack import Stack
from counterseal.embedded.supervisor import Supervisor
from counterseal.ids import new_id
from counterseal.rpc.tls import Identity, open_channel, server_name
from counterseal.vault import Vault
from counterseal.vault.names import Environment
from support.entries import changed

ENVIRONMENT, CALLERS = "bench", 64


class Unary:
    """One entry a call."""

    def __init__(self, name: str, channel: grpc.aio.Channel, pid: int) -> None:
        self.name = name
        self.pids: Sequence[int] = (pid,)
        stub: Any = ledger_pb2_grpc.LedgerServiceStub(channel)
        self._method = stub.AppendEntry
        self._template = changed(stream="", environment=ENVIRONMENT)

    async def call(self, worker: int) -> object:
        """Append one fresh entry."""
        request = ledger_pb2.AppendEntryRequest(entry=self._template, mode=ledger_pb2.APPEND_MODE_DURABLE)
        request.entry.event_id = new_id()
        return await self._method(request, timeout=30)


class Streamed:
    """One entry a message, each worker on a stream of its own."""

    def __init__(self, name: str, channel: grpc.aio.Channel, pid: int) -> None:
        self.name = name
        self.pids: Sequence[int] = (pid,)
        self._stub: Any = ledger_pb2_grpc.LedgerServiceStub(channel)
        self._streams: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        self._template = changed(stream="", environment=ENVIRONMENT)

    async def call(self, worker: int) -> object:
        """Append one fresh entry and read its answer."""
        stream = self._streams.get(worker)
        if stream is None:
            stream = self._streams[worker] = self._stub.AppendStream()
        self._numbers[worker] = number = self._numbers.get(worker, 0) + 1
        request = ledger_pb2.AppendStreamRequest(batch=number, mode=ledger_pb2.APPEND_MODE_DURABLE)
        request.entries.add().CopyFrom(self._template)
        request.entries[0].event_id = new_id()
        await stream.write(request)
        answer = await stream.read()
        if not isinstance(answer, ledger_pb2.AppendStreamResponse) or answer.HasField("failure"):
            raise RuntimeError(f"the ledger did not append: {answer}")
        if any(one.HasField("refused") for one in answer.results):
            raise RuntimeError(f"the ledger refused: {answer}")
        return answer

    async def close(self) -> None:
        """End the streams."""
        for stream in self._streams.values():
            await stream.done_writing()


async def run(settings: Settings) -> Result:
    """Compare the three pairs at 64 callers."""
    work = settings.folder("append")
    material = Material.make(work)
    result = Result()
    async with (
        child(work / "empty.log", "bench.empty_server", str(work), "--with", "interceptor") as (empty_pid, empty_port),
        ledger(settings.work / "stack") as (running, audit_pid, identity),
        open_channel(f"127.0.0.1:{empty_port}", material.service, NAME) as empty,
        open_channel(running.addresses["audit"], identity, server_name("audit", ENVIRONMENT)) as audit,
    ):
        unary, streamed = Unary("durable, unary", audit, audit_pid), Streamed("durable, streamed", audit, audit_pid)
        empty_unary = Unary("empty unary", empty, empty_pid)
        empty_streamed = Streamed("empty stream message", empty, empty_pid)
        pairs: Sequence[tuple[str, Side, Side, float]] = [
            ("unary append against an empty unary call", empty_unary, unary, 0.45),
            ("streamed append against an empty unary call", empty_unary, streamed, 1.5),
            ("streamed append against an empty stream message", empty_streamed, streamed, 0.85),
        ]
        for name, floor, subject, goal in pairs:
            comparison = await compare(name, floor, subject, settings.load(CALLERS))
            result.comparisons.append(comparison)
            result.figures.append(figure_of(comparison, goal))
        await streamed.close()
        await empty_streamed.close()
    return result


@contextlib.asynccontextmanager
async def ledger(data: Path) -> AsyncIterator[tuple[Running, int, Identity]]:
    """A prepared stack with the audit service alone on top; yields its process and an executor's certificate."""
    stack = Stack(data, Wanted(environment=ENVIRONMENT, tenants=("acme",)))
    running = await stack.start()
    try:
        supervisor = Supervisor(running, services=("audit",))
        await supervisor.start()
        try:
            pid = supervisor.pid("audit")
            assert pid is not None
            yield running, pid, await _executor(running)
        finally:
            await supervisor.stop()
    finally:
        await stack.stop()


async def _executor(running: Running) -> Identity:
    """A certificate as the executor gets one, issued by the operator."""
    bao = running.openbao
    vault = await Vault.login_approle(bao.address, bao.operator_role_id, bao.operator_secret_id, ca_file=bao.ca_file)
    try:
        names = Environment(ENVIRONMENT)
        uri = f"spiffe://{running.trust_domain}/{ENVIRONMENT}/svc/executor"
        issued = await vault.issue_certificate(
            names.pki, "svc-executor", server_name("executor", ENVIRONMENT), uri, "1h"
        )
        return Identity(issued.cert_pem.encode(), issued.key_pem.encode(), issued.ca_pem.encode())
    finally:
        vault.close()
