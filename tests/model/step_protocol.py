"""One non-idempotent step, two workers, crashes, pauses, late delivery and a kill: every interleaving, searched.

A worker that crashes or pauses is one that takes no further turn, or takes it late; a message lands at any later time
or never. The executor's design, section 6, names the variants; G is what we run.

    L  an effect lands before the ledger acknowledged an entry about it
    T  the effect lands twice
    V  the effect lands after the verdict NOT_APPLIED
    S  a message is sent after the stop was acknowledged
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

MAX_ATTEMPTS = 2
MAX_EPOCH = 3


@dataclass(frozen=True, slots=True)
class Variant:
    """What the protocol does. `record_first`: an intent is durable before the effect, under the lease's epoch."""

    record_first: bool = True
    probe: bool = True
    retry: bool = True
    fence: bool = True
    ack: bool = True
    stop_check: bool = True
    tombstone: bool = True


VARIANTS = {
    "A": Variant(record_first=False, probe=False, fence=False, ack=False, stop_check=False),
    "B": Variant(probe=False, fence=False, ack=False, stop_check=False),
    "C": Variant(fence=False, ack=False, stop_check=False),
    "D": Variant(fence=False, ack=False, stop_check=False, retry=False),
    "E": Variant(ack=False, stop_check=False),
    "F": Variant(stop_check=False),
    "G": Variant(),
    "H": Variant(tombstone=False),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try: its ledger entry, its credential (none, live, dead), its tombstone, its message, its effect."""

    acked: bool = False
    credential: str = "none"
    tombstone: bool = False
    message: str = "none"
    effect: bool = False


@dataclass(frozen=True, slots=True)
class Worker:
    """A program counter, the attempt it works on, and the epoch of the lease it believes to hold."""

    at: str = "idle"
    attempt: int = -1
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class World:
    """Everything: the step's row, the lease, the stop, attempts, workers."""

    step: str = "READY"
    epoch: int = 0
    stopped: bool = False
    attempts: tuple[Attempt, ...] = ()
    workers: tuple[Worker, Worker] = (Worker(), Worker())

    def with_worker(self, who: int, worker: Worker) -> "World":
        """Return the world with one worker replaced."""
        pair = (worker, self.workers[1]) if who == 0 else (self.workers[0], worker)
        return replace(self, workers=pair)

    def with_attempt(self, index: int, attempt: Attempt) -> "World":
        """Return the world with one attempt replaced."""
        return replace(self, attempts=(*self.attempts[:index], attempt, *self.attempts[index + 1 :]))


def explore(variant: Variant) -> tuple[int, set[str]]:
    """Return the number of states and the violated properties."""
    start = World()
    seen, queue, violated = {start}, deque([start]), set[str]()
    while queue:
        for after, violations in _moves(queue.popleft(), variant):
            violated |= violations
            if after not in seen:
                seen.add(after)
                queue.append(after)
    return len(seen), violated


def _moves(world: World, variant: Variant) -> Iterator[tuple[World, set[str]]]:
    if not world.stopped:
        yield replace(world, stopped=True), set()
    for index, attempt in enumerate(world.attempts):
        if variant.record_first and not attempt.acked:
            yield world.with_attempt(index, replace(attempt, acked=True)), set()
        if attempt.message == "flying":
            yield world.with_attempt(index, replace(attempt, message="lost")), set()
            yield _land(world, index, variant)
    for who in (0, 1):
        yield from _turns(world, who, variant)


def _land(world: World, index: int, variant: Variant) -> tuple[World, set[str]]:
    attempt = world.attempts[index]
    if variant.fence and attempt.credential != "live":
        return world.with_attempt(index, replace(attempt, message="refused")), set()
    violated = set()
    if not attempt.acked:
        violated.add("L")
    if any(other.effect for other in world.attempts):
        violated.add("T")
    if world.step == "NOT_APPLIED":
        violated.add("V")
    return world.with_attempt(index, replace(attempt, message="landed", effect=True)), violated


def _turns(world: World, who: int, variant: Variant) -> Iterator[tuple[World, set[str]]]:
    me = world.workers[who]
    if me.at == "idle":
        yield from _claim(world, who, variant)
        return
    if me.at == "done":
        return
    # A lease can be lost at any time: the other one claims, this one goes on as a zombie.
    mine = me.epoch == world.epoch
    attempt = world.attempts[me.attempt] if me.attempt >= 0 else Attempt()
    done = world.with_worker(who, Worker("done"))
    if me.at == "intent":
        if not variant.record_first:
            yield from _new_attempt(world, who, "send")
        elif mine and world.step == "READY":
            after = "ack" if variant.ack else ("issue" if variant.fence else "send")
            yield from _new_attempt(replace(world, step="INTENT"), who, after)
        else:
            yield done, set()
    elif me.at == "ack":
        if attempt.acked:
            yield world.with_worker(who, replace(me, at="issue")), set()
    elif me.at == "issue":
        if attempt.tombstone:
            yield done, set()
        else:
            issued = world.with_attempt(me.attempt, replace(attempt, credential="live"))
            yield issued.with_worker(who, replace(me, at="send")), set()
    elif me.at == "send":
        if variant.stop_check and world.stopped:
            yield done, set()
        else:
            sent = world.with_attempt(me.attempt, replace(attempt, message="flying"))
            yield sent.with_worker(who, replace(me, at="answer")), {"S"} if world.stopped else set()
    elif me.at == "answer":
        if attempt.message == "landed":
            yield world.with_worker(who, replace(me, at="record")), set()
    elif me.at == "record":
        fenced = variant.record_first and not mine
        yield (done if fenced else replace(done, step="APPLIED")), set()
    elif me.at == "revoke":
        dead = "dead" if attempt.credential == "live" else attempt.credential
        revoked = replace(attempt, credential=dead, tombstone=variant.tombstone)
        yield world.with_attempt(me.attempt, revoked).with_worker(who, replace(me, at="probe")), set()
    elif me.at == "probe":
        if not mine:
            yield done, set()
        elif not variant.probe:
            yield replace(world, step="READY").with_worker(who, replace(me, at="intent", attempt=-1)), set()
        elif attempt.effect:
            yield replace(done, step="APPLIED"), set()
        elif variant.retry:
            yield replace(world, step="READY").with_worker(who, replace(me, at="intent", attempt=-1)), set()
        else:
            yield replace(done, step="NOT_APPLIED"), set()


def _claim(world: World, who: int, variant: Variant) -> Iterator[tuple[World, set[str]]]:
    if world.epoch >= MAX_EPOCH or world.step in {"APPLIED", "NOT_APPLIED"}:
        return
    claimed = replace(world, epoch=world.epoch + 1)
    if world.step == "READY":
        yield claimed.with_worker(who, Worker("intent", -1, claimed.epoch)), set()
    else:
        start = "revoke" if variant.fence else "probe"
        yield claimed.with_worker(who, Worker(start, len(world.attempts) - 1, claimed.epoch)), set()


def _new_attempt(world: World, who: int, at: str) -> Iterator[tuple[World, set[str]]]:
    if len(world.attempts) < MAX_ATTEMPTS:
        me = world.workers[who]
        made = replace(world, attempts=(*world.attempts, Attempt()))
        yield made.with_worker(who, Worker(at, len(world.attempts), me.epoch)), set()
