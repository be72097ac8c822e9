"""One log's writer: whoever asks while a flush is under way shares the next one (group commit).

Idle, an entry is flushed at once; under load a flush takes what has gathered, at most 1,024 entries or 1 MiB. While the
event loop is busy with calls that are about to ask, the next flush waits for them: it counts turns of the loop, not
time, so that nobody waits where nobody comes. One flush is in flight per log, so a loud tenant holds one connection.
Callers wait for futures; a caller that goes away cancels nothing.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from counterseal.errors import (
    IdempotencyKeyReused,
    InputInvalid,
    InternalError,
    LedgerUnavailable,
    LogForked,
    LogFrozen,
    QueueFull,
    SealUnavailable,
    ServiceError,
)
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tree import Frontier
from counterseal_audit.append.engine import Prepared, Step, step
from counterseal_audit.append.mac import Head, HeadMac
from counterseal_audit.append.predecessors import Predecessors
from counterseal_audit.append.store import AppendStore, DataRefused, DuplicateIds, KeyDestroyed, Stored
from counterseal_audit.database import CONNECTION_LOST

FLUSH_ENTRIES = 1024
FLUSH_BYTES = 1 << 20
QUEUE_ENTRIES = 4096
QUEUE_BYTES = 8 << 20
QUIET_TURNS = 6
"""A call takes a few turns of the loop from the wire to the queue; after so many without a new entry none is near."""
OPTIMISTIC_TRIES = 3
LOCKED_FLUSHES, LOCKED_ENTRIES = 32, 32
"""After another writer was faster, so many flushes of at least so many entries lock the head before they make a tree.

What a lost race costs grows with the batch: its tree and its statement, in vain. A lock costs two round trips, during
which a busy process does other things while everybody waits. So small batches race, and lock after their third loss.
"""
DATABASE_TRIES = 3
RETRY_SECONDS = 0.05
FULL_RETRY_MS = 200

log = logging.getLogger("counterseal.audit.append")


Seen = tuple[int, bytes]
"""Size and root of a head."""


@dataclass(slots=True)  # not frozen: one is made for every entry, and a frozen one takes three times as long
class Receipt:
    """Where an entry is in its log, with the bytes as they are stored; `duplicate`: it was there already.

    log_id: the log, where it is a closed one before the writer's own; else 0.
    """

    index: int
    leaf_hash: bytes
    entry: bytes
    duplicate: bool = False
    log_id: int = 0


@dataclass(slots=True, eq=False)
class _Pending:
    """An entry that waits; weight: its bytes in a statement. `outcome` lives on when the caller cancels the future."""

    item: Prepared
    answer: "asyncio.Future[Receipt]"
    weight: int
    outcome: Receipt | ServiceError | None = None


class LogWriter:
    """The queue of one log and the flush behind it."""

    def __init__(self, log_id: int, store: AppendStore, mac: HeadMac, before: "Predecessors | None" = None) -> None:
        self._log_id = log_id
        self._before = before
        self._mac = mac
        self._store = store
        self._queue: deque[_Pending] = deque()
        self._queued_bytes = 0
        self._frontier: Frontier | None = None
        self._seen = (0, b"")
        self._flushing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # asking which one runs is a system call an entry
        self._locking = 0
        self.forked: str | None = None
        self._frozen = False
        self.adopted = 0
        self.grown = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether this log takes no more entries as far as this process knows: frozen, or forked."""
        return self._frozen or self.forked is not None

    @property
    def seen(self) -> Seen:
        """The latest head that this process appended or was told of."""
        return self._seen

    def check_room(self, count: int, size: int) -> None:
        """Raise QueueFull when `count` entries of `size` bytes in sum do not fit behind what waits."""
        if len(self._queue) + count > QUEUE_ENTRIES or self._queued_bytes + size > QUEUE_BYTES:
            raise QueueFull("too many entries wait for this log", retry_after_ms=FULL_RETRY_MS)

    def submit(self, batch: Sequence[Prepared]) -> "list[asyncio.Future[Receipt]]":
        """Queue entries in order and return a future for each; it fails with a ServiceError. Never waits."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        answers = []
        for item in batch:
            answer: asyncio.Future[Receipt] = asyncio.Future(loop=self._loop)
            weight = item.weight
            self._queue.append(_Pending(item, answer, weight))
            self._queued_bytes += weight
            answers.append(answer)
        if self._flushing is None and answers:
            self._flushing = self._loop.create_task(self._drain(), name=f"flush-log-{self._log_id}")
        return answers

    def remember(self, size: int, root: bytes) -> None:
        """Take a signed size as seen: a head below it, or another head of that size, is a fork."""
        if size > self._seen[0]:
            self._seen = (size, root)

    def mark_forked(self, why: str) -> None:
        """Stop appending: the database disagrees with what was signed or seen."""
        if self.forked is None:
            log.critical("log is forked", extra={"log_id": self._log_id, "why": why})
        self.forked = why

    async def close_with(self, last: Prepared) -> Receipt:
        """Append the log's last entry and close it for ever.

        Raises LogFrozen when it is closed already, LogForked, LedgerUnavailable (it may be closed then: ask again).
        """
        floor = self.seen

        def make(head: Head) -> Step:
            return step(self._checked(head, floor), [last], lambda after: self._mac.of(after, is_open=False))

        if self.forked is not None:
            raise LogForked(self.forked)
        try:
            taken = await self._store.append_locked(self._log_id, [last], make, closing=True)
        except VerificationError as error:
            self.mark_forked(error.message)
            raise LogForked(error.message) from error
        except CONNECTION_LOST as error:
            raise LedgerUnavailable("the ledger's database does not answer") from error
        if taken is None:
            raise LogFrozen
        self._see(taken.after)
        self._frozen, self._frontier = True, None
        return Receipt(taken.before.size, last.leaf_hash, last.entry, duplicate=False)

    async def settled(self) -> None:
        """Wait until nothing is queued (the drain at the end of the process)."""
        while self._flushing is not None:
            await asyncio.wait([self._flushing])

    async def _drain(self) -> None:
        try:
            while self._queue:
                batch = self._take()
                await self._flush(batch)
                if self._queue and len(batch) + len(self._queue) > 2:  # else it may be a caller alone, who asks again
                    await self._gather()
        finally:
            self._flushing = None

    async def _gather(self) -> None:
        """Let calls that are on their way join the queue, for as long as they keep coming and a flush has room."""
        quiet = 0
        while quiet < QUIET_TURNS and len(self._queue) < FLUSH_ENTRIES and self._queued_bytes < FLUSH_BYTES:
            before = len(self._queue)
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._queue) == before else 0

    def _take(self) -> list[_Pending]:
        batch: list[_Pending] = []
        room = FLUSH_BYTES
        while self._queue and len(batch) < FLUSH_ENTRIES:
            size = self._queue[0].weight
            if batch and size > room:
                break
            room -= size
            batch.append(self._queue.popleft())
        self._queued_bytes -= FLUSH_BYTES - room
        return batch

    async def _flush(self, batch: list[_Pending]) -> None:
        """Settle a batch. Where an event id occurs again in it, the same content shares the first one's outcome.

        Other content is judged behind it, by what is in the log then: which of two is the stored one only the log says.
        """
        while batch:
            firsts = {one.item.event_id: one for one in reversed(batch)}
            if len(firsts) == len(batch):
                await self._settle_all(batch)
                return
            await self._settle_all([one for one in batch if one is firsts[one.item.event_id]])
            others: list[_Pending] = []
            for one in batch:
                first = firsts[one.item.event_id]
                if one is first:
                    continue
                if one.item.req_hash == first.item.req_hash:
                    _repeat(one, first)
                else:
                    others.append(one)
            batch = others

    async def _settle_all(self, work: list[_Pending]) -> None:
        try:
            await self._write(work)
        except LogFrozen as error:
            self._frozen = True
            _fail(work, error)
        except ServiceError as error:
            _fail(work, error)
        except VerificationError as error:
            self.mark_forked(error.message)
            _fail(work, LogForked())
        except Exception:
            log.exception("a flush failed")
            _fail(work, InternalError("internal error"))

    async def _write(self, work: list[_Pending]) -> None:
        """Append the entries, whatever races, retries and bad rows are in the way; settles each that it can."""
        losses = failures = 0
        asked = self._before is None
        while work:
            if self.forked is not None:
                raise LogForked(self.forked)
            try:
                if self._before is not None and not asked:
                    work, asked = _answer(work, await self._before.find([one.item for one in work])), True
                    continue
                taken = await self._try(work, locked=losses >= OPTIMISTIC_TRIES or self._shall_lock(len(work)))
            except DuplicateIds:
                work = await self._answer_known(work)
                continue
            except (DataRefused, KeyDestroyed) as error:
                await self._bisect(work, error)
                return
            except CONNECTION_LOST as error:
                # It may have been committed: the same ids again give the exact answer.
                self._frontier = None
                failures += 1
                if failures == DATABASE_TRIES:
                    raise LedgerUnavailable("the ledger's database does not answer") from error
                await asyncio.sleep(RETRY_SECONDS * failures)
                continue
            if taken:
                return
            losses += 1
            self._frontier, self._locking = None, LOCKED_FLUSHES

    def _shall_lock(self, count: int) -> bool:
        if not self._locking or count < LOCKED_ENTRIES:
            return False
        self._locking -= 1
        return True

    async def _try(self, work: Sequence[_Pending], *, locked: bool) -> bool:
        """Append the entries behind the head that is known, or the one that is locked, and settle them if it went."""
        items = [one.item for one in work]
        if locked:
            floor = self.seen
            taken = await self._store.append_locked(
                self._log_id, items, lambda head: self._step(self._checked(head, floor), items)
            )
            if taken is None:
                raise LogFrozen
            self._written(work, taken)
            return True
        if self._frontier is None:
            floor = self.seen
            self._frontier = self._checked(await self._store.head(self._log_id), floor)
        wanted = self._step(self._frontier, items)
        return await self._store.append(self._log_id, wanted, items, lambda: self._written(work, wanted))

    def _written(self, work: Sequence[_Pending], taken: Step) -> None:
        self._see(taken.after)
        for index, one in enumerate(work, taken.before.size):
            item = one.item
            _settle(one, Receipt(index, item.leaf_hash, item.entry))

    def _step(self, frontier: Frontier, items: Sequence[Prepared]) -> Step:
        return step(frontier, items, self._mac.of)

    def _checked(self, head: Head, floor: Seen) -> Frontier:
        """Return the frontier of a head to append behind. Raises LogFrozen, and what `check` raises."""
        self.check(head, floor)
        if not head.open:
            raise LogFrozen
        return head.frontier

    def check(self, head: Head, floor: Seen) -> None:
        """Raise VerificationError when a head is not ours, or is older than, or another than, one seen before.

        floor: what `seen` was before the head was asked for. While the answer was on its way this process may have
        appended, so the head that is read may well be older than what is seen by the time it arrives.
        """
        self._mac.check(head)
        size, root = floor
        if head.frontier.size < size or (head.frontier.size == size and head.root != root):
            raise VerificationError(f"the head went back from size {size} to {head.frontier.size}", kind="forked")

    def _see(self, frontier: Frontier) -> None:
        self._frontier = frontier
        self._seen = (frontier.size, frontier.root())
        self.grown.set()
        self.grown = asyncio.Event()

    async def _answer_known(self, work: Sequence[_Pending]) -> list[_Pending]:
        """Answer the entries that are in the log; return the rest. Same content is a duplicate, other is refused."""
        known = await self._store.find(self._log_id, [one.item.event_id for one in work])
        if not known:
            raise LogForked("the index after the head is taken")
        return _answer(work, known)

    async def _bisect(self, work: list[_Pending], why: DataRefused | KeyDestroyed) -> None:
        """Refuse the one bad row alone, append the others in order."""
        if len(work) == 1:
            event_id = work[0].item.event_id
            gone = isinstance(why, KeyDestroyed)  # the same entry again is sealed with a new key
            _fail(
                work,
                SealUnavailable("the person was erased meanwhile; send the entry again", event_id=event_id)
                if gone
                else InputInvalid("the database refuses the entry", event_id=event_id),
            )
            return
        middle = len(work) // 2
        await self._write(work[:middle])
        await self._write(work[middle:])


def _answer(work: Sequence[_Pending], known: Mapping[str, Stored]) -> list[_Pending]:
    """Answer the entries that are known; return the rest. Same content is a duplicate, other content is refused."""
    rest: list[_Pending] = []
    for one in work:
        stored = known.get(one.item.event_id)
        if stored is None:
            rest.append(one)
        elif stored.req_hash == one.item.req_hash:
            _settle(one, Receipt(stored.index, stored.leaf_hash, stored.entry, duplicate=True, log_id=stored.log_id))
        else:
            _refuse_reuse(one)
    return rest


def _refuse_reuse(one: _Pending) -> None:
    """Refuse other content under a known event id, and raise the alarm: no honest producer sends it."""
    log.critical("an event id was used again with other content", extra={"event_id": one.item.event_id})
    _fail([one], IdempotencyKeyReused(event_id=one.item.event_id))


def _settle(one: _Pending, receipt: Receipt) -> None:
    if one.outcome is None:
        one.outcome = receipt
        if not one.answer.done():
            one.answer.set_result(receipt)


def _fail(many: Iterable[_Pending], error: ServiceError) -> None:
    for one in many:
        if one.outcome is None:
            one.outcome = error
            if not one.answer.done():
                one.answer.set_exception(error)
                one.answer.exception()  # looked at: a caller that went away leaves no complaint behind


def _repeat(one: _Pending, first: _Pending) -> None:
    """Answer an entry that stood in the same batch before."""
    if isinstance(first.outcome, ServiceError):
        _fail([one], first.outcome)
    elif first.outcome is not None:
        _settle(one, replace(first.outcome, duplicate=True))
