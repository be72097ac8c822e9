"""Compares what entries hold sealed with what is stored, and what is missing with what the log declares."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from counterseal.canonical import JsonObject, parse_strict
from counterseal.ledger import disclosure
from counterseal_audit.logs.store import Log
from counterseal_audit.payloads.declared import DECLARING, Declared
from counterseal_audit.payloads.engine import PayloadDamaged
from counterseal_audit.payloads.keys import DataKeys
from counterseal_audit.payloads.opening import Opener
from counterseal_audit.payloads.store import PayloadRow, PayloadStore
from counterseal_audit.reader.store import ReaderStore

PAGE_ENTRIES = 256
TAMPERED, INCOMPLETE = "tampered", "incomplete"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not hold about an entry."""

    kind: str
    index: int
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """What a page of a check came to: counts of this page, not sums."""

    entries: int
    intact: int
    declared: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Checker:
    """Checks the payload of a tenant's logs."""

    store: ReaderStore
    payloads: PayloadStore
    keys: DataKeys

    async def check(self, logs: Sequence[tuple[Log, int]]) -> AsyncIterator[Progress]:
        """Yield page after page. logs: each with its size; all shards, oldest first.

        Raises LedgerUnavailable, SealUnavailable.
        """
        declared = await self._declared(logs)
        yield Progress(0, 0, 0, tuple(_unfinished(declared)))
        for log, size in logs:
            opener = Opener(self.keys, log)
            for start in range(0, size, PAGE_ENTRIES):
                yield await self._page(log, opener, declared, start, min(size - start, PAGE_ENTRIES))

    async def _declared(self, logs: Sequence[tuple[Log, int]]) -> Declared:
        declared = Declared()
        for log, size in logs:
            for kind in DECLARING:
                at = 0
                while rows := await self.store.page(log.log_id, at, PAGE_ENTRIES, [f'"type":"{kind}"'.encode()]):
                    for row in rows:
                        if row.index < size:
                            declared.add(row.index, parse_strict(row.entry))
                    at = rows[-1].index + 1
        return declared

    async def _page(self, log: Log, opener: Opener, declared: Declared, start: int, count: int) -> Progress:
        entries = [(row.index, parse_strict(row.entry)) for row in await self.store.page(log.log_id, start, count)]
        stored = await self.payloads.of(log.log_id, [index for index, _ in entries])
        intact = gone = 0
        findings: list[Finding] = []
        for index, document in entries:
            if not document["srv"].get("dek"):  # sealed fields of before payload was stored here, or none
                continue
            rows = stored.get(index, [])
            whole, missing, problem = await _compare(opener, document, rows)
            intact += whole
            if problem:
                findings.append(Finding(TAMPERED, index, problem))
            if any(row.wrapped is None for row in rows) and not declared.underway(document):
                findings.append(Finding(INCOMPLETE, index, "payload is there whose key was destroyed"))
            if not missing:
                continue
            if declared.explains(document):
                gone += missing
            elif declared.underway(document):
                findings.append(Finding(INCOMPLETE, index, "payload is gone; its erasure is not finished"))
            else:
                findings.append(Finding(TAMPERED, index, f"{missing} payload rows are missing and nothing declares it"))
        return Progress(len(entries), intact, gone, tuple(findings))


async def _compare(opener: Opener, document: JsonObject, rows: Sequence[PayloadRow]) -> tuple[int, int, str]:
    """Return how many sealed fields are there, how many are missing, and what is wrong with what is there."""
    wanted = list(document.get("_sd", ()))
    try:
        found = [disclosure.digest(one) for one in await opener.open(document, rows)]
    except PayloadDamaged:
        return 0, 0, "a payload row is not what was sealed"
    whole = len(set(found).intersection(wanted))
    problem = "" if set(found) <= set(wanted) else "a payload row is not of this entry"
    return whole, len(wanted) - whole, problem


def _unfinished(declared: Declared) -> list[Finding]:
    return [
        Finding(INCOMPLETE, job.ordered_at, f"the erasure of {job.person} waits for {', '.join(job.missing)}")
        for job in declared.unfinished()
    ]
