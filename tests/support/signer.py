"""An Ed25519 signer in process, for tests of which Vault is not the subject."""

from nacl.signing import SigningKey


class LocalSigner:
    """Signs like a transit key: `await sign(message)` gives the 64-byte signature and the key id."""

    def __init__(self, kid: str = "test-1:1", seed: bytes = b"\x01" * 32) -> None:
        self.kid = kid
        self._key = SigningKey(seed)

    @property
    def public_key(self) -> bytes:
        return bytes(self._key.verify_key)

    async def sign(self, message: bytes) -> tuple[bytes, str]:
        return self._key.sign(message).signature, self.kid
