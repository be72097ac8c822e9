"""The audit service's own outbox: what it changes and the entry that says so are one transaction, as everywhere."""

import asyncio
from collections.abc import Sequence

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.errors import ServiceError
from counterseal.rpc.ledger_client import Appended, AppendOutcome, Refused
from counterseal_audit.append.ledger import Ledger


class OwnLedger:
    """The ledger of this process as producers see one; what `Outbox` needs of a `LedgerClient`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def append(self, requests: Sequence[ledger_pb2.NewEntry]) -> list[AppendOutcome]:
        """Append entries in order and return one outcome per entry. Raises LedgerUnavailable, SealUnavailable."""
        answers = await self._ledger.submit(requests, "audit")
        futures = [answer for answer in answers if not isinstance(answer, ServiceError)]
        await asyncio.shield(asyncio.gather(*futures, return_exceptions=True))
        outcomes: list[AppendOutcome] = []
        for request, answer in zip(requests, answers, strict=True):
            try:
                if isinstance(answer, ServiceError):
                    raise answer
                receipt = answer.result()
            except ServiceError as error:
                if error.code in ("UNAVAILABLE", "INTERNAL"):
                    raise
                outcomes.append(Refused(request.event_id, error))
            else:
                outcomes.append(
                    Appended(
                        request.event_id,
                        receipt.index,
                        receipt.leaf_hash,
                        receipt.entry,
                        receipt.duplicate,
                        signed_size=0,
                        signed_time_ms=0,
                        pseudonyms={},
                    )
                )
        return outcomes
