"""LedgerService: from the wire to the ledger and back. Who calls is the certificate's word, not the entry's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from counterseal.api.audit.v1 import ledger_pb2, ledger_pb2_grpc
from counterseal.errors import ContextMismatch, InputInvalid, ServiceError
from counterseal.identity import Caller, current_caller
from counterseal_audit.append import convert
from counterseal_audit.append.cover import DURABLE, STREAM_WAIT_SECONDS, WITNESSED, Cover, Wanted, seconds_of
from counterseal_audit.append.ledger import Ledger
from counterseal_audit.append.writer import Receipt
from counterseal_audit.checkpoints.heads import SignedHeads

MAX_ENTRIES = 1024
WINDOW_BATCHES = 32


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    """Appends for the services that the method table admits."""

    def __init__(self, ledger: Ledger, heads: SignedHeads, cover: Cover, stopping: asyncio.Event) -> None:
        self._ledger = ledger
        self._cover = cover
        self._heads = heads
        self._stopping = stopping

    async def AppendEntry(  # noqa: N802
        self,
        request: ledger_pb2.AppendEntryRequest,
        context: Any,
    ) -> ledger_pb2.AppendEntryResponse:
        """Append one entry; a refusal is the call's error."""
        answers = await self._submit([request.entry], request.mode, current_caller())
        if isinstance(answers[0], ServiceError):
            raise answers[0]
        await _settled(answers)
        answers[0].result()
        seconds = seconds_of(context.time_remaining())
        (result,) = await self._results([request.entry], answers, request.mode, seconds)
        return ledger_pb2.AppendEntryResponse(result=result)

    async def AppendBatch(  # noqa: N802
        self,
        request: ledger_pb2.AppendBatchRequest,
        context: Any,
    ) -> ledger_pb2.AppendBatchResponse:
        """Append entries in order, answered one by one."""
        answers = await self._submit(request.entries, request.mode, current_caller())
        seconds = seconds_of(context.time_remaining())
        return ledger_pb2.AppendBatchResponse(
            results=await self._results(request.entries, answers, request.mode, seconds)
        )

    async def AppendStream(  # noqa: N802
        self,
        request_iterator: AsyncIterator[ledger_pb2.AppendStreamRequest],
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[ledger_pb2.AppendStreamResponse]:
        """Append batch after batch: the next is queued while the one before it is being written."""
        window: asyncio.Queue[Any] = asyncio.Queue(WINDOW_BATCHES)
        reader = asyncio.create_task(self._read(request_iterator, current_caller(), window), name="append-stream")
        drain = asyncio.create_task(self._end_at_drain(window), name="append-stream-drain")
        try:
            while (item := await window.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield await self._respond(*item)
        finally:
            reader.cancel()
            drain.cancel()

    async def _end_at_drain(self, window: "asyncio.Queue[Any]") -> None:
        """End the stream behind what was taken by then; its producer opens another one elsewhere."""
        await self._stopping.wait()
        await window.put(None)

    async def _read(self, requests: AsyncIterator[ledger_pb2.AppendStreamRequest], caller: Caller, window: Any) -> None:
        """Queue batches as they come; the window ends with None, or with what went wrong."""
        expected = 1
        end: Exception | None = None
        try:
            async for request in requests:
                if request.batch != expected:
                    raise InputInvalid(f"batch {request.batch} where {expected} is due")
                expected += 1
                try:
                    answers: Any = await self._submit(request.entries, request.mode, caller)
                except ServiceError as error:
                    answers = error
                await window.put((request, answers))
        except Exception as error:  # noqa: BLE001 (handed over to the handler, which raises it)
            end = error
        await window.put(end)

    async def _respond(self, request: ledger_pb2.AppendStreamRequest, answers: Any) -> ledger_pb2.AppendStreamResponse:
        response = ledger_pb2.AppendStreamResponse(batch=request.batch)
        try:
            if isinstance(answers, ServiceError):
                raise answers
            response.results.extend(await self._results(request.entries, answers, request.mode, STREAM_WAIT_SECONDS))
        except ServiceError as error:
            response.failure.CopyFrom(convert.refusal(error))
        return response

    async def _submit(self, requests: Sequence[ledger_pb2.NewEntry], mode: int, caller: Caller) -> list[Any]:
        self._cover.check_mode(mode)
        if len(requests) > MAX_ENTRIES:
            raise InputInvalid(f"{len(requests)} entries; at most {MAX_ENTRIES} go into one batch")
        if caller.token is not None:
            for request in requests:
                _check_token(request, caller)
        return await self._ledger.submit(requests, caller.peer_kind.removeprefix("svc/"))

    async def _results(
        self, requests: Sequence[ledger_pb2.NewEntry], answers: Sequence[Any], mode: int, seconds: float
    ) -> list[ledger_pb2.AppendResult]:
        """Return one result per entry; a log that is closed or forked holds up no other. Raises what stopped all.

        seconds: how long entries that are durable may wait for what `mode` asks beyond that.
        """
        await _settled(answers)
        mode = self._cover.check_mode(mode)
        taken: dict[int, tuple[int, Receipt]] = {}
        results: list[ledger_pb2.AppendResult | None] = [None] * len(requests)
        for position, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            try:
                if isinstance(answer, ServiceError):
                    raise answer
                receipt = answer.result()
                log_id = receipt.log_id  # the closed log before the tenant's, where it is in that one
                if not log_id:
                    log_id = (self._ledger.at_hand(request.tenant) or await self._ledger.open(request.tenant))[0].log_id
                taken[position] = log_id, receipt
            except ServiceError as error:
                if error.code in ("UNAVAILABLE", "INTERNAL"):
                    raise
                results[position] = convert.refused(request.event_id, error)
        proven = {} if mode == DURABLE else await self._proven(requests, taken, mode, seconds)
        for position, (log_id, receipt) in taken.items():
            event_id, head = requests[position].event_id, self._heads.get(log_id)
            shard = self._ledger.shard_of(log_id)
            if mode == DURABLE:
                results[position] = convert.appended(event_id, shard, receipt, head)
            elif position in proven:
                results[position] = convert.appended(event_id, shard, receipt, head, *proven[position])
            else:
                results[position] = convert.unmet(event_id, shard, receipt, head)
        return [result for result in results if result is not None]

    async def _proven(
        self,
        requests: Sequence[ledger_pb2.NewEntry],
        taken: Mapping[int, tuple[int, Receipt]],
        mode: int,
        seconds: float,
    ) -> dict[int, "tuple[ledger_pb2.AppendMode.ValueType, bytes]"]:
        """Return how far each entry got and its proof, by position; without those that are behind what was asked."""
        groups: dict[int, dict[int, Wanted]] = {}
        for position, (log_id, receipt) in taken.items():
            groups.setdefault(log_id, {})[position] = Wanted(receipt.index, requests[position].disclosures)
        sizes = {log_id: max(one.index for one in group.values()) + 1 for log_id, group in groups.items()}
        proven: dict[int, tuple[ledger_pb2.AppendMode.ValueType, bytes]] = {}
        for log_id, checkpoint in (await self._cover.wait(sizes, mode, seconds)).items():
            proofs = await self._cover.proofs(log_id, list(groups[log_id].values()), checkpoint)
            reached = WITNESSED if checkpoint.published.witnessed else ledger_pb2.APPEND_MODE_CHECKPOINTED
            proven |= {position: (reached, proof) for position, proof in zip(groups[log_id], proofs, strict=True)}
        return proven


async def _settled(answers: Sequence[Any]) -> None:
    """Wait until every entry is written or refused. A caller that goes away stops none of them: the writer goes on."""
    for answer in answers:  # most are settled together: one wait for all of them
        if not isinstance(answer, ServiceError) and not answer.done():
            with contextlib.suppress(ServiceError):
                await answer


def _check_token(request: ledger_pb2.NewEntry, caller: Caller) -> None:
    """A token is not required, as an outbox delivers after it expired; where there is one, it must fit the entry."""
    if request.tenant != caller.tenant or (request.subject and request.subject != caller.subject):
        raise ContextMismatch("the entry is not of the token's tenant and subject")
