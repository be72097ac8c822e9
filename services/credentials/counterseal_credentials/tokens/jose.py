"""Compact JWS of foreign issuers (RFC 7515, 7518, 8037): strict form, one pinned set of algorithms, no choice by token.

Pure. Guards: `none` and HMAC with a public key (the algorithm is looked up in ours, and a key serves one algorithm
only); duplicate JSON keys (the last would win elsewhere); `crit`, embedded or linked keys; a second spelling of base64.
Written over pycryptodomex and PyNaCl because the usual libraries bring Rust, and a generic JWT library would still
leave `typ`, duplicates and key types to us.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from Cryptodome.Hash import SHA256
from Cryptodome.PublicKey import ECC, RSA
from Cryptodome.Signature import DSS, pkcs1_15
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from counterseal.canonical import JsonObject, parse_strict
from counterseal.errors import NotCanonical, TokenInvalid

ALGORITHMS = ("EdDSA", "RS256", "ES256")
MAX_TOKEN_BYTES = 16_384
MIN_RSA_BITS = 2048

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
# The certificate parameters may stand there; nothing is read from them.
_HEADER = frozenset({"alg", "typ", "kid", "x5t", "x5t#S256", "x5c", "cty"})

Verify = Callable[[bytes, bytes], bool]
"""(message, signature) -> whether the signature is good."""


@dataclass(frozen=True, slots=True)
class Key:
    """One verification key: the only algorithm it serves, and its check."""

    algorithm: str
    verify: Verify


@dataclass(frozen=True, slots=True)
class Jws:
    """A token taken apart; nothing in it is verified yet."""

    algorithm: str
    key_id: str | None
    type: str | None
    message: bytes
    signature: bytes
    payload: bytes


def split(raw: str) -> Jws:
    """Take a compact JWS apart. Raises TokenInvalid, which never repeats the token."""
    if len(raw) > MAX_TOKEN_BYTES:
        raise TokenInvalid("the subject token is too long")
    parts = raw.split(".")
    if len(parts) != 3:
        raise TokenInvalid("the subject token is not a compact JWS")
    header = json_object(_decode(parts[0]))
    if not header.keys() <= _HEADER:
        raise TokenInvalid("the subject token's header has a parameter that is not accepted")
    algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if algorithm not in ALGORITHMS:
        raise TokenInvalid("the subject token's algorithm is not accepted")
    if not isinstance(key_id, (str, type(None))) or not isinstance(kind, (str, type(None))):
        raise TokenInvalid("the subject token's header is malformed")
    message = f"{parts[0]}.{parts[1]}".encode("ascii")
    return Jws(str(algorithm), key_id, kind, message, _decode(parts[2]), _decode(parts[1]))


def check(token: Jws, key: Key) -> JsonObject:
    """Return the claims of a token whose signature verifies under `key`. Raises TokenInvalid."""
    if key.algorithm != token.algorithm:
        raise TokenInvalid("the subject token's key serves another algorithm")
    if not key.verify(token.message, token.signature):
        raise TokenInvalid("the subject token's signature does not verify")
    return json_object(token.payload)


def read_jwks(document: Mapping[str, Any]) -> dict[str, Key]:
    """Return the usable keys of a JWK set (RFC 7517) by `kid`; others are passed over.

    A key without `kid`, of another type, curve, use or strength is not usable; a `kid` that occurs twice is not either.
    """
    found: dict[str, Key] = {}
    twice: set[str] = set()
    keys = document.get("keys")
    for item in keys if isinstance(keys, list) else []:
        if not isinstance(item, dict) or item.get("use", "sig") != "sig":
            continue
        kid = item.get("kid")
        try:
            key = read_jwk(item)
        except (ValueError, TypeError, IndexError, KeyError, TokenInvalid):
            continue
        if isinstance(kid, str) and key.algorithm == item.get("alg", key.algorithm):
            if kid in found:
                twice.add(kid)
            found[kid] = key
    return {kid: key for kid, key in found.items() if kid not in twice}


def read_jwk(item: Mapping[str, Any]) -> Key:
    """Return one public key. Raises ValueError, KeyError or TokenInvalid when it is none that we accept."""
    if item["kty"] == "OKP" and item["crv"] == "Ed25519":
        return Key("EdDSA", _ed25519(_sized(item["x"], 32)))
    if item["kty"] == "RSA":
        modulus, exponent = (int.from_bytes(_decode(item[name]), "big") for name in ("n", "e"))
        key = RSA.construct((modulus, exponent), consistency_check=True)
        if key.size_in_bits() < MIN_RSA_BITS:
            raise ValueError("the RSA key is too short")
        return Key("RS256", _rs256(key))
    if item["kty"] == "EC" and item["crv"] == "P-256":
        x, y = (int.from_bytes(_sized(item[name], 32), "big") for name in ("x", "y"))
        return Key("ES256", _es256(ECC.construct(curve="P-256", point_x=x, point_y=y)))
    raise ValueError("not a key type that is accepted")


def json_object(data: bytes) -> JsonObject:
    """Parse a JSON object strictly. Raises TokenInvalid."""
    try:
        return parse_strict(data)
    except NotCanonical:
        raise TokenInvalid("the subject token holds no strict JSON object") from None


def _ed25519(public: bytes) -> Verify:
    def verify(message: bytes, signature: bytes) -> bool:
        try:
            VerifyKey(public).verify(message, signature)
        except (BadSignatureError, ValueError):
            return False
        return True

    return verify


def _rs256(key: RSA.RsaKey) -> Verify:
    def verify(message: bytes, signature: bytes) -> bool:
        try:
            pkcs1_15.new(key).verify(SHA256.new(message), signature)
        except ValueError:
            return False
        return True

    return verify


def _es256(key: ECC.EccKey) -> Verify:
    def verify(message: bytes, signature: bytes) -> bool:
        if len(signature) != 64:  # r and s, 32 bytes each (RFC 7518 section 3.4); DER is refused
            return False
        try:
            DSS.new(key, "fips-186-3").verify(SHA256.new(message), signature)
        except ValueError:
            return False
        return True

    return verify


def _sized(text: Any, size: int) -> bytes:
    data = _decode(text)
    if len(data) != size:
        raise ValueError("the key has the wrong size")
    return data


def _decode(text: Any) -> bytes:
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text):
        raise TokenInvalid("the subject token is not base64url")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise TokenInvalid("the subject token is not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != text:
        raise TokenInvalid("the subject token is not base64url in its one form")
    return data
