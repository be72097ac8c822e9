"""A TCP proxy that speaks just enough of PostgreSQL's protocol to cut, hold or repeat a chosen message.

Messages are numbered from 0 in each direction; message 0 of the client is the start-up packet.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)

Gate = Callable[[str, bytes], bool]
"""Called with `client` or `server` and each message before it is passed on; True ends the line there."""
Hold = Callable[[str, int], Awaitable[None]]
"""Awaited with `client` or `server` and the number of each message before it is passed on; the next ones wait too."""


@dataclass
class Line:
    """What passed, and where to cut: before message `cut_client`/`cut_server`, or in the middle of it (`half`).

    twice_client, twice_server: the message that is passed on twice.
    """

    cut_client: int | None = None
    cut_server: int | None = None
    half: bool = False
    twice_client: int | None = None
    twice_server: int | None = None
    hold: Hold | None = None
    client: list[bytes] = field(default_factory=list)
    server: list[bytes] = field(default_factory=list)
    was_cut: bool = False
    gates: Callable[[], Gate] | None = None
    """Makes a gate for each connection."""


@asynccontextmanager
async def proxy(host: str, port: int, line: Line) -> AsyncIterator[int]:
    """Yield the local port of a proxy to one server."""
    tasks: set[asyncio.Task[None]] = set()
    closing = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if closing.is_set():
            writer.transport.abort()
            return
        tasks.add(task)
        ends = [writer]
        pumps: list[asyncio.Task[None]] = []
        gate = line.gates() if line.gates is not None else None
        try:
            up_reader, up_writer = await asyncio.open_connection(host, port)
            ends.append(up_writer)
            start = await reader.readexactly(8)
            if start == _SSL_REQUEST:  # the relay reads what passes, so there is no TLS here
                writer.write(b"N")
                start = await reader.readexactly(8)
            pumps += [
                asyncio.create_task(_pump(reader, up_writer, line.client, line.cut_client, line, gate, start)),
                asyncio.create_task(_pump(up_reader, writer, line.server, line.cut_server, line, gate)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass  # the client went away, or the proxy ends
        finally:
            for stream in ends:  # before anything is awaited: the end of the proxy may cancel that, too
                stream.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        closing.set()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(10):  # what was accepted in the last moment is closed too, and what was aborted is lost
            await asyncio.sleep(0)


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    seen: list[bytes],
    cut: int | None,
    line: Line,
    gate: Gate | None,
    start: bytes = b"",
) -> None:
    """Pass messages on. start: the first bytes of a client's start-up packet, which has no type byte."""
    side = "client" if start else "server"
    try:
        while True:
            if start:
                message = start + await reader.readexactly(int.from_bytes(start[:4]) - len(start))
                start = b""
            else:
                head = await reader.readexactly(5)
                message = head + await reader.readexactly(int.from_bytes(head[1:]) - 4)
            if gate is not None and gate(side, message):
                line.was_cut = True
                return
            if line.hold is not None:
                await line.hold(side, len(seen))
            if cut == len(seen):
                line.was_cut = True
                if line.half:
                    writer.write(message[: len(message) // 2])
                    await writer.drain()
                return
            again = len(seen) == (line.twice_client if side == "client" else line.twice_server)
            seen.append(message)
            writer.write(message * (1 + again))
            await writer.drain()
    except (asyncio.IncompleteReadError, OSError):
        return
