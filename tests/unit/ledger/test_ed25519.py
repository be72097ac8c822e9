"""The plain Python verifier accepts exactly the valid cases of Wycheproof, and agrees with libsodium."""

import hashlib
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_is_valid_point as is_valid_point
from nacl.signing import SigningKey

from counterseal.ledger import ed25519
from support.shared import shared_path

SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
]


def test_wycheproof() -> None:
    vectors = json.loads(shared_path("vectors/ed25519/wycheproof_ed25519_test.json").read_text())
    count = 0
    for group in vectors["testGroups"]:
        public = bytes.fromhex(group["publicKey"]["pk"])
        for case in group["tests"]:
            verdict = ed25519.verify(public, bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"]))
            assert verdict == (case["result"] == "valid"), case["tcId"]
            count += 1
    assert count == vectors["numberOfTests"]


@settings(max_examples=25)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_signatures_of_libsodium_verify_and_changed_ones_do_not(seed: bytes, message: bytes) -> None:
    key = SigningKey(seed)
    public, signature = bytes(key.verify_key), key.sign(message).signature
    assert ed25519.is_valid_key(public)
    assert ed25519.verify(public, message, signature)
    assert not ed25519.verify(public, message + b"x", signature)
    assert not ed25519.verify(public, message, signature[:63] + bytes([signature[63] ^ 1]))


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_keys_of_small_order_are_refused(point: str) -> None:
    """Under such a key one signature would fit many messages."""
    public = bytes.fromhex(point)
    assert not ed25519.is_valid_key(public)
    assert not ed25519.verify(public, b"anything", public + b"\0" * 32)


@settings(max_examples=50)
@given(st.binary(max_size=40), st.binary(max_size=70))
def test_no_bytes_raise(public: bytes, signature: bytes) -> None:
    assert not ed25519.verify(public, b"", signature)


# RFC 8032 section 7.1, tests 1 to 3.
KNOWN = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155",
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da",
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac",
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("public", "message", "r", "s"), KNOWN)
def test_the_signatures_of_the_rfc(public: str, message: str, r: str, s: str) -> None:
    key, text, good = bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(r + s)
    assert ed25519.is_valid_key(key)
    assert ed25519.verify(key, text, good)
    for at in range(0, 64, 9):
        assert not ed25519.verify(key, text, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    for at in range(0, 32, 6):
        assert not ed25519.verify(key[:at] + bytes([key[at] ^ 1]) + key[at + 1 :], text, good)
    for other in (b"", good[:63], good + b"\0", b"\0" + good):
        assert not ed25519.verify(key, text, other)
    for other in (b"", key[:31], key + b"\0", b"\0" + key):
        assert not ed25519.verify(other, text, good)
        assert not ed25519.is_valid_key(other)


ORDER = 2**252 + 27742317777372353535851937790883648493
PRIME = 2**255 - 19


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def challenge(r: bytes, public: bytes, message: bytes) -> int:
    return number(hashlib.sha512(r + public + message).digest()) % ORDER


@pytest.mark.parametrize(("public", "message", "r", "s"), KNOWN)
def test_the_other_half_of_a_signature_has_one_spelling(public: str, message: str, r: str, s: str) -> None:
    """S and S + L satisfy the same equation: without a bound everybody could make a second signature."""
    for times in range(15):
        moved = (number(bytes.fromhex(s)) + times * ORDER).to_bytes(32, "little")
        assert ed25519.verify(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(r) + moved) == (not times)


def scalar_of(seed: bytes) -> int:
    half = number(hashlib.sha512(seed).digest()[:32])
    return half & ((1 << 254) - 8) | 1 << 254


def test_a_point_of_a_signature_has_one_spelling_too() -> None:
    """R = identity is allowed, a signature under it can be made by whoever holds the key; but only as it is written."""
    seed = b"s" * 32
    public = bytes(SigningKey(seed).verify_key)
    for r, good in (
        ((1).to_bytes(32, "little"), True),
        ((1 | 1 << 255).to_bytes(32, "little"), False),  # minus zero
        ((PRIME + 1).to_bytes(32, "little"), False),
    ):
        s = challenge(r, public, b"m") * scalar_of(seed) % ORDER
        assert ed25519.verify(public, b"m", r + s.to_bytes(32, "little")) == good


def test_a_coordinate_that_is_the_prime_itself_is_zero_in_another_spelling() -> None:
    """Under a key with a part of order 4 a signature with such an R can be made, and only the spelling refuses it."""
    seed = b"s" * 32
    quarter = ed25519._decompress(bytes(32))  # y = 0: a point of order 4
    own = ed25519._decompress(bytes(SigningKey(seed).verify_key))
    assert quarter is not None
    assert own is not None
    x, y, z, _ = ed25519._add(own, quarter)
    inverse = pow(z, -1, PRIME)
    x, y = x * inverse % PRIME, y * inverse % PRIME
    mixed = (y | (x & 1) << 255).to_bytes(32, "little")
    assert ed25519.is_valid_key(mixed)
    for r, good in (
        (bytes(32), True),
        ((1 << 255).to_bytes(32, "little"), True),
        (PRIME.to_bytes(32, "little"), False),
        ((PRIME | 1 << 255).to_bytes(32, "little"), False),
    ):
        sign = r[31] >> 7
        # R is the point of order 4 or its negative; it must be minus [h] of the key's own part of order 4.
        message = next(m for m in (bytes([n]) for n in range(256)) if challenge(r, mixed, m) % 4 == (1 if sign else 3))
        s = challenge(r, mixed, message) * scalar_of(seed) % ORDER
        assert ed25519.verify(mixed, message, r + s.to_bytes(32, "little")) == good


def test_a_point_and_its_mirrors_are_four_points() -> None:
    """Whoever holds the key can make a signature that leads to R; the points that share x or y with R are others."""
    seed, nonce = b"s" * 32, 123456789
    public = bytes(SigningKey(seed).verify_key)
    x, y, z, _ = ed25519._double_scalar(nonce, ed25519._BASE, 0, ed25519._BASE)
    inverse = pow(z, -1, PRIME)
    x, y = x * inverse % PRIME, y * inverse % PRIME
    for mirrored_x, mirrored_y, good in (
        (x, y, True),
        (PRIME - x, y, False),
        (x, PRIME - y, False),
        (PRIME - x, PRIME - y, False),
    ):
        r = (mirrored_y | (mirrored_x & 1) << 255).to_bytes(32, "little")
        s = (nonce + challenge(r, public, b"m") * scalar_of(seed)) % ORDER
        assert ed25519.verify(public, b"m", r + s.to_bytes(32, "little")) == good


@settings(max_examples=40)
@given(st.binary(min_size=32, max_size=32))
@example((1).to_bytes(32, "little"))
@example((PRIME - 1).to_bytes(32, "little"))
def test_what_libsodium_takes_for_no_point_is_none(data: bytes) -> None:
    """Half of all numbers are no y of the curve; a third party says which. It also demands the prime subgroup."""
    if is_valid_point(data):
        assert ed25519.is_valid_key(data)
    lifted = ed25519._decompress(data)
    if lifted is not None:
        x, y, _, t = lifted
        assert (y * y - x * x - 1 + 121665 * pow(121666, -1, PRIME) * x * x * y * y) % PRIME == 0
        assert (t, x & 1) == (x * y % PRIME, data[31] >> 7)
