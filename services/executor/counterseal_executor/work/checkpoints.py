"""Waiting until a signed checkpoint covers an intent, before something is sent that nobody can take back.

A durable intent can still vanish with the ledger's newest second: whoever owns its database plays an older head back.
Once a checkpoint covers it, the log's key has vouched for it. That is not believed but verified: the keys come from
the token service, which has them from Vault, never from the ledger that shows the proof.
"""

from collections.abc import Sequence
from typing import Protocol

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.errors import LogForked
from counterseal.ledger import proof as proofs
from counterseal.ledger.checkpoint import Checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.keyring import claimed
from counterseal.ledger.note import VerifierKey
from counterseal.rpc.ledger_client import Appended, LedgerClient
from counterseal.rpc.outbox import Acknowledged


class LogKeys(Protocol):
    """Where the keys that sign logs come from: `KeyCache`."""

    async def versions(self, name: str) -> list[bytes]:
        """Return the active public keys of a name."""

    async def refresh(self) -> None:
        """Fetch them again."""


class Checkpoints:
    """Waits up to `seconds` for the checkpoint over an intent."""

    def __init__(self, ledger: LedgerClient, keys: LogKeys, environment: str, seconds: float) -> None:
        self._ledger = ledger
        self._keys = keys
        self._name = f"log-{environment}"
        self._seconds = seconds

    async def cover(self, intent: ledger_pb2.NewEntry, acknowledged: Acknowledged) -> None:
        """Return once a checkpoint that the log's key signed covers an intent that the ledger has acknowledged.

        The same entry is appended again, which changes nothing and waits for the checkpoint. Raises CheckpointStale
        when none came in time, LogForked when what the ledger shows proves something else, and LedgerUnavailable.
        """
        receipt = await self._ledger.prove(intent, self._seconds)
        if (receipt.index, receipt.leaf_hash) != (acknowledged.index, acknowledged.leaf_hash):
            raise LogForked("the ledger proves another entry than it acknowledged", event_id=intent.event_id)
        try:
            check_proof(receipt, await self._keys.versions(self._name))
        except VerificationError:
            await self._keys.refresh()  # the log's key may have been rotated since
            try:
                check_proof(receipt, await self._keys.versions(self._name))
            except VerificationError as error:
                raise LogForked(
                    f"the ledger's proof of the intent does not hold: {error.message}", event_id=intent.event_id
                ) from None


def check_proof(receipt: Appended, keys: Sequence[bytes]) -> Checkpoint:
    """Return the checkpoint that covers a receipt's entry, after verifying signature and audit path.

    keys: 32 public bytes each; whichever of them signs counts, under the log's own name. Raises VerificationError.
    """
    proof = proofs.parse(receipt.tlog_proof)
    if proof.index != receipt.index:
        raise VerificationError(f"the proof is of entry {proof.index}, not of {receipt.index}")
    origin = claimed(proof.checkpoint).origin
    return proof.verify(receipt.entry, [VerifierKey.make(origin, public) for public in keys])
