"""Writers: producers with streams and windows, and lock-step callers of the unary RPC. Each sends until it is answered.

A request that went unanswered is sent again, with the same bytes, to the next replica, as an outbox does.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from bench.hammer.book import Book
from bench.hammer.traffic import Mix, Planned
from bench.stacks import Replicas
from counterseal.api.audit.v1 import ledger_pb2, ledger_pb2_grpc
from counterseal.errors import ServiceError
from counterseal.rpc.ledger_client import Appended, AppendOutcome, LedgerClient, Refused, outcome_of
from counterseal.rpc.status import from_rpc_error

RETRIED = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"})
TIMEOUT_SECONDS = 10.0
PAUSE_SECONDS = 0.05
PATIENCE_SECONDS = 60.0
"""For how long after the end of the load an answer is waited for."""
LATENCIES = 200_000


@dataclass(slots=True)
class Pace:
    """Holds writers to `rate` entries a second together; None: as fast as it goes."""

    rate: float | None
    _due: float = 0.0

    async def wait(self, count: int) -> None:
        """Wait until `count` more entries are due."""
        if self.rate is None:
            return
        now = time.monotonic()
        self._due = max(self._due, now - 1.0) + count / self.rate  # what was missed by more than a second is forgiven
        await asyncio.sleep(max(0.0, self._due - now))


@dataclass(slots=True)
class Field:
    """What all writers share: replicas, book, traffic, pace, and when to stop."""

    replicas: Replicas
    book: Book
    mix: Mix
    pace: Pace
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    retries: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    _stop_time: float | None = None

    @property
    def out_of_patience(self) -> bool:
        """Whether what is still unanswered counts as never answered."""
        if not self.stop.is_set():
            return False
        self._stop_time = self._stop_time or time.monotonic()
        return time.monotonic() - self._stop_time > PATIENCE_SECONDS

    def sending(self, batch: Sequence[Planned]) -> None:
        """Note what is sent for the first time."""
        for one in batch:
            if one.kind == "fresh":
                self.book.sending(one.request.event_id)

    def settle(self, planned: Planned, outcome: AppendOutcome) -> None:
        """Enter one answer into the book."""
        if planned.kind == "other":
            self.book.reuse(planned.request.event_id, outcome.error.reason if isinstance(outcome, Refused) else "")
        elif isinstance(outcome, Appended):
            self.book.acknowledged(outcome.event_id, outcome.index, outcome.leaf_hash, duplicate=outcome.duplicate)
            self.mix.taken(planned.request)
        else:
            self.book.refused(outcome.event_id, outcome.error.reason)

    def took(self, seconds: float) -> None:
        """Note how long an answer took."""
        if len(self.latencies_ms) < LATENCIES:
            self.latencies_ms.append(seconds * 1000)

    def give_up(self, why: str) -> None:
        """Note what cannot be, and end the run: there is nothing to wait for."""
        self.book.contradictions.add(why)
        self.stop.set()


class StreamWriter:
    """A producer on one stream, `window` batches in flight; after a failure it moves on to the next replica."""

    def __init__(self, ground: Field, number: int, batch: int, window: int) -> None:
        self._ground = ground
        self._at = number % len(ground.replicas.all)
        self._batch = batch
        self._window = window
        self._client = self._open()

    async def run(self) -> None:
        """Write until told to stop and every batch is answered."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._window):
                    group.create_task(self._send_batches())
        finally:
            await self._client.close()

    async def _send_batches(self) -> None:
        ground = self._ground
        while not ground.stop.is_set():
            batch = [ground.mix.next() for _ in range(self._batch)]
            ground.sending(batch)
            await ground.pace.wait(len(batch))
            began = time.perf_counter()
            try:
                outcomes = await self._answered(batch)
            except ServiceError as error:
                ground.give_up(f"a batch was refused: {error.reason} {error.message}")
                return
            ground.took(time.perf_counter() - began)
            for planned, outcome in zip(batch, outcomes, strict=True):
                ground.settle(planned, outcome)

    async def _answered(self, batch: Sequence[Planned]) -> Sequence[AppendOutcome]:
        while True:
            client = self._client
            try:
                return await client.append([one.request for one in batch])
            except ServiceError as error:
                if error.code not in RETRIED or self._ground.out_of_patience:
                    raise
                self._ground.retries += 1
            if client is self._client:  # the first of the window's batches moves them all
                self._at = (self._at + 1) % len(self._ground.replicas.all)
                self._client = self._open()
                with contextlib.suppress(Exception):
                    await client.close()
            await asyncio.sleep(PAUSE_SECONDS)

    def _open(self) -> LedgerClient:
        return LedgerClient(self._ground.replicas.channels[self._at], timeout_seconds=TIMEOUT_SECONDS)


class UnaryWriter:
    """A lock-step caller with a plan stream of its own: the n-th entry is sent when the one before it is answered."""

    def __init__(self, ground: Field, number: int, run_id: str) -> None:
        self._ground = ground
        self._at = number % len(ground.replicas.all)
        self._stream = f"plan:{run_id}-{number}"

    async def run(self) -> None:
        """Write until told to stop."""
        ground, seq = self._ground, 1
        while not ground.stop.is_set():
            planned = ground.mix.next(self._stream, seq)
            seq += planned.kind == "fresh"
            ground.sending([planned])
            await ground.pace.wait(1)
            began = time.perf_counter()
            try:
                outcome = await self._answered(planned.request)
            except ServiceError as error:  # the answer is not what was sent
                ground.give_up(f"{error.reason} {error.message}")
                return
            ground.took(time.perf_counter() - began)
            ground.settle(planned, outcome)

    async def _answered(self, entry: ledger_pb2.NewEntry) -> AppendOutcome:
        request = ledger_pb2.AppendEntryRequest(entry=entry, mode=ledger_pb2.APPEND_MODE_DURABLE)
        while True:
            stub: Any = ledger_pb2_grpc.LedgerServiceStub(self._ground.replicas.channels[self._at])
            try:
                answer = await stub.AppendEntry(request, timeout=TIMEOUT_SECONDS)
                return outcome_of(entry, answer.result)
            except grpc.aio.AioRpcError as failure:
                error = from_rpc_error(failure, peer="audit")
            if error.code not in RETRIED or self._ground.out_of_patience:
                return Refused(entry.event_id, error)
            self._ground.retries += 1
            self._at = (self._at + 1) % len(self._ground.replicas.all)
            await asyncio.sleep(PAUSE_SECONDS)
