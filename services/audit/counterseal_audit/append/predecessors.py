"""What a tenant's earlier logs hold already: an entry that is sent again after a freeze is answered, not repeated.

Two kinds of entries can be there: whatever was sent before the log began (a UUIDv7 says when it was made), and
`plan.committed`, whose id is derived from its plan, so that a plan commits once, for ever, in any log of the tenant.
"""

from collections.abc import Sequence
from uuid import UUID

from counterseal_audit.append.engine import Prepared
from counterseal_audit.append.store import AppendStore, Stored

SKEW_MS = 15 * 60_000
"""How far a producer's clock may be ahead of ours."""


class Predecessors:
    """The closed logs before a log. log_ids: newest first. begin_time_ms: when the log itself began."""

    def __init__(self, store: AppendStore, log_ids: Sequence[int], begin_time_ms: int) -> None:
        self._store = store
        self._log_ids = tuple(log_ids)
        self._begin_time_ms = begin_time_ms

    async def find(self, batch: Sequence[Prepared]) -> dict[str, Stored]:
        """Return the entries of a batch that an earlier log holds. Raises LedgerUnavailable."""
        wanted = [item.event_id for item in batch if may_be_older(item.event_id, self._begin_time_ms + SKEW_MS)]
        found: dict[str, Stored] = {}
        for log_id in self._log_ids if wanted else ():
            found = {**await self._store.find(log_id, wanted), **found}
        return found


def may_be_older(event_id: str, time_ms: int) -> bool:
    """Tell whether an event may have been made before `time_ms`: its id is no UUIDv7, or an older one."""
    try:
        known = UUID(event_id)
    except ValueError:
        return False  # refused by the database, and so in none of its logs
    return known.version != 7 or known.int >> 80 < time_ms
