"""The plain Python verifier accepts exactly the valid cases of Wycheproof, and agrees with libsodium."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
