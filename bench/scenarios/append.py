"""Durable appends to the ledger against empty calls of the same size on the same server configuration.

Subject: the audit service as it is deployed, on a PostgreSQL that keeps its promises (fsync on) and a real OpenBao,
called by an executor's certificate; an append is answered when it is durable. Floors: a server that reads the same
requests and answers emptily, behind the same interceptor.

Streams are measured in three ways: a stream for each caller, who waits for each answer; with a window, 4 streams that
have 16 messages in flight each, one entry a message; and the same with 16 entries a message, as outboxes send them.
The first two have 64 entries in flight, the last 1,024.

Goals (docs/performance.md): unary >= 0.45 of an empty unary call; on 64 streams, which is how the goals were measured,
>= 1.5 of an empty unary call and >= 0.85 of an empty stream message; the latency of one idle append <= that of a call
that commits three times and answers emptily. The latter is measured as such, in a process that waits between the calls
like the ledger's does, and not put together from an empty call and commits that follow each other on a busy core: there
a commit takes two thirds of the time. That sum is reported beside it. Idle means that nothing else is under way either:
the projection has caught up before.
"""

import asyncio
import statistics
from collections import deque
from collections.abc import Sequence
from typing import Any

import asyncpg
import grpc

from bench import empty_server
from bench.children import child
from bench.material import NAME, Material
from bench.measure import Side, compare
from bench.report import Figure, figure_of
from bench.settings import Result, Settings
from bench.stacks import ENVIRONMENT, ledger
from counterseal.api.audit.v1 import ledger_pb2, ledger_pb2_grpc
from counterseal.ids import new_id
from counterseal.rpc.tls import open_channel, server_name
from support.entries import changed

CALLERS = 64
STREAMS = 4
BATCH = 16
LEVEL_SECONDS = 300


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
        return checked(await stream.read())

    async def close(self) -> None:
        """End the streams."""
        for stream in self._streams.values():
            await stream.done_writing()


class Windowed:
    """Callers share a few streams, which answer in order while further messages are under way."""

    def __init__(self, name: str, channel: grpc.aio.Channel, pid: int, entries: int = 1) -> None:
        self.name = name
        self.pids: Sequence[int] = (pid,)
        self._stub: Any = ledger_pb2_grpc.LedgerServiceStub(channel)
        self._streams: dict[int, _Window] = {}
        self._entries = entries
        self._template = changed(stream="", environment=ENVIRONMENT)

    async def call(self, worker: int) -> object:
        """Send one message of fresh entries and wait for its answer."""
        number = worker % STREAMS
        window = self._streams.get(number)
        if window is None:
            window = self._streams[number] = _Window(self._stub.AppendStream())
        request = ledger_pb2.AppendStreamRequest(mode=ledger_pb2.APPEND_MODE_DURABLE)
        for _ in range(self._entries):
            entry = request.entries.add()
            entry.CopyFrom(self._template)
            entry.event_id = new_id()
        return checked(await window.send(request))

    async def close(self) -> None:
        """End the streams."""
        for window in self._streams.values():
            await window.close()


class _Window:
    """A stream, a lock that keeps its messages in order, and a reader that hands out the answers in order."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._number = 0
        self._writing = asyncio.Lock()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._reader = asyncio.create_task(self._read())

    async def send(self, request: ledger_pb2.AppendStreamRequest) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        async with self._writing:
            self._number = request.batch = self._number + 1
            self._waiting.append(answer)
            await self._stream.write(request)
        return await answer

    async def close(self) -> None:
        await self._stream.done_writing()
        await self._reader

    async def _read(self) -> None:
        try:
            async for answer in self._stream:
                self._waiting.popleft().set_result(answer)
        finally:
            for left in self._waiting:
                left.set_exception(RuntimeError("the stream ended"))


def checked(answer: Any) -> Any:
    """Return the answer. Raises RuntimeError when the entries were not appended."""
    if not isinstance(answer, ledger_pb2.AppendStreamResponse) or answer.HasField("failure"):
        raise RuntimeError(f"the ledger did not append: {answer}")
    if any(one.HasField("refused") for one in answer.results):
        raise RuntimeError(f"the ledger refused: {answer}")
    return answer


class Commits:
    """Three small commits, one after the other, on one connection: what three waits for the disk take."""

    name = "three commits"
    pids: Sequence[int] = ()

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def call(self, worker: int) -> object:
        """Write three rows, each in a transaction of its own."""
        for _ in range(empty_server.COMMITS):
            await self._connection.execute("INSERT INTO bench_commits (at) VALUES (now())")
        return None


async def run(settings: Settings) -> Result:
    """Compare the pairs at 64 callers, and one idle append with what it cannot be faster than."""
    work = settings.folder("append")
    material = Material.make(work)
    result = Result()
    async with (
        child(work / "empty.log", "bench.empty_server", str(work), "--with", "interceptor") as (empty_pid, empty_port),
        ledger(settings.work / "stack") as (running, audit_pid, identity),
        open_channel(f"127.0.0.1:{empty_port}", material.service, NAME) as empty,
        open_channel(running.addresses["audit"], identity, server_name("audit", ENVIRONMENT)) as audit,
    ):
        unary, empty_unary = Unary("durable, unary", audit, audit_pid), Unary("empty unary", empty, empty_pid)
        streamed = Streamed("durable, a stream each", audit, audit_pid)
        empty_streamed = Streamed("empty message, a stream each", empty, empty_pid)
        windowed = Windowed("durable, stream with window", audit, audit_pid)
        empty_windowed = Windowed("empty message with window", empty, empty_pid)
        batched = Windowed("durable, 16 a message", audit, audit_pid, BATCH)
        pairs: Sequence[tuple[str, Side, Side, float | None, int]] = [
            ("unary append against an empty unary call", empty_unary, unary, 0.45, 1),
            ("append on 64 streams against an empty unary call", empty_unary, streamed, 1.5, 1),
            ("append on 64 streams against an empty stream message", empty_streamed, streamed, 0.85, 1),
            ("append on 4 streams with a window against an empty unary call", empty_unary, windowed, None, 1),
            ("append on 4 streams with a window against an empty message", empty_windowed, windowed, None, 1),
            ("entries streamed 16 a message against an empty unary call", empty_unary, batched, None, BATCH),
        ]
        for name, floor, subject, goal, entries in pairs:
            load = settings.load(CALLERS)
            comparison = await compare(name, floor, subject, load, subject_weight=entries)
            result.comparisons.append(comparison)
            result.figures.append(figure_of(comparison, goal))
        for one in (streamed, empty_streamed, windowed, empty_windowed, batched):
            await one.close()
        dsn = running.control.dsn("counterseal_audit")
        connection = await asyncpg.connect(dsn)
        committing = child(
            work / "commits.log", "bench.empty_server", str(work), "--with", "interceptor", "--commits", dsn
        )
        try:
            await _level(connection)
            async with (
                committing as (commits_pid, commits_port),
                open_channel(f"127.0.0.1:{commits_port}", material.service, NAME) as writing,
            ):
                call = Unary("a call that commits three times", writing, commits_pid)
                await _latency(settings, result, call, empty_unary, unary, Commits(connection))
        finally:
            await connection.close()
    return result


async def _level(connection: Any) -> None:
    """Wait until the projection has read everything that was appended: until then nothing is idle."""
    behind = "SELECT EXISTS (SELECT FROM ledger_head h LEFT JOIN ledger_follower f ON f.log_id = h.log_id"
    behind += " WHERE h.size > coalesce(f.next_idx, 0))"
    async with asyncio.timeout(LEVEL_SECONDS):
        while await connection.fetchval(behind):  # noqa: ASYNC110 (another process is waited for)
            await asyncio.sleep(1)


async def _latency(
    settings: Settings, result: Result, committing: Side, empty: Side, unary: Side, commits: Side
) -> None:
    """One caller: the p50 of an append over that of a call that commits so often, and over the sum of both apart."""
    idle = await compare("idle append against a call that commits three times", committing, unary, settings.load(1))
    called = await compare("idle append against an empty unary call", empty, unary, settings.load(1))
    written = await compare("idle append against three commits", commits, unary, settings.load(1))
    result.comparisons.extend([idle, called, written])
    append, floor = (statistics.median(one.p50_ms for one in side) for side in (idle.subject, idle.floor))
    ratio = statistics.median(mine.p50_ms / base.p50_ms for mine, base in zip(idle.subject, idle.floor, strict=True))
    detail = f"p50 {append:.2f} ms | floor: a call that commits {empty_server.COMMITS} times {floor:.2f} ms"
    name = "p50 of an idle unary append against a call that commits three times"
    result.figures.append(Figure(name, ratio, "x", 1, at_most=True, detail=detail))
    append = statistics.median(one.p50_ms for one in (*called.subject, *written.subject))
    call = statistics.median(one.p50_ms for one in called.floor)
    commit = statistics.median(one.p50_ms for one in written.floor)
    detail = f"p50 {append:.2f} ms | floor: empty call {call:.2f} ms and {empty_server.COMMITS} commits {commit:.2f} ms"
    name = "p50 of an idle unary append against an empty call and three commits, each measured apart"
    result.figures.append(Figure(name, append / (call + commit), "x", None, at_most=True, detail=detail))
