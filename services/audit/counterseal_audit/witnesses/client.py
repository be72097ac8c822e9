"""One witness, asked over HTTP (C2SP tlog-witness, add-checkpoint)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import aiohttp

from counterseal.ledger import witness
from counterseal.ledger.encoding import parse_decimal
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey

MAX_ANSWER_BYTES = 1 << 16
TRIES = 3
"""The first may not know the witness's last size; another caller may move it between the second and the third."""

Prove = Callable[[int, int], Awaitable[Sequence[bytes]]]
"""Returns the consistency proof between two sizes of the log in question."""

log = logging.getLogger("counterseal.audit.witnesses")


class NotCosigned(Exception):
    """The witness did not cosign; says why, without anything that the witness sent."""


class WitnessClient:
    """Asks one witness, and remembers the size at which it stands for each log."""

    def __init__(self, name: str, key: VerifierKey, url: str) -> None:
        self.name = name
        self.key = key
        self._url = f"{url.rstrip('/')}/{witness.ADD_CHECKPOINT}"
        self._sizes: dict[str, int] = {}

    async def cosign(
        self, session: aiohttp.ClientSession, origin: str, note: bytes, size: int, prove: Prove
    ) -> list[str]:
        """Return the witness's signature lines over `note`, verified. Raises NotCosigned."""
        try:
            for _ in range(TRIES):
                old = self._sizes.get(origin, 0)
                if old > size:
                    raise NotCosigned(f"it cosigned {old} entries already, this head has {size}")
                proof = await prove(old, size) if 0 < old < size else ()
                status, kind, body = await self._post(session, witness.AddCheckpoint(old, tuple(proof), note))
                if status == 200:
                    lines = witness.cosignatures(note, body, self.key)
                    self._sizes[origin] = size
                    return lines
                if status != witness.CONFLICT or kind != witness.SIZE_TYPE:
                    raise NotCosigned(f"it answers with status {status}")
                self._sizes[origin] = parse_decimal(body.decode("ascii", "replace").removesuffix("\n"), "the size")
        except VerificationError as error:
            raise NotCosigned(f"its answer is not usable: {error.message}") from None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise NotCosigned(f"it cannot be asked: {type(error).__name__}") from None
        raise NotCosigned("its last size changes with every request")

    async def _post(self, session: aiohttp.ClientSession, request: witness.AddCheckpoint) -> tuple[int, str, bytes]:
        async with session.post(self._url, data=request.serialize(), allow_redirects=False) as response:
            body = await response.content.read(MAX_ANSWER_BYTES + 1)
            while len(body) <= MAX_ANSWER_BYTES and (more := await response.content.read(MAX_ANSWER_BYTES)):
                body += more
            if len(body) > MAX_ANSWER_BYTES:
                raise NotCosigned("its answer is too long")
            return response.status, response.headers.get("Content-Type", "").lower(), body


async def first_suffices(
    tasks: set["asyncio.Task[None]"], is_met: Callable[[], bool], seconds: float, linger: float
) -> None:
    """Wait for tasks until all are done or `seconds` are over; once `is_met`, at most `linger` seconds longer."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    pending = tasks
    was_met = False
    while pending:
        _, pending = await asyncio.wait(
            pending, timeout=max(0.0, end - loop.time()), return_when=asyncio.FIRST_COMPLETED
        )
        if loop.time() >= end:
            return
        if is_met() and not was_met:
            was_met, end = True, min(end, loop.time() + linger)
