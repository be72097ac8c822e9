"""What freezing, continuing, adopting and rotating do; who may ask for it is the servicer's matter."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.canonical import media_type, pae
from counterseal.clock import Clock
from counterseal.errors import (
    IdempotencyKeyReused,
    InputInvalid,
    LogForked,
    NotFound,
    SealUnavailable,
    VersionMismatch,
    WrongState,
)
from counterseal.ids import IdSource, derived_id
from counterseal.ledger import entry as entries
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import Frontier
from counterseal.rpc.ledger_wire import new_entry
from counterseal_audit.append.ledger import Ledger
from counterseal_audit.append.mac import Head
from counterseal_audit.checkpoints import engine
from counterseal_audit.checkpoints.publisher import Publisher
from counterseal_audit.checkpoints.store import CheckpointStore, StoredCheckpoint
from counterseal_audit.logs.anchors import Anchor, AnchorMoved, Anchors
from counterseal_audit.logs.keys import LogSigner
from counterseal_audit.logs.store import Log, LogStore

log = logging.getLogger("counterseal.audit.admin")


@dataclass(frozen=True, slots=True)
class Rotated:
    """A rotation that was written: index of its entry, the new key, and its version in transit."""

    index: int
    key: VerifierKey
    version: int


@dataclass(slots=True)
class Operations:
    """The environment's logs, for operators."""

    logs: LogStore
    checkpoints: CheckpointStore
    ledger: Ledger
    publisher: Publisher
    anchors: Anchors
    signer: LogSigner
    clock: Clock
    new_id: IdSource

    async def newest(self, tenant: str) -> Log:
        """Return the tenant's newest log. Raises NotFound."""
        found = await self.logs.find(tenant, self.ledger.environment)
        if found is None:
            raise NotFound("the tenant has no log yet")
        return found

    async def freeze(self, one: Log, reason_code: str, people: Sequence[str]) -> int:
        """Close a log behind a last entry that says so; return its size. Raises LogFrozen, LogForked."""
        last = self._entry("log.frozen", {"reason_code": reason_code, "ordered_by": people}, one.tenant)
        receipt = await self.ledger.close(last)
        log.warning("a log was frozen", extra={"log_id": one.log_id, "reason": reason_code})
        return receipt.index + 1

    async def citation(self, one: Log, kept: bytes) -> str:
        """Return the digest of the checkpoint that a successor of this log cites, empty when nothing was ever signed.

        kept: a checkpoint that somebody kept, or nothing for the latest stored one.
        Raises WrongState while the log takes entries; InputInvalid for a kept checkpoint that is not one of this log.
        """
        last = await self.checkpoints.latest(one.log_id)
        await self._check_ended(one, last)
        note = await self._kept(one, kept, last) if kept else (last.published.public if last else b"")
        return f"sha256:{hashlib.sha256(note).hexdigest()}" if note else ""

    async def continue_behind(self, one: Log, predecessor: str, people: Sequence[str]) -> Log:
        """Begin the next shard and write who ordered it."""
        births = await self.anchors.births(one.tenant)
        shard = one.shard + 1
        while shard in births and births[shard].predecessor != predecessor:
            shard += 1  # a log that a lost database had begun
        made = await self.ledger.births.create(one.tenant, shard, predecessor)
        self.ledger.forget(one)
        await self.ledger.record(self._entry("log.heartbeat", {"size": 1, "ordered_by": people}, one.tenant))
        log.warning("a log was continued by another", extra={"log_id": one.log_id, "shard": shard})
        return made

    async def adoptable(self, one: Log) -> Head:
        """Return the head row that two people may adopt. Raises WrongState when there is nothing to adopt."""
        head = await self.ledger.stored_head(one)
        last = await self.checkpoints.latest(one.log_id)  # first: publishers move the anchor before they store
        anchor = (await self.anchors.read(one.bucket)).anchors.get(one.origin)
        if anchor is not None and (last is None or last.size <= anchor.size) and head.mac is not None:
            raise WrongState("the log's anchor is there and fits its last checkpoint: nothing to adopt")
        return head

    async def adopt(self, one: Log, size: int, root: bytes) -> int:
        """Anchor the head of `size` entries, after everything that can be checked was; return when (milliseconds).

        Checked: the MAC (but for rows of before there was one), all entry bytes against the last checkpoint, the
        adopted root and the head. Raises LogForked when something does not fit, VersionMismatch, SealUnavailable.
        """
        head = await self.adoptable(one)
        last = await self.checkpoints.latest(one.log_id)
        try:
            await self._check_whole(one, head, last, size, root)
        except VerificationError as error:
            raise LogForked(error.message) from error
        if head.mac is None and not await self.ledger.seal_head(one, head):
            raise VersionMismatch("the log grew meanwhile; try again")
        adopted = Anchor(size, root, self.clock())
        page = await self.anchors.read(one.bucket)
        try:
            await self.anchors.write_anew(one.bucket, page.advanced({one.origin: adopted}))
        except AnchorMoved:
            raise VersionMismatch("another log of the bucket was anchored meanwhile; try again") from None
        self.ledger.forget(one)
        log.critical("a log's head was adopted by two people", extra={"log_id": one.log_id, "size": size})
        return adopted.adopted

    async def record_adoption(self, one: Log, people: Sequence[str]) -> None:
        """Write into the log who adopted it."""
        beat = {"size": (await self.ledger.stored_head(one)).frontier.size, "ordered_by": people}
        await self.ledger.record(self._entry("log.heartbeat", beat, one.tenant))

    async def rotate(self, one: Log) -> Rotated:
        """Append the newest version of the transit key as the log's next key. Raises WrongState, SealUnavailable."""
        public = await self.signer.public_keys()
        if not public:
            raise SealUnavailable("there is no key to sign logs with")
        version = max(public)
        ring = await self.checkpoints.keyring(one)
        if public[version] in (key.public for key in ring.keys):
            raise WrongState(
                "the newest version of the log key is this log's key already; rotate the key in Vault first"
            )
        try:
            key = VerifierKey.make(one.origin, public[version])
        except VerificationError as error:
            raise SealUnavailable(f"the log key cannot be used: {error.message}") from error
        data = {
            "kind": "log",
            "name": one.origin,
            "version": str(version),
            "public_key": key.public.hex(),
            "state": "active",
        }
        # The same key is one event, so that two operators at once rotate once.
        event_id = derived_id(pae(media_type("event-id"), entries.encode({"type": "key.rotated", **data})))
        try:
            receipt = await self.ledger.record(self._entry("key.rotated", data, one.tenant, event_id))
        except IdempotencyKeyReused:
            raise WrongState("the log is being rotated to this key; the next checkpoint covers it") from None
        return Rotated(receipt.index, key, version)

    async def _check_ended(self, one: Log, last: StoredCheckpoint | None) -> None:
        """Raise WrongState unless a log is frozen and signed to its end, or proven to be forked."""
        why = await self.publisher.examine(one)
        if why is not None:
            return
        head = await self.ledger.stored_head(one)
        if head.open:
            raise WrongState("the log takes entries and is sound; freeze it first")
        if last is None or last.size < head.frontier.size:
            raise WrongState("the log's end is not signed yet; try again in a moment")

    async def _kept(self, one: Log, kept: bytes, last: StoredCheckpoint | None) -> bytes:
        ring = await self.checkpoints.keyring(one)
        try:
            found = open_checkpoint(kept, ring.keys)
        except VerificationError as error:
            raise InputInvalid(f"predecessor_checkpoint: {error.message}") from error
        if found.origin != one.origin:
            raise InputInvalid("predecessor_checkpoint: it is of another log")
        if last is not None and found.size < last.size:
            raise InputInvalid(f"predecessor_checkpoint: the database holds a later one, of {last.size} entries")
        return kept

    async def _check_whole(self, one: Log, head: Head, last: StoredCheckpoint | None, size: int, root: bytes) -> None:
        if head.mac is not None:
            (await self.ledger.mac_of(one)).check(head)
        signed = last.size if last else 0
        if not signed <= size <= head.frontier.size:
            raise VerificationError(f"the adopted head must have {signed} to {head.frontier.size} entries")
        start = engine.start_of(last.published if last else None, (await self.checkpoints.keyring(one)).keys)
        # The adopted head may be the signed one, or the present one: each must hold.
        wanted = sorted([(signed, start.root()), (size, root), (head.frontier.size, head.root)])
        frontier = Frontier()
        for end, expected in wanted:
            async for chunk in self.checkpoints.entries(one.log_id, frontier.size, end):
                frontier = engine.grow(frontier, chunk)
            engine.check_head(frontier, end, expected)

    def _entry(self, kind: str, data: Mapping[str, Any], tenant: str, event_id: str = "") -> ledger_pb2.NewEntry:
        return new_entry(
            kind,
            data,
            event_id=event_id or self.new_id(),
            event_time_ms=self.clock(),
            tenant=tenant,
            environment=self.ledger.environment,
        )
