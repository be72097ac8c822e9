"""`access.disclosed` for exports: who took which log, as of which checkpoint, before the first byte of it leaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from counterseal.api.audit.v1 import reader_pb2
from counterseal.canonical import JsonObject, parse_strict
from counterseal.clock import Clock
from counterseal.errors import AnchorMissing, InputInvalid, LogForked, LogFrozen, NotFound
from counterseal.identity import Caller
from counterseal.ids import IdSource, is_id
from counterseal.ledger.checkpoint import Checkpoint
from counterseal.ledger.exported import manifest_digest
from counterseal.ledger.fields import DIGEST, WORD
from counterseal.ledger.registry import EXPORT_FORMATS, SYSTEM_TENANT
from counterseal.rpc.ledger_wire import new_entry
from counterseal_audit.append.engine import pseudonymiser
from counterseal_audit.append.ledger import Ledger
from counterseal_audit.logs.keys import PseudonymKeys
from counterseal_audit.logs.store import Log, LogStore
from counterseal_audit.reader.store import ReaderStore

TILES = "tiles"


@dataclass(frozen=True, slots=True)
class Recorded:
    """The entry about an export, and the digest that it names."""

    event_id: str
    manifest_digest: str


@dataclass(frozen=True, slots=True)
class ExportRecorder:
    """Records exports in the tenant's own log; in the environment's where that one takes no entries any more.

    A frozen or forked log is what people most need to take home, and closing it must not be a way to do so unseen.
    """

    logs: LogStore
    store: ReaderStore
    ledger: Ledger
    keys: PseudonymKeys
    clock: Clock
    new_id: IdSource

    async def handed_out(self, caller: Caller, log: Log, heads: Sequence[Checkpoint], purpose: str) -> Recorded:
        """Record that the caller gets a log as tiles; durable when this returns.

        heads: the log's checkpoint, then those of the shards before it. Raises InputInvalid for a purpose that is no
        code; whatever keeps the entry from becoming durable.
        """
        if purpose and not WORD.fullmatch(purpose):
            raise InputInvalid("purpose: say what it is for, as a code such as case-4711, or leave it out")
        digest = manifest_digest(heads)
        data = {
            "manifest_digest": digest,
            "purpose": purpose,
            "count": sum(head.size for head in heads),
            "auditor": caller.subject,
            "export": {
                "format": TILES,
                "origin": heads[0].origin,
                "size": heads[0].size,
                "root": heads[0].root.hex(),
            },
        }
        return Recorded(await self._record(caller, log, data), digest)

    async def made(self, caller: Caller, log: Log, request: reader_pb2.RecordExportRequest) -> str:
        """Record what the caller says was made of an export of theirs; return the entry's id.

        Raises InputInvalid, naming the field; NotFound unless the caller took that export out of the tenant's logs.
        """
        if request.format not in EXPORT_FORMATS or request.format == TILES:
            raise InputInvalid("format: expected jsonl, csv, ocsf or bundle")
        if not DIGEST.fullmatch(request.manifest_digest):
            raise InputInvalid("manifest_digest: not a digest")
        if not is_id(request.export_event_id):
            raise InputInvalid("export_event_id: expected a UUID in lower case")
        taken = await self._taken(caller, log, request.export_event_id)
        if taken is None:
            raise NotFound("you have no such export")
        if not 0 <= request.count <= taken["count"]:
            raise InputInvalid(f"count: expected 0 to {taken['count']}")
        data = {
            "manifest_digest": request.manifest_digest,
            "purpose": taken.get("purpose", ""),
            "count": request.count,
            "auditor": caller.subject,
            "export": {**taken["export"], "format": request.format},
        }
        return await self._record(caller, log, data, refs=[(request.export_event_id, "made_of")])

    async def _taken(self, caller: Caller, log: Log, event_id: str) -> JsonObject | None:
        """Return what the entry of an export says, None unless it is the caller's and of this tenant."""
        shards = await self.logs.shards(log.tenant, log.environment)
        origins = {one.origin for one in shards}
        for one in [*reversed(shards), await self.logs.find(SYSTEM_TENANT, log.environment)]:
            row = await self.store.by_event_id(one.log_id, event_id) if one is not None else None
            if one is None or row is None:
                continue
            document = parse_strict(row.entry)
            data: JsonObject = document["data"]
            export = data.get("export", {})
            person = pseudonymiser(await self.keys.get(one.tenant))(caller.subject)
            if (
                document["type"] == "access.disclosed"
                and data["auditor"] == person
                and export.get("format") == TILES
                and export["origin"] in origins
            ):
                return data
        return None

    async def _record(
        self, caller: Caller, log: Log, data: dict[str, Any], refs: Sequence[tuple[str, str]] = ()
    ) -> str:
        event_id = self.new_id()

        async def record_in(tenant: str) -> None:
            await self.ledger.record(
                new_entry(
                    "access.disclosed",
                    data,
                    event_id=event_id,
                    event_time_ms=self.clock(),
                    tenant=tenant,
                    environment=log.environment,
                    refs=refs,
                    request_id=caller.request_id,
                )
            )

        try:
            await record_in(log.tenant)
        except (LogFrozen, LogForked, AnchorMissing):
            await record_in(SYSTEM_TENANT)
        return event_id
