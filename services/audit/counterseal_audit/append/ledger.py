"""All logs of this environment, for appending: entries in, receipts out."""

import asyncio
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.clock import Clock
from counterseal.errors import InputInvalid, LedgerUnavailable, SealUnavailable, ServiceError
from counterseal.ids import IdSource
from counterseal.ledger import entry as entries
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import leaf_hash
from counterseal_audit.append.engine import Prepared, prepare, pseudonymiser
from counterseal_audit.append.mac import Head, HeadMac
from counterseal_audit.append.store import AppendStore
from counterseal_audit.append.writer import LogWriter, Receipt
from counterseal_audit.checkpoints.store import CheckpointStore
from counterseal_audit.database import CONNECTION_LOST
from counterseal_audit.logs.keys import HeadMacKey, LogSigner, PseudonymKeys
from counterseal_audit.logs.store import Log, LogStore


class Ledger:
    """Finds or creates the log of a tenant and hands entries to its writer."""

    def __init__(
        self,
        engine: AsyncEngine,
        pseudonyms: PseudonymKeys,
        mac_key: HeadMacKey,
        signer: LogSigner,
        *,
        environment: str,
        origin_domain: str,
        clock: Clock,
        new_id: IdSource,
    ) -> None:
        self.environment = environment
        self._logs = LogStore(engine)
        self._store = AppendStore(engine)
        self._checkpoints = CheckpointStore(engine)
        self._pseudonyms = pseudonyms
        self._mac_key = mac_key
        self._signer = signer
        self._origin_domain = origin_domain
        self._clock = clock
        self._new_id = new_id
        self._known: dict[str, tuple[Log, LogWriter]] = {}
        self._opening: dict[str, asyncio.Lock] = {}

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
            try:
                item = await self._prepare(request, producer)
                writers[request.tenant] = (await self.open(request.tenant))[1]
            except (LedgerUnavailable, SealUnavailable):
                raise
            except ServiceError as error:
                answers[position] = error
            else:
                groups.setdefault(request.tenant, []).append((position, item))
        for tenant, group in groups.items():
            writers[tenant].check_room(len(group), sum(len(item.entry) for _, item in group))
        for tenant, group in groups.items():
            futures = writers[tenant].submit([item for _, item in group])
            for (position, _), future in zip(group, futures, strict=True):
                answers[position] = future
        return [answer for answer in answers if answer is not None]

    async def record(self, request: ledger_pb2.NewEntry) -> None:
        """Append one entry of this service's own and wait until it is durable. Raises the reason of a refusal."""
        (answer,) = await self.submit([request], "audit")
        if isinstance(answer, ServiceError):
            raise answer
        await asyncio.shield(answer)

    async def open(self, tenant: str) -> tuple[Log, LogWriter]:
        """Return the tenant's log and its writer, creating the log with its genesis entry if there is none."""
        known = self._known.get(tenant)
        if known is not None:
            return known
        async with self._opening.setdefault(tenant, asyncio.Lock()):
            if tenant not in self._known:
                try:
                    log = await self._logs.find(tenant, self.environment) or await self._create(tenant)
                    signed = await self._checkpoints.latest(log.log_id)
                    mac = await self.mac_of(log)
                except CONNECTION_LOST as error:
                    raise LedgerUnavailable("the ledger's database does not answer") from error
                writer = LogWriter(log.log_id, self._store, mac)
                if signed is not None:  # a database older than its own checkpoints is not appended to
                    writer.remember(signed.size, signed.published.root)
                self._known[tenant] = (log, writer)
        return self._known[tenant]

    async def mac_of(self, log: Log) -> HeadMac:
        """Return what makes and checks the MACs of a log's heads."""
        return HeadMac(await self._mac_key.get(), log.origin)

    async def head(self, log: Log) -> Head:
        """Return a log's head. Raises VerificationError unless a replica wrote it."""
        head = await self._store.head(log.log_id)
        (await self.mac_of(log)).check(head)
        return head

    def writer_of(self, log_id: int) -> LogWriter | None:
        """Return the writer of a log that this process has opened."""
        return next((writer for log, writer in self._known.values() if log.log_id == log_id), None)

    async def settled(self) -> None:
        """Wait until every queue is empty."""
        for _, writer in list(self._known.values()):
            await writer.settled()

    async def _prepare(self, request: ledger_pb2.NewEntry, producer: str) -> Prepared:
        try:
            key = await self._pseudonyms.get(request.tenant)
        except CONNECTION_LOST as error:
            raise LedgerUnavailable("the ledger's database does not answer") from error
        except ValueError as error:  # a tenant that cannot be a name
            raise InputInvalid("the tenant is not a name", tenant=request.tenant[:64]) from error
        return prepare(
            request,
            producer=producer,
            environment=self.environment,
            receive_time_ms=self._clock(),
            person=pseudonymiser(key),
        )

    async def _create(self, tenant: str) -> Log:
        public = await self._signer.public_keys()
        if not public:
            raise SealUnavailable("there is no key to sign logs with")
        origin = f"{self._origin_domain}/{self._new_id().replace('-', '')}"
        try:
            key = VerifierKey.make(origin, public[max(public)])
        except VerificationError as error:
            raise SealUnavailable(f"the log key cannot be used: {error.message}") from error
        mac = HeadMac(await self._mac_key.get(), origin)
        return await self._logs.create(tenant, self.environment, key, self._genesis(tenant, key), mac.of)

    def _genesis(self, tenant: str, key: VerifierKey) -> Prepared:
        now = self._clock()
        content = {
            "v": entries.VERSION,
            "type": entries.GENESIS,
            "event_id": self._new_id(),
            "event_time_ms": now,
            "tenant": tenant,
            "environment": self.environment,
            "data": {"vkey": key.vkey, "shard": 0},
        }
        entries.check_content(content)
        data = entries.build(content, entries.Srv(now, "audit"))
        return Prepared(str(content["event_id"]), entries.request_hash(content), leaf_hash(data), data)
