"""Selective disclosure: chosen fields of one entry, for an auditor with a purpose, never without an entry about it."""

from collections.abc import Sequence
from dataclasses import dataclass

from counterseal.canonical import digest_of, parse_strict
from counterseal.clock import Clock
from counterseal.errors import FactsErased, InputInvalid, InternalError, NotFound
from counterseal.identity import Caller
from counterseal.ids import IdSource
from counterseal.ledger import disclosure
from counterseal.ledger.fields import WORD
from counterseal.rpc.ledger_wire import new_entry
from counterseal_audit.append.ledger import Ledger
from counterseal_audit.logs.store import Log
from counterseal_audit.payloads.engine import PayloadDamaged
from counterseal_audit.payloads.keys import DataKeys
from counterseal_audit.payloads.opening import Opener
from counterseal_audit.payloads.store import PayloadStore
from counterseal_audit.reader.store import StoredEntry
from counterseal_audit.second_person import person_with

MAX_NAMES = 16


@dataclass(frozen=True, slots=True)
class Disclosed:
    """Disclosure strings in the order of the names that were asked for, and the entry that says so."""

    disclosures: tuple[str, ...]
    event_id: str
    manifest_digest: str


@dataclass(frozen=True, slots=True)
class Discloser:
    """Opens sealed fields. roles: one of them is needed."""

    payloads: PayloadStore
    keys: DataKeys
    ledger: Ledger
    roles: frozenset[str]
    clock: Clock
    new_id: IdSource

    async def disclose(
        self, caller: Caller, log: Log, entry: StoredEntry, names: Sequence[str], purpose: str, note: str
    ) -> Disclosed:
        """Return the fields; `access.disclosed` is durable before that.

        Raises RoleRequired, InputInvalid, NotFound when the entry never had such a field, FactsErased when it is gone.
        """
        person_with(caller, self.roles)
        if not WORD.fullmatch(purpose):
            raise InputInvalid("purpose: say what it is for, as a code such as case-4711")
        if not names or len(names) > MAX_NAMES or len(set(names)) < len(names):
            raise InputInvalid(f"names: expected 1 to {MAX_NAMES} different sealed fields")
        found = await self._open(log, entry)
        document = parse_strict(entry.entry)
        for name in names:
            if name not in found:
                if len(found) < len(document.get("_sd", ())):
                    raise FactsErased("the field is not there any more", name=name[:64])
                raise NotFound("the entry has no such sealed field", name=name[:64])
        manifest = digest_of(
            "disclosure-manifest",
            {"event_id": document["event_id"], "names": list(names), "purpose": purpose},
        )
        event_id = self.new_id()
        await self.ledger.record(
            new_entry(
                "access.disclosed",
                {"manifest_digest": manifest, "purpose": purpose, "count": len(names), "auditor": caller.subject},
                event_id=event_id,
                event_time_ms=self.clock(),
                tenant=log.tenant,
                environment=log.environment,
                sealed={"statement": {"names": list(names), "note": note}},
                refs=[(str(document["event_id"]), "discloses")],
                request_id=caller.request_id,
            )
        )
        return Disclosed(tuple(found[name] for name in names), event_id, manifest)

    async def _open(self, log: Log, entry: StoredEntry) -> dict[str, str]:
        """Return name -> disclosure string of what is stored for the entry, each checked against its `_sd`."""
        document = parse_strict(entry.entry)
        rows = (await self.payloads.of(log.log_id, [entry.index])).get(entry.index, [])
        try:
            strings = await Opener(self.keys, log).open(document, rows)
        except PayloadDamaged as error:
            raise InternalError("a payload row is not what was sealed; run a check") from error
        known = set(document.get("_sd", ()))
        if any(disclosure.digest(one) not in known for one in strings):
            raise InternalError("a payload row is not of this entry; run a check")
        return {disclosure.parse(one).name: one for one in strings}
