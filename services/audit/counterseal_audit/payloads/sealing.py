"""Sealing on append: an entry's disclosures become ciphertexts that the entry's own statement writes."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from counterseal.canonical import JsonObject
from counterseal_audit.append.engine import SealedPayload
from counterseal_audit.logs.store import Log
from counterseal_audit.payloads import engine
from counterseal_audit.payloads.keys import DataKeys


@dataclass(frozen=True, slots=True)
class Sealing:
    """Seals under the live key of whose payload it is."""

    keys: DataKeys
    randomness: Callable[[int], bytes] = secrets.token_bytes

    async def seal(
        self, log: Log, content: JsonObject, disclosures: Sequence[str], retention: str, receive_time_ms: int
    ) -> tuple[SealedPayload, ...]:
        """Return the rows of an entry's payload; none without disclosures.

        content: with pseudonyms in place. Raises SealUnavailable, LedgerUnavailable, InputInvalid (retention).
        """
        due = engine.due_on(retention, receive_time_ms)
        if not disclosures:
            return ()
        key = await self.keys.live(log, engine.owner(content))
        event_id = str(content["event_id"])
        return tuple(
            SealedPayload(
                at,
                due,
                key.dek_id,
                engine.seal(key.key, engine.associated_data(log.origin, event_id, at), disclosure, self.randomness),
                held=False,
            )
            for at, disclosure in enumerate(disclosures)
        )
