"""The verdict that this database is older than the ledger; once it is in, nothing but a restart takes it back."""

import logging
from collections.abc import Callable

from counterseal.errors import StateBehindLedger
from counterseal_executor.database import time_of
from counterseal_executor.restore.engine import OwnEntry

log = logging.getLogger(__name__)

NEXT = "restore a backup that has it, or recover to a later time, then start the executor again"


class Behind:
    """Set once; `on_found` callbacks run then: workers end, the health service says NOT_SERVING."""

    def __init__(self) -> None:
        self.on_found: list[Callable[[], None]] = []
        self._tenant = ""
        self._entry: OwnEntry | None = None
        self._found = False

    def __bool__(self) -> bool:
        return self._found

    def set(self, tenant: str, entry: OwnEntry | None, why: str) -> None:
        """Take the verdict: the first entry of the tenant's log that is missing here, where it is known."""
        if self._found:
            return
        self._found, self._tenant, self._entry = True, tenant, entry
        place = {} if entry is None else {"index": entry.index, "event_id": entry.event_id, "type": entry.type}
        taken = "" if entry is None else f" (taken {time_of(entry.receive_time_ms).isoformat()})"
        log.critical(
            "this database is older than the ledger; nothing is served: %s%s; %s",
            why,
            taken,
            NEXT,
            extra={"reason": StateBehindLedger.reason, "tenant": tenant, **place},
        )
        for tell in self.on_found:
            tell()

    def check(self, tenant: str) -> None:
        """Raise StateBehindLedger once the verdict is in; only the tenant whose log it is learns which entry."""
        if not self._found:
            return
        entry = self._entry if tenant == self._tenant else None
        if entry is None:
            raise StateBehindLedger(f"the executor's database is older than the ledger; its operator must {NEXT}")
        raise StateBehindLedger(
            f"the executor's database lacks its own entry {entry.index} ({entry.type}) of the ledger;"
            f" its operator must {NEXT}",
            index=entry.index,
            event_id=entry.event_id,
        )
