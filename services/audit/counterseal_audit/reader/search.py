"""Finding entries: the search projection, and behind it the newest entries, which it has not read yet.

A tenant's log may consist of several shards. Each question is put to one shard at a time (row-level security knows one
log per transaction); a place, shard and index in one number, orders what they answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from counterseal.api.audit.v1 import reader_pb2
from counterseal.errors import InputInvalid
from counterseal.ids import is_id
from counterseal.ledger import trace
from counterseal.ledger.fields import DIGEST, PSEUDONYM, REASON, WORD
from counterseal.ledger.places import local_end, local_start, place
from counterseal.ledger.registry import REGISTRY
from counterseal_audit.append.engine import pseudonymiser
from counterseal_audit.logs.keys import PseudonymKeys
from counterseal_audit.logs.store import Log
from counterseal_audit.projection.engine import Field, Query, blinder, terms_of
from counterseal_audit.projection.store import ProjectionStore
from counterseal_audit.reader.store import ReaderStore, StoredEntry

TAIL = 4000
"""How many entries behind the projection are looked at one by one; what is beyond is said to be missing."""
TAIL_PAGE = 1000
MAX_TRACE = 2000

_TOOL = re.compile(r"[A-Za-z0-9_.:/-]{1,128}(@[A-Za-z0-9_.:/-]{1,128})?")
_TEXTS: Sequence[tuple[Field, str, re.Pattern[str], str]] = (
    (Field.AGENT, "agent", WORD, "an identifier"),
    (Field.REQUEST_ID, "request_id", WORD, "an identifier"),
    (Field.PLAN_DIGEST, "plan_digest", DIGEST, "a digest"),
    (Field.STEP, "step", WORD, "an identifier"),
    (Field.TOOL, "tool", _TOOL, "a tool (name or name@version)"),
    (Field.REASON_CODE, "reason_code", REASON, "a reason code"),
)
_MAX_TEXT = 512


@dataclass(frozen=True, slots=True)
class Found:
    """Entries in order of the index; the answer is complete for the first `complete_size` entries of the log."""

    entries: list[StoredEntry]
    complete_size: int
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far an answer is complete for one shard of `size` entries."""

    log: Log
    complete_size: int
    size: int


@dataclass(frozen=True, slots=True)
class Spanned:
    """Entries by place, oldest first, and how far the answer is complete for each shard."""

    entries: dict[int, StoredEntry]
    coverage: list[Coverage]
    truncated: bool = False

    @property
    def complete_size(self) -> int:
        """How many entries, from the first of the first shard on, the answer is complete for."""
        total = 0
        for one in self.coverage:
            total += one.complete_size
            if one.complete_size < one.size:
                break
        return total


@dataclass(frozen=True, slots=True)
class Searcher:
    """Finds entries of one tenant's logs; `shards` are all of them, oldest first."""

    projection: ProjectionStore
    store: ReaderStore
    keys: PseudonymKeys

    async def prepare(self, log: Log) -> None:
        """Have the tenant's key at hand, so that no transaction stays open over a call to Vault."""
        await self.keys.get(log.tenant)

    async def query(self, log: Log, request: reader_pb2.SearchEntriesRequest) -> Query:
        """Return what a request means, people and external ids replaced under the tenant's key.

        Raises InputInvalid, naming the field.
        """
        any_of: dict[Field, Sequence[str]] = {}
        unknown = [kind for kind in request.types if kind not in REGISTRY]
        if unknown:
            raise InputInvalid(f"types: {unknown[0][:64]!r} is not an event type")
        if request.types:
            any_of[Field.TYPE] = sorted(set(request.types))
        for field, name, pattern, what in _TEXTS:
            value = getattr(request, name)
            if value and not pattern.fullmatch(value):
                raise InputInvalid(f"{name}: not {what}")
            if value:
                any_of[field] = [value]
        if request.subject:
            any_of[Field.SUBJECT] = [await self._person(log, _short("subject", request.subject))]
        if request.external_id:
            any_of[Field.EXTERNAL_ID] = [await self._blind(log, _short("external_id", request.external_id))]
        since = request.since_time.ToMilliseconds() if request.HasField("since_time") else None
        until = request.until_time.ToMilliseconds() if request.HasField("until_time") else None
        return Query(any_of, since, until)

    async def find(self, log: Log, query: Query, start: int, count: int, before: int | None = None) -> Found:
        """Return up to `count` entries from index `start` on, below `before`."""
        hits = await self.projection.find(log.log_id, query, start, count, before)
        entries, indexed = [StoredEntry(hit.index, hit.entry, hit.leaf_hash) for hit in hits.entries], hits.indexed_size
        if len(entries) == count or indexed >= hits.size:
            return Found(entries, indexed)
        blind = blinder(await self.keys.get(log.tenant))
        at = end = max(start, indexed)
        while at < indexed + TAIL and len(entries) < count:
            page = await self.store.page(log.log_id, at, TAIL_PAGE)
            wanted = (row for row in page if before is None or row.index < before)
            entries += [row for row in wanted if query.matches(terms_of(row.index, row.entry, blind))]
            at = end = page[-1].index + 1 if page else at
            if len(page) < TAIL_PAGE:
                break
        return Found(entries[:count], end)

    async def page(self, shards: Sequence[Log], query: Query, start: int, count: int) -> Spanned:
        """Return up to `count` entries from place `start` on."""
        rows: dict[int, StoredEntry] = {}
        coverage = []
        for log in shards:
            first = local_start(start, log.shard)
            if first is None or len(rows) == count:
                coverage.append(await self._coverage(log))
                continue
            found = await self.find(log, query, first, count - len(rows))
            rows.update((place(log.shard, row.index), row) for row in found.entries)
            coverage.append(Coverage(log, found.complete_size, await self.store.size(log.log_id)))
        return Spanned(rows, coverage)

    async def gather(self, shards: Sequence[Log], request: reader_pb2.GetTraceRequest) -> Spanned:
        """Return everything about the action that a request names. Raises InputInvalid."""
        walk = trace.gather(await self._about(shards, request))
        sizes = {log.shard: await self.store.size(log.log_id) for log in shards}
        complete = dict(sizes)
        truncated = False
        rows: dict[int, StoredEntry] = {}
        try:
            ask = next(walk)
            while True:
                answer: dict[int, StoredEntry] = {}
                query = Query({Field[ask.field.upper()]: ask.values})
                for log in shards:
                    first, end = local_start(ask.start, log.shard), local_end(ask.end, log.shard)
                    if first is None or end == 0:
                        continue
                    found = await self.find(log, query, first, MAX_TRACE, end)
                    complete[log.shard] = min(complete[log.shard], found.complete_size)
                    truncated = truncated or len(found.entries) == MAX_TRACE
                    answer.update((place(log.shard, row.index), row) for row in found.entries)
                rows.update(answer)
                ask = walk.send([(at, row.entry) for at, row in answer.items()])
        except StopIteration as done:
            entries = {at: rows[at] for at in done.value}
        kept = dict(list(entries.items())[:MAX_TRACE])
        coverage = [Coverage(log, complete[log.shard], sizes[log.shard]) for log in shards]
        return Spanned(kept, coverage, truncated or len(entries) > MAX_TRACE)

    async def reindex(self, log: Log) -> None:
        """Empty a log's projection; the follower fills it again."""
        await self.projection.reindex(log.log_id)

    async def _coverage(self, log: Log) -> Coverage:
        """Return how far a shard can be answered for that is not looked into now."""
        size = await self.store.size(log.log_id)
        return Coverage(log, min(size, await self.projection.indexed_size(log.log_id) + TAIL), size)

    async def _about(self, shards: Sequence[Log], request: reader_pb2.GetTraceRequest) -> trace.About:
        by = request.WhichOneof("by")
        if by == "request_id" and WORD.fullmatch(request.request_id):
            return trace.About(requests=[request.request_id])
        if by == "plan_digest" and DIGEST.fullmatch(request.plan_digest):
            return trace.About(plans=[request.plan_digest])
        if by == "event_id" and is_id(request.event_id):
            rows = [await self.store.by_event_id(log.log_id, request.event_id) for log in shards]
            return trace.about([row.entry for row in rows if row is not None])
        if by == "external_id":
            token = await self._blind(shards[-1], _short("external_id", request.external_id))
            named = await self.page(shards, Query({Field.EXTERNAL_ID: [token]}), 0, MAX_TRACE)
            return trace.about([row.entry for row in named.entries.values()])
        raise InputInvalid("a trace is asked for by request_id, plan_digest, event_id or external_id")

    async def _person(self, log: Log, subject: str) -> str:
        if PSEUDONYM.fullmatch(subject):
            return subject
        return pseudonymiser(await self.keys.get(log.tenant))(subject)

    async def _blind(self, log: Log, value: str) -> str:
        return blinder(await self.keys.get(log.tenant))(value)


def _short(name: str, value: str) -> str:
    if not value or len(value) > _MAX_TEXT:
        raise InputInvalid(f"{name}: expected 1 to {_MAX_TEXT} characters")
    return value
