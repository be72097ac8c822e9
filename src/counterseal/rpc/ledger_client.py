"""How producers append to the ledger: one long-lived stream, batches answered in order, receipts checked.

An append is idempotent on its event id, so a batch that went unanswered is sent again with the same ids. What the
ledger answers is not believed: the entry bytes must be the content that was sent, and hash to the leaf.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc

from counterseal.api.audit.v1 import ledger_pb2, ledger_pb2_grpc
from counterseal.canonical import JsonObject
from counterseal.errors import CheckpointStale, InputInvalid, LedgerUnavailable, LogForked, ServiceError, all_errors
from counterseal.ledger import entry as entries
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.fields import PSEUDONYM
from counterseal.ledger.tree import leaf_hash
from counterseal.rpc.ledger_wire import content_of
from counterseal.rpc.status import from_rpc_error

MAX_ENTRIES = 256
MAX_BATCH_BYTES = 2 << 20
TIMEOUT_SECONDS = 10.0
CONNECT_SECONDS = 2.5
"""How long a new stream waits for its connection: longer than the pause between two tries to connect (`rpc.tls`)."""
_DURABLE, _CHECKPOINTED = ledger_pb2.APPEND_MODE_DURABLE, ledger_pb2.APPEND_MODE_CHECKPOINTED

Channel = grpc.aio.Channel | Callable[[], grpc.aio.Channel]
"""The channel to audit, or a function that returns the current one (channels are replaced with certificates)."""


@dataclass(frozen=True, slots=True)
class Appended:
    """An entry in the ledger: its index, leaf hash (32 bytes) and exact bytes.

    shard: which of the tenant's logs it is in.
    pseudonyms: person as sent -> pseudonym as stored; `erasure.ordered` names people by it.
    signed_size: what the latest signed checkpoint covers, 0 for none; signed_time_ms: when it was signed.
    tlog_proof: the offline proof (C2SP tlog-proof), where more than DURABLE was asked for.
    """

    event_id: str
    index: int
    leaf_hash: bytes
    entry: bytes
    duplicate: bool
    signed_size: int
    signed_time_ms: int
    pseudonyms: Mapping[str, str]
    tlog_proof: bytes = b""
    shard: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry that the ledger did not take, and why."""

    event_id: str
    error: ServiceError


AppendOutcome = Appended | Refused


class LedgerClient:
    """Appends entries over one `AppendStream`; safe for concurrent use, batches keep the order of the calls."""

    def __init__(self, channel: Channel, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._channel: Callable[[], grpc.aio.Channel] = channel if callable(channel) else lambda: channel
        self._timeout = timeout_seconds
        self._stream: _Stream | None = None

    async def append(
        self,
        requests: Sequence[ledger_pb2.NewEntry],
        mode: "ledger_pb2.AppendMode.ValueType" = ledger_pb2.APPEND_MODE_DURABLE,
    ) -> list[AppendOutcome]:
        """Append entries in order and return one outcome per entry; each `Appended` is durable and checked.

        mode: what an entry must reach to count as appended. One that is durable but got no further in time is refused
        with CHECKPOINT_STALE; appending it again waits again.
        Raises LedgerUnavailable when no answer came in time (sending the same entries again is safe), another
        ServiceError when the whole batch was refused, LogForked when the answer is not what was sent.
        """
        outcomes: list[AppendOutcome] = []
        for batch in _batches(requests):
            results = await self._send(batch, mode)
            if len(results) != len(batch):
                raise LogForked(f"the ledger answered {len(results)} results to {len(batch)} entries")
            outcomes.extend(outcome_of(sent, result, mode) for sent, result in zip(batch, results, strict=True))
        return outcomes

    async def append_one(
        self, request: ledger_pb2.NewEntry, mode: "ledger_pb2.AppendMode.ValueType" = ledger_pb2.APPEND_MODE_DURABLE
    ) -> Appended:
        """Append one entry. Raises as `append`, and the ledger's own reason when the entry is refused."""
        (outcome,) = await self.append([request], mode)
        if isinstance(outcome, Refused):
            raise outcome.error
        return outcome

    async def prove(self, request: ledger_pb2.NewEntry, seconds: float) -> Appended:
        """Append one entry, or find it again, and return it with its offline proof once a signed checkpoint covers it.

        In a call of its own: batches of the stream are answered in order, so others would wait behind this one.
        Raises CheckpointStale when it is durable and no checkpoint came within `seconds`, otherwise as `append_one`.
        """
        stub = ledger_pb2_grpc.LedgerServiceStub(self._channel())
        call = ledger_pb2.AppendEntryRequest(entry=request, mode=_CHECKPOINTED)
        try:
            answer = await stub.AppendEntry(call, timeout=seconds)
        except grpc.RpcError as failure:
            raise from_rpc_error(failure, peer="audit") from None
        except grpc.aio.UsageError:  # the channel was closed: this process is ending
            raise LedgerUnavailable("the connection to the ledger is closed") from None
        outcome = outcome_of(request, answer.result, _CHECKPOINTED)
        if isinstance(outcome, Refused):
            raise outcome.error
        return outcome

    async def close(self) -> None:
        """End the stream; unanswered batches fail with LedgerUnavailable."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()

    async def _send(
        self, batch: Sequence[ledger_pb2.NewEntry], mode: "ledger_pb2.AppendMode.ValueType"
    ) -> Sequence[ledger_pb2.AppendResult]:
        for attempt in (1, 2):
            fresh = self._stream is None or self._stream.ended
            if fresh:
                self._stream = _Stream(self._channel())
            stream = self._stream
            assert stream is not None  # noqa: S101 (set above)
            try:
                async with asyncio.timeout(self._timeout):
                    return await stream.send(batch, mode)
            except TimeoutError:
                raise LedgerUnavailable("the ledger did not answer in time") from None
            except StreamEndedError as ended:
                # An old stream ends when its connection is retired: one new try, on a new stream, is no retry storm.
                if fresh or attempt == 2:
                    raise ended.error from None
        raise AssertionError("unreachable")


class StreamEndedError(Exception):
    """The append stream ended before the answer; `error` says why."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__(error.message)
        self.error = error


class _Stream:
    """One AppendStream call: a writer queue and a reader that answers waiting batches in order."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._outgoing: asyncio.Queue[ledger_pb2.AppendStreamRequest | None] = asyncio.Queue()
        self._waiting: deque[tuple[int, asyncio.Future[Sequence[ledger_pb2.AppendResult]]]] = deque()
        self._numbers = 0
        self.ended = False
        self._reader = asyncio.create_task(self._read(channel), name="ledger-append-stream")

    async def send(
        self, batch: Sequence[ledger_pb2.NewEntry], mode: "ledger_pb2.AppendMode.ValueType"
    ) -> Sequence[ledger_pb2.AppendResult]:
        self._numbers += 1
        future: asyncio.Future[Sequence[ledger_pb2.AppendResult]] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._numbers, future))
        self._outgoing.put_nowait(ledger_pb2.AppendStreamRequest(batch=self._numbers, entries=batch, mode=mode))
        return await future

    async def close(self) -> None:
        self._outgoing.put_nowait(None)
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader

    async def _requests(self) -> AsyncIterator[ledger_pb2.AppendStreamRequest]:
        while (request := await self._outgoing.get()) is not None:
            yield request

    async def _read(self, channel: grpc.aio.Channel) -> None:
        error: ServiceError = LedgerUnavailable("the ledger ended the stream")
        try:
            # After a refused connection gRPC fails every call until its next try; a ledger that has just (re)started
            # would be called unavailable although it serves. Past the limit the call below says what is wrong.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await channel.channel_ready()
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            async for answer in stub.AppendStream(self._requests()):
                self._answer(answer)
        except grpc.RpcError as failure:
            error = from_rpc_error(failure, peer="audit")
        except grpc.aio.UsageError:  # the channel was closed: this process is ending
            error = LedgerUnavailable("the connection to the ledger is closed")
        except LogForked as forked:
            error = forked
        finally:
            self.ended = True
            self._outgoing.put_nowait(None)  # gRPC's own task waits for the next request, and nobody would end it
            while self._waiting:
                _, future = self._waiting.popleft()
                if not future.done():
                    future.set_exception(StreamEndedError(error))

    def _answer(self, answer: ledger_pb2.AppendStreamResponse) -> None:
        number, future = self._waiting.popleft() if self._waiting else (0, None)
        if future is None or number != answer.batch:
            if future is not None:
                self._waiting.appendleft((number, future))
            raise LogForked(f"the ledger answered batch {answer.batch} where {number} was due")
        if future.done():  # its sender gave up waiting
            return
        if answer.HasField("failure"):
            future.set_exception(_error(answer.failure))
        else:
            future.set_result(answer.results)


def outcome_of(
    sent: ledger_pb2.NewEntry,
    result: ledger_pb2.AppendResult,
    mode: "ledger_pb2.AppendMode.ValueType" = ledger_pb2.APPEND_MODE_DURABLE,
) -> AppendOutcome:
    """Return what became of one entry, after checking the receipt against what was sent and what was asked for.

    Raises LogForked when the entry bytes are not the content that was sent or do not hash to the leaf.
    """
    if result.event_id != sent.event_id:
        raise LogForked("the ledger answered for another event than was sent", event_id=sent.event_id)
    if result.HasField("unmet") or (result.HasField("appended") and result.appended.reached < mode > _DURABLE):
        index = result.unmet.index if result.HasField("unmet") else result.appended.index
        wanted = ledger_pb2.AppendMode.Name(mode).removeprefix("APPEND_MODE_").lower()
        return Refused(sent.event_id, CheckpointStale(f"durable at index {index}, not {wanted} in time"))
    if not result.HasField("appended"):
        return Refused(sent.event_id, _error(result.refused))
    receipt = result.appended
    if leaf_hash(receipt.entry) != receipt.leaf_hash:
        raise LogForked("the ledger's leaf hash is not that of its entry bytes", event_id=sent.event_id)
    try:
        stored = dict(entries.parse(receipt.entry).document)
    except VerificationError as error:
        raise LogForked(f"the ledger's entry bytes are malformed: {error.message}", event_id=sent.event_id) from error
    stored.pop("srv")
    pseudonyms = _compare(content_of(sent), stored)
    if pseudonyms is None:
        raise LogForked("the ledger stored other content than was sent", event_id=sent.event_id)
    return Appended(
        sent.event_id,
        receipt.index,
        receipt.leaf_hash,
        receipt.entry,
        receipt.duplicate,
        receipt.signed_size,
        receipt.signed_time.ToMilliseconds() if receipt.HasField("signed_time") else 0,
        pseudonyms,
        receipt.tlog_proof,
        receipt.shard,
    )


def _compare(sent: JsonObject, stored: JsonObject) -> dict[str, str] | None:
    """Return person -> pseudonym when `stored` is `sent` with its people replaced, one for one; None otherwise."""
    people: list[str] = []

    def remember(person: str) -> str:
        people.append(person)
        return person

    entries.pseudonymise(sent, remember)
    found: dict[str, str] = {}

    def same(left: object, right: object) -> bool:
        if isinstance(left, dict) and isinstance(right, dict):
            return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
        if isinstance(left, list) and isinstance(right, list):
            return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
        if isinstance(left, str) and isinstance(right, str) and left in people and PSEUDONYM.fullmatch(right):
            return found.setdefault(left, right) == right
        return type(left) is type(right) and left == right

    return found if same(sent, stored) else None


def _batches(requests: Sequence[ledger_pb2.NewEntry]) -> list[list[ledger_pb2.NewEntry]]:
    batches: list[list[ledger_pb2.NewEntry]] = []
    room = 0
    for request in requests:
        size = request.ByteSize()
        if not batches or room < size or len(batches[-1]) == MAX_ENTRIES:
            batches.append([])
            room = MAX_BATCH_BYTES
        batches[-1].append(request)
        room -= size
    return batches


def _error(refusal: ledger_pb2.AppendRefusal) -> ServiceError:
    known = all_errors().get(refusal.reason_code)
    if known is None:
        return LedgerUnavailable(f"the ledger refused: {refusal.reason_code} {refusal.message}")
    return _plain(known, refusal.message)


def _plain(known: type[ServiceError], message: str) -> ServiceError:
    """Build an error of any class from text alone (`NotCanonical` has a constructor of its own)."""
    return InputInvalid(message) if known.reason == "NOT_CANONICAL" else known(message)
