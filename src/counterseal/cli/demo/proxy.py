"""A network between the executor and the shop's database that can hold an answer back.

It stands where a real network stands, and speaks only enough of PostgreSQL's protocol to see messages pass. Nothing in
the services knows of it.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field

from counterseal.embedded.ports import LOOPBACK

_TLS_REQUEST = (80877103).to_bytes(4, "big")
"""The body of the packet that asks for TLS; after the server's "no" the start-up packet follows."""


@dataclass(slots=True)
class Held:
    """One answer that is held back. `answered`: the server's answer is here, so what was asked has happened there."""

    answered: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Line:
    seen: bool = False
    hold: Held | None = None


@dataclass(frozen=True, slots=True)
class _Trap:
    """Catch a message that holds `text`, on a connection where `after` has passed before."""

    text: bytes
    after: bytes
    held: Held


class HoldingProxy:
    """Passes connections on to one server; `hold` catches the answer to the next message that holds a text."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.upstream: tuple[str, int] = (LOOPBACK, 0)
        self._trap: _Trap | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; port 0 becomes the port that was free."""
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hold(self, text: bytes, *, after: bytes = b"") -> Held:
        """Hold the answer to the next client message that contains `text`, until it is released or the line ends.

        after: only on a connection on which a message with this text has passed before.
        """
        self._trap = _Trap(text, after, Held())
        return self._trap.held

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (a handler runs in a task)
        self._tasks.add(task)
        up_reader, up_writer = await asyncio.open_connection(*self.upstream)
        line = _Line()
        asked = asyncio.create_task(self._ask(reader, up_writer, line))
        answered = asyncio.create_task(_answer(up_reader, writer, line))
        try:
            # When only the client is gone the server's side stays open, as with a broken network: a transaction
            # there goes on until somebody ends it.
            await asyncio.wait((asked, answered), return_when=asyncio.FIRST_COMPLETED)
            if line.hold is not None and not answered.done():
                await answered
        finally:
            for pump in (asked, answered):
                pump.cancel()
            await asyncio.gather(asked, answered, return_exceptions=True)
            for stream in (writer, up_writer):
                stream.transport.abort()
            self._tasks.discard(task)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: _Line) -> None:
        """Pass the client's messages on, one by one; start-up packets have no type byte."""
        head = b""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                size = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(size) - 4)
                message = head + size + body
                self._spring(message, line)
                writer.write(message)
                await writer.drain()
                head = b"" if not head and body == _TLS_REQUEST else await reader.readexactly(1)

    def _spring(self, message: bytes, line: _Line) -> None:
        trap = self._trap
        if trap is None:
            return
        if trap.text in message and (line.seen or not trap.after):
            line.hold, self._trap = trap.held, None
        line.seen = line.seen or bool(trap.after and trap.after in message)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: _Line) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            if line.hold is not None:
                line.hold.answered.set()
                rest = await _until_released(reader, line.hold)
                if rest is None:
                    return
                data, line.hold = data + rest, None
            writer.write(data)
            await writer.drain()


async def _until_released(reader: asyncio.StreamReader, hold: Held) -> bytes | None:
    """Return what else came from the server until the release; None when it ended the line before."""
    rest = b""
    released = asyncio.create_task(hold.released.wait())
    try:
        while True:
            more = asyncio.create_task(reader.read(65_536))
            await asyncio.wait((more, released), return_when=asyncio.FIRST_COMPLETED)
            if not more.done():
                more.cancel()
                await asyncio.gather(more, return_exceptions=True)  # one reader at a time
                return rest
            if not more.result():
                return None
            rest += more.result()
    finally:
        released.cancel()
