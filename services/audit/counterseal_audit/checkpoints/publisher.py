"""The publisher: every interval, each log that has grown gets a signed checkpoint; at once when somebody waits.

No database transaction stays open over a call to Vault. Leases only save work; what keeps two publishers, a publisher
that woke up late, and a restored database from signing two histories is the anchor: it is moved by compare-and-set
before anything is signed, and nothing is signed that does not lead through it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from counterseal.canonical import media_type, pae
from counterseal.clock import Clock
from counterseal.errors import AnchorMissing, IdempotencyKeyReused, LogForked, LogFrozen, ServiceError
from counterseal.ids import IdSource, derived_id
from counterseal.ledger import entry as entries
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import Frontier
from counterseal.rpc.ledger_wire import new_entry
from counterseal_audit.append.ledger import Ledger
from counterseal_audit.checkpoints import engine
from counterseal_audit.checkpoints.demand import Demand
from counterseal_audit.checkpoints.engine import Published, Rotation
from counterseal_audit.checkpoints.heads import SignedHead, SignedHeads
from counterseal_audit.checkpoints.seams import OnPublished, Witnesses
from counterseal_audit.checkpoints.store import CheckpointStore, HeadSize, Signed, StoredCheckpoint
from counterseal_audit.database import CONNECTION_LOST
from counterseal_audit.logs.anchors import Anchor, AnchorMoved, Anchors
from counterseal_audit.logs.keys import LogSigner
from counterseal_audit.logs.store import Log, LogStore

MIN_PAUSE_SECONDS = 0.1
"""At most ten rounds a second, however many wait."""

log = logging.getLogger("counterseal.audit.checkpoints")


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A head that may be signed: its entries add up, from our last note through the anchor."""

    log: Log
    frontier: Frontier
    known_rotations: int
    keys: tuple[VerifierKey, ...]
    rotations: tuple[Rotation, ...]
    anchor: Anchor
    retired: tuple[VerifierKey, int] | None = None

    @property
    def text(self) -> str:
        return engine.text_of(self.log.origin, self.frontier)


@dataclass(slots=True)
class Publisher:
    """Signs and stores checkpoints. owner: names this process in the leases.

    heartbeat_ms: after how long without a checkpoint an idle log gets a `log.heartbeat`.
    overlap_ms: for how long both keys sign after a rotation.
    """

    logs: LogStore
    store: CheckpointStore
    ledger: Ledger
    signer: LogSigner
    anchors: Anchors
    heads: SignedHeads
    demand: Demand
    owner: str
    interval_ms: int
    lease_seconds: int
    heartbeat_ms: int
    overlap_ms: int
    clock: Clock
    new_id: IdSource
    witnesses: Witnesses | None = None
    on_published: Sequence[OnPublished] = ()
    _reported: set[int] = field(default_factory=set)
    _archived: set[VerifierKey] = field(default_factory=set)

    async def run(self, stopping: asyncio.Event) -> None:
        """Publish every interval until `stopping`, and once more after it."""
        while not stopping.is_set():
            await self._guarded()
            await self._pause(stopping)
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
        asked = self.demand.logs()
        ours = await self.store.lease(sorted({one.bucket for one in due}), self.owner, self.lease_seconds)
        newest = {one.tenant: one.shard for one in sorted(logs, key=lambda one: one.shard)}
        grown: dict[int, list[Log]] = {}
        # Whoever has callers that wait does not wait for another's lease: the anchor decides between the two.
        mine = ours | {one.bucket for one in due if one.log_id in asked}
        for one in due:
            known = self.heads.get(one.log_id)
            if known is None or known.size != sizes[one.log_id].size:
                grown.setdefault(one.bucket, []).append(one)
            elif one.bucket in mine and sizes[one.log_id].open and one.shard == newest[one.tenant]:
                await self._beat(one, known.size)
        count = 0
        for bucket, group in grown.items():
            if bucket in mine:
                count += await self._publish(bucket, group)
            else:
                for one in group:
                    await self._signed(one)
        return count

    async def examine(self, one: Log) -> str | None:
        """Return why a log may not be signed or grown, None when it is sound. Raises SealUnavailable, AnchorMissing.

        Everything between the last checkpoint and the head is checked anew, whatever this process thought before.
        """
        signed = await self._signed(one)
        anchor = (await self.anchors.read(one.bucket)).anchors.get(one.origin)
        try:
            await self._candidate(one, signed, anchor)
        except VerificationError as error:
            return error.message
        return None

    def _is_due(self, one: Log, head: HeadSize) -> bool:
        """Tell whether a log has grown since its last checkpoint, or was idle for too long."""
        known = self.heads.get(one.log_id)
        if known is None or known.size != head.size:
            return True
        idle_ms = self.clock() - known.publish_time_ms
        # Witnesses sign what is new: one that did not answer is asked again about a larger tree.
        return idle_ms >= (self.interval_ms if self.demand.wants_witnesses(one.log_id) else self.heartbeat_ms)

    async def _guarded(self) -> None:
        try:
            await self.publish_once()
        except ServiceError as error:
            log.warning("no checkpoint was published", extra={"reason": error.reason})
        except CONNECTION_LOST as error:
            log.warning("no checkpoint was published", extra={"reason": type(error).__name__})

    async def _pause(self, stopping: asyncio.Event) -> None:
        """Let the interval pass; less when somebody waits or the process stops, but never less than the minimum."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), MIN_PAUSE_SECONDS)
            return
        waits = [asyncio.create_task(stopping.wait()), asyncio.create_task(self.demand.asked.wait())]
        rest = max(self.interval_ms / 1000 - MIN_PAUSE_SECONDS, 0)
        await asyncio.wait(waits, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _publish(self, bucket: int, group: Sequence[Log]) -> int:
        """Publish the logs of one bucket: recompute, reserve, sign, store. Returns how many were published.

        Another publisher may be at any step of the same. So what is read is read in the order opposite to that in
        which it moves: the head grows first, then the anchor, then a checkpoint is stored. Then checkpoint <= anchor
        <= head holds for what was read as well, and what does not fit was altered, not merely overtaken.
        """
        signed = [await self._signed(one) for one in group]
        page = await self.anchors.read(bucket)
        ready: list[_Candidate] = []
        for one, stored in zip(group, signed, strict=True):
            candidate = await self._checked(one, stored, page.anchors.get(one.origin))
            if candidate is not None:
                ready.append(candidate)
        wanted = page.advanced({one.log.origin: one.anchor for one in ready})
        if wanted is not page:
            try:
                await self.anchors.write(bucket, wanted)
            except AnchorMoved:
                return 0  # another publisher was faster; what it left over is due again
        notes = await self._sign(ready)
        return sum(await asyncio.gather(*(self._finish(one, note) for one, note in notes)))

    async def _checked(self, one: Log, signed: Signed | VerificationError, anchor: Anchor | None) -> _Candidate | None:
        """Return what may be signed of a log; None when there is nothing new, or nothing that may be."""
        why = self.ledger.forked(one)
        if why is not None:
            if anchor is None or anchor.adopted == why.adopted:
                return None
            self.ledger.forget(one)  # two people adopted the log as it stands; it is judged anew
        try:
            return await self._candidate(one, signed, anchor)
        except VerificationError as error:
            # Left out, and closed for appends in this process; the other logs go on.
            log.critical("log is forked: not signed", extra={"log_id": one.log_id, "why": error.message})
            self.ledger.mark_forked(one, error.message, anchor.adopted if anchor else 0)
        except AnchorMissing as error:
            if one.log_id not in self._reported:
                log.critical("log is not signed", extra={"log_id": one.log_id, "why": error.message})
            self._reported.add(one.log_id)
        return None

    async def _candidate(
        self, one: Log, signed: Signed | VerificationError, anchor: Anchor | None
    ) -> _Candidate | None:
        if anchor is None:
            raise AnchorMissing
        if isinstance(signed, VerificationError):
            raise signed
        last, ring = signed.last, signed.ring
        known_rotations = len(ring.keys) - 1
        head = await self.ledger.head(one)
        size = head.frontier.size
        frontier = engine.start_of(last.published if last else None, ring.keys)
        engine.check_reach(frontier.size, anchor, size)
        rotations: list[Rotation] = []
        for end in (anchor.size, size):
            async for chunk in self.store.entries(one.log_id, frontier.size, end):
                rotations += engine.rotations_in(chunk, frontier.size, one.origin, known_rotations + len(rotations))
                frontier = engine.grow(frontier, chunk)
            if end == anchor.size:
                engine.check_anchor(frontier, anchor)
        engine.check_head(frontier, size, head.root)
        if last is not None and frontier.size == last.size:
            return None
        now = self.clock()
        keys, retired = ring.signing(now, self.overlap_ms), ring.retired(now, self.overlap_ms)
        reach = Anchor(size, head.root, anchor.adopted)
        return _Candidate(one, frontier, known_rotations, keys, tuple(rotations), reach, retired)

    async def _sign(self, ready: Sequence[_Candidate]) -> list[tuple[_Candidate, bytes]]:
        """Return the candidates with their notes; one call per version of the key, and without those that failed."""
        versions = {public: version for version, public in (await self.signer.public_keys()).items()} if ready else {}
        jobs: dict[int, list[tuple[_Candidate, VerifierKey]]] = {}
        for one in ready:
            for key in one.keys:
                jobs.setdefault(versions.get(key.public, 0), []).append((one, key))
        signatures: dict[tuple[str, bytes], bytes] = {}
        for version, items in jobs.items():
            if not version:  # the key is not in Vault; those logs are left out
                continue
            answers = await self.signer.sign_batch([one.text.encode() for one, _ in items], version)
            for (one, key), signature in zip(items, answers, strict=True):
                if signature is not None:
                    signatures[one.log.origin, key.public] = signature
        signed = []
        for one in ready:
            try:
                lines = [(key, signatures[one.log.origin, key.public]) for key in one.keys]
                signed.append((one, engine.note_of(one.text, lines)))
            except KeyError:
                log.critical("the log's key signed nothing", extra={"log_id": one.log.log_id})
            except VerificationError as error:
                log.critical("a signature is refused", extra={"log_id": one.log.log_id, "why": error.message})
        return signed

    async def _finish(self, one: _Candidate, note: bytes) -> int:
        """Ask the witnesses, store, and tell those who wait. Returns 1 when the checkpoint is public."""
        cosigned = None
        if self.witnesses is not None:
            cosigned = await self.witnesses.cosign(one.log, note, one.frontier.size)
            if self.witnesses.is_required(one.log) and not (cosigned and cosigned.is_quorum):
                log.warning("a checkpoint waits for its witnesses", extra={"log_id": one.log.log_id})
                return 0
        witnessed = cosigned is not None and cosigned.is_quorum
        published = Published(one.frontier, one.frontier.root(), note, cosigned.note if cosigned else None, witnessed)
        if not await self.store.publish(one.log.log_id, published, one.known_rotations, one.rotations):
            await self._signed(one.log)  # another publisher was faster; what it left over is due again
            return 0
        self._saw(one.log, StoredCheckpoint(one.frontier.size, published, self.clock()))
        for tell in self.on_published:
            try:
                await tell(one.log, published)
            except Exception:
                log.exception("a follower of checkpoints failed")
        if one.retired is not None:
            await self._archive(one.log, *one.retired)
        return 1

    async def _archive(self, one: Log, key: VerifierKey, time_ms: int) -> None:
        """Write that a key of the log signs no more, once: the same entry again is the same event."""
        if key in self._archived or (await self.ledger.open(one.tenant))[0].log_id != one.log_id:
            return
        data = {"kind": "log", "name": one.origin, "version": key.key_id.hex(), "public_key": key.public.hex()}
        data["state"] = "archived"
        archived = new_entry(
            "key.archived",
            data,
            event_id=derived_id(pae(media_type("event-id"), entries.encode({"type": "key.archived", **data}))),
            event_time_ms=time_ms,
            tenant=one.tenant,
            environment=one.environment,
        )
        # Reused: the overlap was configured otherwise when it was written.
        with contextlib.suppress(LogForked, LogFrozen, AnchorMissing, IdempotencyKeyReused):
            await self.ledger.record(archived)
        self._archived.add(key)

    async def _signed(self, one: Log) -> Signed | VerificationError:
        """Return how far a log is signed, or why its rows cannot be read: one log's rows hold up no other log."""
        try:
            signed = await self.store.signed(one)
        except VerificationError as error:
            return error
        if signed.last is not None:
            self._saw(one, signed.last)
        return signed

    def _saw(self, one: Log, checkpoint: StoredCheckpoint) -> None:
        self.heads.see(one.log_id, SignedHead(checkpoint.size, checkpoint.publish_time_ms))
        self.demand.see(one.log_id, checkpoint)

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
        with contextlib.suppress(LogForked, LogFrozen, AnchorMissing):  # such a log has no life to show
            await self.ledger.record(beat)
