"""Opening stored payload: rows to disclosure strings, with the keys of a bounded number of people in memory."""

from collections import OrderedDict
from collections.abc import Iterable
from uuid import UUID

from counterseal.canonical import JsonObject
from counterseal_audit.logs.store import Log
from counterseal_audit.payloads import engine
from counterseal_audit.payloads.keys import DataKeys
from counterseal_audit.payloads.store import PayloadRow

MAX_OPEN_KEYS = 1_000


class Opener:
    """Opens the payload of one log; make one per call, as its keys live as long as it does."""

    def __init__(self, keys: DataKeys, log: Log) -> None:
        self._keys = keys
        self._log = log
        self._open: OrderedDict[UUID, bytes] = OrderedDict()

    async def open(self, document: JsonObject, rows: Iterable[PayloadRow]) -> list[str]:
        """Return the disclosures of an entry whose keys are not destroyed, in the order in which they were sent.

        Raises PayloadDamaged when a row is not what was sealed there; SealUnavailable.
        """
        found = []
        for row in rows:
            if row.wrapped is not None:
                aad = engine.associated_data(self._log.origin, str(document["event_id"]), row.ord)
                found.append(engine.open_sealed(await self._key(row.dek_id, row.wrapped), aad, row.ciphertext))
        return found

    async def _key(self, dek_id: UUID, wrapped: str) -> bytes:
        key = self._open.get(dek_id)
        if key is None:
            key = self._open[dek_id] = await self._keys.open(self._log.tenant, wrapped)
            if len(self._open) > MAX_OPEN_KEYS:
                self._open.popitem(last=False)
        return key
