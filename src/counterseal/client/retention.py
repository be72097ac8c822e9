"""A person's calls about the sealed part of entries: erase, hold, disclose, check. Mixed into `Person`."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc, retention_pb2_grpc
from counterseal.api.audit.v1 import retention_pb2 as pb
from counterseal.client.connection import Connection
from counterseal.client.tokens import Tokens

CHECK_SECONDS = 3600.0


class RetentionCalls:
    """Every method raises ServiceError."""

    _connection: Connection
    _tokens: Tokens

    async def erase(self, subject: str, note: str = "", request_digest: str = "") -> pb.EraseSubjectResponse:
        """Erase a person: the first call answers a digest, another person's call echoes it."""
        request = pb.EraseSubjectRequest(subject=subject, note=note)
        if request_digest:
            request.second_person.request_digest = request_digest
        return await self._retention("EraseSubject", request)  # type: ignore[no-any-return]

    async def erasures(self, job_id: str = "", *, unfinished_only: bool = False) -> list[pb.Erasure]:
        """Return the tenant's erasures, newest first, or the one of an id."""
        if job_id:
            return [(await self._retention("GetErasure", pb.GetErasureRequest(job_id=job_id), repeat=True)).erasure]
        found: list[pb.Erasure] = []
        page = ""
        while True:
            request = pb.ListErasuresRequest(unfinished_only=unfinished_only, page_token=page)
            answer = await self._retention("ListErasures", request, repeat=True)
            found.extend(answer.erasures)
            page = answer.next_page_token
            if not page:
                return found

    async def place_hold(self, note: str = "", **covers: str) -> pb.Hold:
        """Place a hold; covers: one of `subject`, `request_id`, `plan_digest`."""
        return (await self._retention("PlaceHold", pb.PlaceHoldRequest(note=note, **covers))).hold  # type: ignore[no-any-return]

    async def lift_hold(self, hold_id: str, note: str = "") -> pb.Hold:
        """Lift a hold."""
        return (await self._retention("LiftHold", pb.LiftHoldRequest(hold_id=hold_id, note=note))).hold  # type: ignore[no-any-return]

    async def holds(self, *, include_lifted: bool = False) -> list[pb.Hold]:
        """Return the tenant's holds, newest first."""
        found: list[pb.Hold] = []
        page = ""
        while True:
            request = pb.ListHoldsRequest(include_lifted=include_lifted, page_token=page)
            answer = await self._retention("ListHolds", request, repeat=True)
            found.extend(answer.holds)
            page = answer.next_page_token
            if not page:
                return found

    async def disclose(
        self,
        names: Sequence[str],
        purpose: str,
        note: str = "",
        *,
        index: int | None = None,
        event_id: str = "",
        shard: int | None = None,
    ) -> reader_pb2.DiscloseEntryResponse:
        """Return sealed fields of an entry, by index in a log (the newest) or event id; the log records it first."""
        request = reader_pb2.DiscloseEntryRequest(names=names, purpose=purpose, note=note, shard=shard)
        if index is not None:
            request.index = index
        else:
            request.event_id = event_id
        stub = reader_pb2_grpc.LedgerReaderServiceStub(self._connection.channel("audit"))
        token = await self._tokens.get()
        return await self._connection.call("audit", stub.DiscloseEntry, request, token=token)  # type: ignore[no-any-return]

    async def check_payloads(self) -> AsyncIterator[pb.CheckPayloadsResponse]:
        """Yield the progress of a check of every sealed field of the tenant."""
        stub = retention_pb2_grpc.RetentionServiceStub(self._connection.channel("audit"))
        token = await self._tokens.get()
        request = pb.CheckPayloadsRequest()
        async for page in self._connection.stream(
            "audit", stub.CheckPayloads, request, token=token, seconds=CHECK_SECONDS
        ):
            yield page

    async def _retention(self, method: str, request: Any, **options: Any) -> Any:
        stub = retention_pb2_grpc.RetentionServiceStub(self._connection.channel("audit"))
        token = await self._tokens.get()
        return await self._connection.call("audit", getattr(stub, method), request, token=token, **options)
