"""All logs of this environment, for appending: entries in, receipts out."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.clock import Clock
from counterseal.errors import AnchorMissing, InputInvalid, LedgerUnavailable, SealUnavailable, ServiceError
from counterseal.ledger.fields import Rename
from counterseal_audit.append.engine import Prepared, SealedPayload, check, make, pseudonymiser
from counterseal_audit.append.mac import Head, HeadMac
from counterseal_audit.append.predecessors import Predecessors
from counterseal_audit.append.store import AppendStore
from counterseal_audit.append.writer import LogWriter, Receipt
from counterseal_audit.checkpoints.store import CheckpointStore
from counterseal_audit.database import CONNECTION_LOST
from counterseal_audit.logs.anchors import Anchors
from counterseal_audit.logs.births import Births
from counterseal_audit.logs.keys import HeadMacKey, PseudonymKeys
from counterseal_audit.logs.store import Log, LogStore
from counterseal_audit.payloads.sealing import Sealing


@dataclass(frozen=True, slots=True)
class Forked:
    """Why a log takes no entries, and how often its head had been adopted by two people at that time."""

    message: str
    adopted: int


class Ledger:
    """Finds or creates the log of a tenant and hands entries to its writer."""

    def __init__(
        self,
        engine: AsyncEngine,
        pseudonyms: PseudonymKeys,
        mac_key: HeadMacKey,
        anchors: Anchors,
        births: Births,
        sealing: Sealing,
        *,
        environment: str,
        clock: Clock,
    ) -> None:
        self.environment = environment
        self.anchors = anchors
        self.births = births
        self._logs = LogStore(engine)
        self._store = AppendStore(engine)
        self._checkpoints = CheckpointStore(engine)
        self._pseudonyms = pseudonyms
        self._mac_key = mac_key
        self._sealing = sealing
        self._clock = clock
        self._known: dict[str, tuple[Log, LogWriter]] = {}
        self._people: dict[str, Rename] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._forked: dict[int, Forked] = {}
        self._shards: dict[int, int] = {}

    async def submit(
        self, requests: Sequence[ledger_pb2.NewEntry], producer: str
    ) -> "list[asyncio.Future[Receipt] | ServiceError]":
        """Queue entries in order. Each becomes a future, or the error for which it was refused before any write.

        Raises QueueFull when they do not all fit; LedgerUnavailable, SealUnavailable when database or Vault are away:
        nothing was queued then.
        """
        answers: list[asyncio.Future[Receipt] | ServiceError | None] = [None] * len(requests)
        groups: dict[str, list[tuple[int, Prepared]]] = {}
        writers: dict[str, LogWriter] = {}
        for position, request in enumerate(requests):
            tenant = request.tenant
            try:
                person = self._people.get(tenant) or await self._learn_people(tenant)
                item, writers[tenant] = await self._prepared(request, producer, person)
            except (LedgerUnavailable, SealUnavailable):
                raise
            except ServiceError as error:
                answers[position] = error
            else:
                groups.setdefault(tenant, []).append((position, item))
        for tenant, group in groups.items():
            writers[tenant].check_room(len(group), sum(item.weight for _, item in group))
        for tenant, group in groups.items():
            futures = writers[tenant].submit([item for _, item in group])
            for (position, _), future in zip(group, futures, strict=True):
                answers[position] = future
        return [answer for answer in answers if answer is not None]

    async def record(self, request: ledger_pb2.NewEntry) -> Receipt:
        """Append one entry of this service's own and wait until it is durable. Raises the reason of a refusal."""
        (answer,) = await self.submit([request], "audit")
        if isinstance(answer, ServiceError):
            raise answer
        return await asyncio.shield(answer)

    async def close(self, request: ledger_pb2.NewEntry) -> Receipt:
        """Append the last entry of a tenant's log and close it. Raises as `LogWriter.close_with`."""
        _, writer = await self.open(request.tenant)
        return await writer.close_with(await self._prepare(request, "audit"))

    async def stored_head(self, log: Log) -> Head:
        """Return a log's head row as it is, without believing it."""
        return await self._store.head(log.log_id)

    async def seal_head(self, log: Log, head: Head) -> bool:
        """Give a head of before heads had MACs its own; False when it moved meanwhile."""
        mac = (await self.mac_of(log)).of(head.frontier, is_open=head.open)
        return await self._store.seal_head(log.log_id, head, mac)

    def at_hand(self, tenant: str) -> tuple[Log, LogWriter] | None:
        """Return what `open` would return without waiting for anything, None when it would have to wait."""
        known = self._known.get(tenant)
        return None if known is None or known[1].closed else known

    async def open(self, tenant: str) -> tuple[Log, LogWriter]:
        """Return the tenant's log and its writer, creating the log with its genesis entry if there is none.

        The first time, the log's anchor is read: a database that is older than it takes no entry.
        Raises LedgerUnavailable, SealUnavailable, AnchorMissing; LogForked for a log that was wiped.
        """
        at_hand = self.at_hand(tenant)
        if at_hand is not None:
            return at_hand
        async with self._opening.setdefault(tenant, asyncio.Lock()):
            known = self._known.get(tenant)
            if known is None or known[1].closed:  # closed: another replica may have opened the next shard
                try:
                    log = await self._logs.find(tenant, self.environment) or await self.births.create(tenant)
                    if known is None or known[0].log_id != log.log_id:
                        self._known[tenant] = (log, await self._writer(log))
                except CONNECTION_LOST as error:
                    raise LedgerUnavailable("the ledger's database does not answer") from error
        return self._known[tenant]

    async def _writer(self, log: Log) -> LogWriter:
        signed = await self._checkpoints.latest(log.log_id)  # first: publishers move the anchor before they store
        anchor = (await self.anchors.read(log.bucket)).anchors.get(log.origin)
        if anchor is None:
            raise AnchorMissing
        if signed is not None and anchor.size < signed.size:
            raise AnchorMissing("the log's anchor is older than its last signed checkpoint")
        before = None
        if log.shard:
            shards = await self._logs.shards(log.tenant, self.environment)
            self._shards.update((one.log_id, one.shard) for one in shards)
            older = [one.log_id for one in reversed(shards) if one.shard < log.shard]
            before = Predecessors(self._store, older, log.create_time_ms)
        writer = LogWriter(log.log_id, self._store, await self.mac_of(log), before)
        writer.remember(anchor.size, anchor.root)
        writer.adopted = anchor.adopted
        why = self._forked.get(log.log_id)
        if why is not None:
            writer.mark_forked(why.message)
        return writer

    async def mac_of(self, log: Log) -> HeadMac:
        """Return what makes and checks the MACs of a log's heads."""
        return HeadMac(await self._mac_key.get(), log.origin)

    async def head(self, log: Log) -> Head:
        """Return a log's head.

        Raises VerificationError unless a replica wrote it and it is no older than what this process saw.
        """
        writer = self.writer_of(log.log_id)
        floor = writer.seen if writer is not None else None
        head = await self._store.head(log.log_id)
        if writer is not None and floor is not None:
            writer.check(head, floor)
        else:
            (await self.mac_of(log)).check(head)
        return head

    def shard_of(self, log_id: int) -> int:
        """Return which of its tenant's logs it is that an entry was appended to, or found in."""
        return self._shards.get(log_id, 0)

    def writer_of(self, log_id: int) -> LogWriter | None:
        """Return the writer of a log that this process has opened."""
        return next((writer for log, writer in self._known.values() if log.log_id == log_id), None)

    def mark_forked(self, log: Log, why: str, adopted: int) -> None:
        """Take no more entries for a log. adopted: how often its head had been adopted by then."""
        self._forked[log.log_id] = Forked(why, adopted)
        writer = self.writer_of(log.log_id)
        if writer is not None:
            writer.mark_forked(why)

    def forked(self, log: Log) -> "Forked | None":
        """Return why a log is taken for forked, None when it is not."""
        writer = self.writer_of(log.log_id)
        if writer is not None and writer.forked is not None and log.log_id not in self._forked:
            self._forked[log.log_id] = Forked(writer.forked, writer.adopted)
        return self._forked.get(log.log_id)

    def forget(self, log: Log) -> None:
        """Judge a log anew at its next use: its head was adopted, or the tenant has another shard."""
        self._forked.pop(log.log_id, None)
        known = self._known.get(log.tenant)
        if known is not None and known[0].log_id == log.log_id:
            del self._known[log.tenant]

    async def settled(self) -> None:
        """Wait until every queue is empty."""
        for _, writer in list(self._known.values()):
            await writer.settled()

    async def _prepare(self, request: ledger_pb2.NewEntry, producer: str) -> Prepared:
        person = self._people.get(request.tenant) or await self._learn_people(request.tenant)
        return (await self._prepared(request, producer, person))[0]

    async def _learn_people(self, tenant: str) -> Rename:
        """Return what replaces a tenant's people by pseudonyms; kept as long as the key in memory."""
        try:
            person = self._people[tenant] = pseudonymiser(await self._pseudonyms.get(tenant))
            return person
        except CONNECTION_LOST as error:
            raise LedgerUnavailable("the ledger's database does not answer") from error
        except ValueError as error:  # a tenant that cannot be a name
            raise InputInvalid("the tenant is not a name", tenant=tenant[:64]) from error

    async def _prepared(
        self, request: ledger_pb2.NewEntry, producer: str, person: Rename
    ) -> tuple[Prepared, LogWriter]:
        """Check, then seal: a tenant's log is made for an entry that it will take."""
        content = check(request, producer=producer, environment=self.environment, person=person)
        log, writer = self.at_hand(request.tenant) or await self.open(request.tenant)
        now = self._clock()
        payload: tuple[SealedPayload, ...] = ()
        if request.disclosures or request.retention:
            payload = await self._sealing.seal(log, content, request.disclosures, request.retention, now)
        item = make(content, producer=producer, receive_time_ms=now, retention=request.retention, payload=payload)
        return item, writer
