"""A log's key rotated in a local signer, and who signed which checkpoint."""

from nacl.signing import SigningKey

from counterseal.ledger.note import VerifierKey, split
from support.audit import LocalLogSigner, Replica

PEOPLE = ("user:ana", "user:olga")


class TwoVersions(LocalLogSigner):
    """A signer whose key was rotated in Vault."""

    def rotate(self) -> VerifierKey:
        version = max(self.keys) + 1
        self.keys[version] = SigningKey(bytes([version]) * 32)
        return VerifierKey("any", bytes(self.keys[version].verify_key))


async def signers(parts: Replica, key_of: VerifierKey, size: int) -> list[bytes]:
    """Return the ids of the keys that signed the checkpoint of a size."""
    log = await parts.log()
    stored = (await parts.checkpoints.trees(log.log_id, [size])).by_size.get(size)
    assert stored is not None
    assert key_of.name == log.origin
    return [signature.key_id for signature in split(stored.published.note)[1]]
