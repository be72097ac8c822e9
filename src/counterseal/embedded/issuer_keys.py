"""Keys of the development issuer: one per algorithm that the token service accepts, kept in its data directory.

Ed25519 (RFC 8037), RSA 2048 and P-256 (RFC 7518); public halves as a JWKS (RFC 7517).
"""

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from Cryptodome.Hash import SHA256
from Cryptodome.PublicKey import ECC, RSA
from Cryptodome.Signature import DSS, pkcs1_15
from nacl.signing import SigningKey

from counterseal.canonical import canonical

ALGORITHMS = ("EdDSA", "RS256", "ES256")


@dataclass(frozen=True, slots=True)
class IssuerKeys:
    """Signs compact JWS under `kid` = `dev-<alg>`."""

    ed25519: SigningKey
    rsa: RSA.RsaKey
    p256: ECC.EccKey

    @classmethod
    def kept(cls, directory: Path) -> "IssuerKeys":
        """Return the keys of a directory, made at the first call, each in a file of mode 0600."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(
            SigningKey(_kept(directory / "ed25519.seed", lambda: os.urandom(32))),
            RSA.import_key(_kept(directory / "rsa.der", lambda: RSA.generate(2048).export_key("DER"))),
            ECC.import_key(_kept(directory / "p256.der", lambda: ECC.generate(curve="P-256").export_key(format="DER"))),
        )

    def sign(self, claims: dict[str, Any], algorithm: str) -> str:
        """Return a compact JWS with `typ` JWT. Raises KeyError for an unknown algorithm."""
        header = canonical({"alg": algorithm, "typ": "JWT", "kid": f"dev-{algorithm}"})
        message = f"{base64url(header)}.{base64url(canonical(claims))}".encode()
        sign: dict[str, Callable[[], bytes]] = {
            "EdDSA": lambda: self.ed25519.sign(message).signature,
            "RS256": lambda: pkcs1_15.new(self.rsa).sign(SHA256.new(message)),
            "ES256": lambda: DSS.new(self.p256, "fips-186-3").sign(SHA256.new(message)),
        }
        return f"{message.decode()}.{base64url(sign[algorithm]())}"

    def jwks(self) -> dict[str, Any]:
        """Return the public keys as a JWK set."""
        x, y = (int(value).to_bytes(32, "big") for value in self.p256.pointQ.xy)
        n, e = (_unsigned(int(value)) for value in (self.rsa.n, self.rsa.e))
        verify_key = bytes(self.ed25519.verify_key)
        return {
            "keys": [
                {"kty": "OKP", "crv": "Ed25519", "x": base64url(verify_key), **_meta("EdDSA")},
                {"kty": "RSA", "n": base64url(n), "e": base64url(e), **_meta("RS256")},
                {"kty": "EC", "crv": "P-256", "x": base64url(x), "y": base64url(y), **_meta("ES256")},
            ]
        }


def base64url(data: bytes) -> str:
    """Return base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _meta(algorithm: str) -> dict[str, str]:
    return {"alg": algorithm, "use": "sig", "kid": f"dev-{algorithm}"}


def _unsigned(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _kept(file: Path, fresh: Callable[[], bytes]) -> bytes:
    if not file.exists():
        partial = file.with_name(file.name + ".partial")
        partial.touch(mode=0o600)
        partial.write_bytes(fresh())
        partial.rename(file)
    return file.read_bytes()
