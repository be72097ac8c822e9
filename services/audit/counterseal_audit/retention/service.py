"""RetentionService: from the wire to orders, checks and tails."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.api.audit.v1 import reader_pb2, retention_pb2_grpc
from counterseal.api.audit.v1 import retention_pb2 as pb
from counterseal.errors import InputInvalid, NotFound, RoleRequired
from counterseal.identity import Caller, current_caller
from counterseal.ids import is_id
from counterseal.ledger.fields import DIGEST, PSEUDONYM, WORD
from counterseal.rpc import paging
from counterseal_audit.append.engine import pseudonymiser
from counterseal_audit.logs.keys import PseudonymKeys
from counterseal_audit.logs.store import Log, LogStore
from counterseal_audit.payloads.checking import Checker
from counterseal_audit.reader.store import ReaderStore
from counterseal_audit.retention import convert, hold_store, job_store
from counterseal_audit.retention.database import transaction
from counterseal_audit.retention.engine import Covers
from counterseal_audit.retention.orders import Orders
from counterseal_audit.second_person import SecondPerson, Waiting, person_with

READ_SCOPE = "audit.read"
DEFAULT_PAGE, MAX_PAGE = 100, 1000
MAX_SUBJECT, MAX_NOTE = 256, 2000
MAX_FINDINGS = 100
TAIL_PAGE = 100
TAIL_POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 1.0
FOLLOWED = (b'"type":"erasure.ordered"', b'"type":"payload.erased"')


@dataclass(frozen=True, slots=True)
class RetentionServicer(retention_pb2_grpc.RetentionServiceServicer):
    """Orders of people, and the tail for the services that keep copies. roles: one of them is needed to order."""

    database: AsyncEngine
    logs: LogStore
    entries: ReaderStore
    orders: Orders
    checker: Checker
    people: SecondPerson
    pseudonyms: PseudonymKeys
    roles: frozenset[str]
    environment: str
    stopping: asyncio.Event

    async def EraseSubject(  # noqa: N802
        self,
        request: pb.EraseSubjectRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.EraseSubjectResponse:
        """Ask for an erasure, or order it as the second person."""
        caller = person_with(current_caller(), self.roles)
        person = await self._person(caller, request.subject)
        note = _note(request.note)
        content = {"method": "EraseSubject", "person": person}
        asked = await self.people.confirm(caller, content, request.second_person.request_digest)
        if isinstance(asked, Waiting):
            return pb.EraseSubjectResponse(second_person=convert.second_person(asked), person=person)
        job = await self.orders.erase(caller, person, asked.people, note)
        return pb.EraseSubjectResponse(erasure=convert.erasure(job), person=person)

    async def GetErasure(  # noqa: N802
        self,
        request: pb.GetErasureRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.GetErasureResponse:
        """Return one erasure."""
        caller = _reader()
        if not is_id(request.job_id):
            raise InputInvalid("job_id: expected a UUID in lower case")
        async with transaction(self.database) as conn:
            job = await job_store.job(conn, request.job_id, tenant=caller.tenant)
        if job is None:
            raise NotFound("no such erasure")
        return pb.GetErasureResponse(erasure=convert.erasure(job))

    async def ListErasures(  # noqa: N802
        self,
        request: pb.ListErasuresRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.ListErasuresResponse:
        """Return a page of erasures, newest first."""
        caller, most = _reader(), paging.size(request.page_size, DEFAULT_PAGE, MAX_PAGE)
        before = paging.read(request, caller.tenant)
        async with transaction(self.database) as conn:
            found = await job_store.jobs(
                conn, caller.tenant, unfinished_only=request.unfinished_only, before=before, most=most + 1
            )
        return pb.ListErasuresResponse(
            erasures=[convert.erasure(job) for job in found[:most]],
            next_page_token=paging.make(found[most - 1].job_id, request, caller.tenant) if len(found) > most else "",
        )

    async def PlaceHold(  # noqa: N802
        self,
        request: pb.PlaceHoldRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.PlaceHoldResponse:
        """Place a hold on a person's, a request's or a plan's payload."""
        caller = person_with(current_caller(), self.roles)
        match request.WhichOneof("covers"):
            case "subject":
                covers, value = Covers.PERSON, await self._person(caller, request.subject)
            case "request_id" if WORD.fullmatch(request.request_id):
                covers, value = Covers.REQUEST_ID, request.request_id
            case "plan_digest" if DIGEST.fullmatch(request.plan_digest):
                covers, value = Covers.PLAN_DIGEST, request.plan_digest
            case _:
                raise InputInvalid("a hold covers a subject, a request_id or a plan_digest")
        return pb.PlaceHoldResponse(
            hold=convert.hold(await self.orders.place(caller, covers, value, _note(request.note)))
        )

    async def LiftHold(  # noqa: N802
        self,
        request: pb.LiftHoldRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.LiftHoldResponse:
        """Lift a hold."""
        caller = person_with(current_caller(), self.roles)
        if not is_id(request.hold_id):
            raise InputInvalid("hold_id: expected a UUID in lower case")
        return pb.LiftHoldResponse(
            hold=convert.hold(await self.orders.lift(caller, request.hold_id, _note(request.note)))
        )

    async def ListHolds(  # noqa: N802
        self,
        request: pb.ListHoldsRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.ListHoldsResponse:
        """Return a page of holds, newest first."""
        caller, most = _reader(), paging.size(request.page_size, DEFAULT_PAGE, MAX_PAGE)
        before = paging.read(request, caller.tenant)
        async with transaction(self.database) as conn:
            found = await hold_store.holds(
                conn, caller.tenant, lifted=request.include_lifted, before=before, most=most + 1
            )
        return pb.ListHoldsResponse(
            holds=[convert.hold(row) for row in found[:most]],
            next_page_token=paging.make(found[most - 1].hold_id, request, caller.tenant) if len(found) > most else "",
        )

    async def CheckPayloads(  # noqa: N802
        self,
        request: pb.CheckPayloadsRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.CheckPayloadsResponse]:
        """Check every payload of the tenant, page by page."""
        logs = await self._logs(_reader().tenant)
        answer = pb.CheckPayloadsResponse(size=sum(size for _, size in logs))
        sent: Counter[str] = Counter()
        async for page in self.checker.check(logs):
            answer.checked_count += page.entries
            answer.intact_count += page.intact
            answer.declared_count += page.declared
            answer.finding_count += len(page.findings)
            del answer.findings[:]
            for one in page.findings:
                sent[one.kind] += 1
                if sent[one.kind] <= MAX_FINDINGS:  # of each kind: a hundred unfinished erasures hide no tampering
                    answer.findings.add(kind=one.kind, index=one.index, message=one.message)
            yield answer
            if self.stopping.is_set():
                return

    async def TailErasures(  # noqa: N802
        self,
        request: pb.TailErasuresRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.TailErasuresResponse]:
        """Stream orders and reports of every log from where the caller is."""
        positions = {place.origin: max(0, place.next_index) for place in request.positions}
        loop = asyncio.get_running_loop()
        beat = 0.0
        while not self.stopping.is_set():
            for log in await self.logs.all(self.environment):
                size = await self.entries.size(log.log_id)
                while (at := positions.get(log.origin, 0)) < size:
                    found, positions[log.origin] = await self._news(log, at, size)
                    yield pb.TailErasuresResponse(
                        tenant=log.tenant,
                        position=pb.LogPosition(origin=log.origin, next_index=positions[log.origin]),
                        entries=found,
                    )
            if loop.time() >= beat:
                yield pb.TailErasuresResponse()
                beat = loop.time() + HEARTBEAT_SECONDS
            await _pause(self.stopping, TAIL_POLL_SECONDS)

    async def _news(self, log: Log, at: int, size: int) -> tuple[list[reader_pb2.LedgerEntry], int]:
        """Return followed entries of `log` from index `at` on, and up to where it was read."""
        rows = [
            row
            for needle in FOLLOWED
            for row in await self.entries.page(log.log_id, at, TAIL_PAGE, [needle])
            if row.index < size
        ]
        rows.sort(key=lambda row: row.index)
        # Each needle gave its first rows: only up to the first full page's end nothing is missing.
        full = len(rows) >= TAIL_PAGE
        shown = rows[:TAIL_PAGE] if full else rows
        entries = [reader_pb2.LedgerEntry(index=r.index, entry=r.entry, leaf_hash=r.leaf_hash) for r in shown]
        return entries, shown[-1].index + 1 if full else size

    async def _logs(self, tenant: str) -> list[tuple[Log, int]]:
        """Return the tenant's logs, oldest shard first, each with its size now."""
        every = [log for log in await self.logs.all(self.environment) if log.tenant == tenant]
        return [(log, await self.entries.size(log.log_id)) for log in sorted(every, key=lambda log: log.shard)]

    async def _person(self, caller: Caller, subject: str) -> str:
        """Return the pseudonym of who is meant."""
        if not subject or len(subject) > MAX_SUBJECT or not subject.isprintable():
            raise InputInvalid("subject: expected a person such as user:ana, or a pseudonym")
        if PSEUDONYM.fullmatch(subject):
            return subject
        return pseudonymiser(await self.pseudonyms.get(caller.tenant))(subject)


def _reader() -> Caller:
    caller = current_caller()
    if caller.chain or READ_SCOPE not in caller.scope:
        raise RoleRequired("the token lacks the scope audit.read")
    return caller


def _note(text: str) -> str:
    if len(text) > MAX_NOTE:
        raise InputInvalid(f"note: at most {MAX_NOTE} characters")
    return text


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        return
