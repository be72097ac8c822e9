"""Payload rows for reading, with the wrapped key of each; one log at a time (row-level security)."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal_audit.database import reading


@dataclass(frozen=True, slots=True)
class PayloadRow:
    """One sealed disclosure. wrapped: its key as it is stored, None once the key was destroyed."""

    index: int
    ord: int
    dek_id: UUID
    wrapped: str | None
    ciphertext: bytes


class PayloadStore:
    """The rows of `ledger_payload`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def of(self, log_id: int, indexes: Sequence[int]) -> dict[int, list[PayloadRow]]:
        """Return entry -> its payload rows in order; entries without any are absent. Raises LedgerUnavailable."""
        async with reading(self._engine, log_id) as raw:
            rows = await raw.fetch(
                "SELECT p.idx, p.ord, p.dek_id, k.wrapped, p.ciphertext FROM ledger_payload p"
                " LEFT JOIN ledger_dek k ON k.dek_id = p.dek_id AND k.log_id = p.log_id"
                " WHERE p.log_id = $1 AND p.idx = ANY($2::bigint[]) ORDER BY p.idx, p.ord",
                log_id,
                list(indexes),
            )
        found: dict[int, list[PayloadRow]] = {}
        for row in rows:
            one = PayloadRow(row["idx"], row["ord"], UUID(str(row["dek_id"])), row["wrapped"], row["ciphertext"])
            found.setdefault(one.index, []).append(one)
        return found
