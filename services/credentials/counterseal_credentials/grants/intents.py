"""Reads an intent back from the ledger, so that "no effect without an acknowledged intent" does not rest on the
executor's honesty.
"""

from typing import Any

import grpc

from counterseal.api.audit.v1 import reader_pb2
from counterseal.errors import LedgerUnavailable, NotFound, ServiceError
from counterseal.ledger.entry import parse
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tree import leaf_hash
from counterseal.rpc.status import from_rpc_error

TIMEOUT_SECONDS = 5.0


class IntentReader:
    """Entries by event id."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    async def read(self, tenant: str, event_id: str) -> dict[str, Any] | None:
        """Return an entry's content, None when there is none. Raises LedgerUnavailable."""
        request = reader_pb2.GetEntryRequest(tenant=tenant, event_id=event_id)
        try:
            answer = await self._stub.GetEntry(request, timeout=TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            mapped: ServiceError = from_rpc_error(error, peer="audit")
            if isinstance(mapped, NotFound):
                return None
            raise LedgerUnavailable("the intent could not be read") from None
        found = answer.entry
        try:
            if leaf_hash(found.entry) != found.leaf_hash:
                raise LedgerUnavailable("the ledger answered bytes that are not the leaf's")
            entry = parse(found.entry)
        except VerificationError:
            raise LedgerUnavailable("the ledger answered bytes that are no entry") from None
        return entry.document if entry.event_id == event_id else None
