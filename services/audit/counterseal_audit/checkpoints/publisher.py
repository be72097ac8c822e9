"""The publisher: every interval, each log that has grown gets a signed checkpoint.

No database transaction stays open over a call to Vault. The lease only saves work: two publishers at once sign the same
prefix of the same log, since each signs nothing but what the stored entries add up to from the last signed checkpoint.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from counterseal.clock import Clock
from counterseal.errors import LogForked, LogFrozen, ServiceError
from counterseal.ids import IdSource
from counterseal.ledger.errors import VerificationError
from counterseal.rpc.ledger_wire import new_entry
from counterseal_audit.append.ledger import Ledger
from counterseal_audit.checkpoints import engine
from counterseal_audit.checkpoints.engine import Published
from counterseal_audit.checkpoints.heads import SignedHead, SignedHeads
from counterseal_audit.checkpoints.store import CheckpointStore
from counterseal_audit.database import CONNECTION_LOST
from counterseal_audit.logs.keys import LogSigner
from counterseal_audit.logs.store import Log, LogStore

log = logging.getLogger("counterseal.audit.checkpoints")


@dataclass(slots=True)
class Publisher:
    """Signs and stores checkpoints. owner: names this process in the leases.

    heartbeat_ms: after how long without a checkpoint an idle log gets a `log.heartbeat`.
    """

    logs: LogStore
    store: CheckpointStore
    ledger: Ledger
    signer: LogSigner
    heads: SignedHeads
    owner: str
    interval_ms: int
    lease_seconds: int
    heartbeat_ms: int
    clock: Clock
    new_id: IdSource

    async def run(self, stopping: asyncio.Event) -> None:
        """Publish every interval until `stopping`, and once more after it."""
        while not stopping.is_set():
            await self._guarded()
            try:
                await asyncio.wait_for(stopping.wait(), self.interval_ms / 1000)
            except TimeoutError:
                continue
        await self.ledger.settled()
        await self._guarded()
        await self.store.release(self.owner)

    async def publish_once(self) -> int:
        """Publish what is due; return how many checkpoints were signed."""
        logs = await self.logs.all(self.ledger.environment)
        sizes = await self.store.sizes() if logs else {}
        due = [one for one in logs if self._is_due(one, sizes[one.log_id])]
        if not due:
            return 0
        ours = await self.store.lease(sorted({one.bucket for one in due}), self.owner, self.lease_seconds)
        count = 0
        for one in due:
            known = self.heads.get(one.log_id)
            if known is None or known.size != sizes[one.log_id]:
                count += await self._publish(one, is_ours=one.bucket in ours)
            elif one.bucket in ours:
                await self._beat(one, known.size)
        return count

    def _is_due(self, one: Log, size: int) -> bool:
        """Tell whether a log has grown since its last checkpoint, or was idle for too long."""
        known = self.heads.get(one.log_id)
        return known is None or known.size != size or self.clock() - known.publish_time_ms >= self.heartbeat_ms

    async def _guarded(self) -> None:
        try:
            await self.publish_once()
        except ServiceError as error:
            log.warning("no checkpoint was published", extra={"reason": error.reason})
        except CONNECTION_LOST as error:
            log.warning("no checkpoint was published", extra={"reason": type(error).__name__})

    async def _publish(self, one: Log, *, is_ours: bool) -> int:
        last = await self.store.latest(one.log_id)
        if last is not None:
            self.heads.see(one.log_id, SignedHead(last.size, last.publish_time_ms))
        if not is_ours:
            return 0
        try:
            return await self._sign(one, last.published if last else None)
        except VerificationError as error:
            # Left out, and closed for appends in this process; the other logs go on.
            log.critical("log is forked: not signed", extra={"log_id": one.log_id, "why": error.message})
            (await self.ledger.open(one.tenant))[1].mark_forked(error.message)
            return 0

    async def _beat(self, one: Log, size: int) -> None:
        """Give an idle log an entry to sign: signing the same head again would be the same bytes, no sign of life."""
        beat = new_entry(
            "log.heartbeat",
            {"size": size},
            event_id=self.new_id(),
            event_time_ms=self.clock(),
            tenant=one.tenant,
            environment=one.environment,
        )
        with contextlib.suppress(LogForked, LogFrozen):  # such a log has no life to show; the others go on
            await self.ledger.record(beat)

    async def _sign(self, one: Log, last: Published | None) -> int:
        key = one.key
        head = await self.ledger.head(one)
        size = head.frontier.size
        frontier = engine.start_of(last, key)
        if size < frontier.size:
            engine.check_head(frontier, size, head.root)
        async for chunk in self.store.entries(one.log_id, frontier.size, size):
            frontier = engine.grow(frontier, chunk)
        engine.check_head(frontier, size, head.root)
        if last is not None and frontier.size == last.frontier.size:
            return 0
        text = engine.text_of(key, frontier)
        signature = await self.signer.sign(text.encode(), await self._version(key.public))
        note = engine.note_of(key, text, signature)
        await self.store.publish(one.log_id, Published(frontier, frontier.root(), note))
        self.heads.see(one.log_id, SignedHead(frontier.size, self.clock()))
        return 1

    async def _version(self, public: bytes) -> int:
        """Return the version of the transit key that this log's genesis entry names."""
        for version, candidate in (await self.signer.public_keys()).items():
            if candidate == public:
                return version
        raise VerificationError("no version of the log key is the one that the log's genesis entry names")
