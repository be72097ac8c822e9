"""All witnesses of the policy, asked at once about each head; what they sign stands behind our own signature."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import aiohttp

from counterseal.errors import ServiceError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.policy import Policy
from counterseal.ledger.tree import consistency_spans
from counterseal_audit.checkpoints.seams import CosignedNote
from counterseal_audit.logs.store import Log
from counterseal_audit.reader.trees import Trees
from counterseal_audit.witnesses.client import NotCosigned, WitnessClient, first_suffices
from counterseal_audit.witnesses.config import class_of

LINGER_SECONDS = 0.1
"""How much longer a head waits for more witnesses than its quorum needs."""

ProveLog = Callable[[Log, int, int], Awaitable[Sequence[bytes]]]

log = logging.getLogger("counterseal.audit.witnesses")


def prover(trees: Trees) -> ProveLog:
    """Return what makes a log's consistency proofs from its stored hashes."""

    async def prove(one: Log, old: int, new: int) -> Sequence[bytes]:
        return await trees.roots(one.log_id, consistency_spans(old, new))

    return prove


class Cosigners:
    """The witnesses of a policy (`checkpoints.seams.Witnesses`).

    required_for: classes of logs whose heads wait for the quorum. Close it in the loop in which it was used.
    """

    def __init__(
        self,
        policy: Policy,
        prove: ProveLog,
        *,
        required_for: Sequence[str] = (),
        timeout_seconds: float = 2.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._prove = prove
        self._required_for = frozenset(required_for)
        self._timeout = timeout_seconds
        self._context = context
        self._clients = [
            WitnessClient(one.name, one.key, one.url) for one in policy.witnesses if one.key is not None and one.url
        ]
        self._session: aiohttp.ClientSession | None = None

    def is_required(self, one: Log) -> bool:
        """Tell whether heads of this log are held back until the quorum has cosigned."""
        return class_of(one.tenant) in self._required_for

    async def cosign(self, one: Log, note: bytes, size: int) -> CosignedNote | None:
        """Return the note with the cosignatures that came in time, None when none came. Raises nothing for a witness.

        Size 0 proves nothing and is not shown to witnesses.
        """
        if not self._clients or size == 0:
            return None
        session = self._open()
        got: dict[VerifierKey, list[str]] = {}
        tasks = {
            asyncio.create_task(self._ask(session, client, one, note, size, got), name=f"witness {client.name}")
            for client in self._clients
        }
        try:
            await first_suffices(tasks, lambda: self._policy.is_met_by(got), self._timeout, LINGER_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not got:
            return None
        lines = "".join(line for client in self._clients for line in got.get(client.key, ()))
        return CosignedNote(note + lines.encode(), self._policy.is_met_by(got))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        client: WitnessClient,
        one: Log,
        note: bytes,
        size: int,
        got: dict[VerifierKey, list[str]],
    ) -> None:
        try:
            got[client.key] = await client.cosign(session, one.origin, note, size, partial(self._prove, one))
        except NotCosigned as why:
            log.warning(
                "a witness did not cosign", extra={"witness": client.name, "log_id": one.log_id, "why": str(why)}
            )
        except ServiceError as error:
            log.warning("a witness was not asked", extra={"witness": client.name, "reason": error.reason})

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._context if self._context is not None else True)
            timeout = aiohttp.ClientTimeout(total=self._timeout)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False)
        return self._session
