"""Verifier keys: the names they may bear, the one spelling of each, and keys that other people published."""

import pytest

from counterseal.ledger.encoding import b64
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import COSIGNATURE, ED25519, VerifierKey, _key_id, open_note, split_vkey
from support.exports import KEY
from support.histories import W1

# The documentation of golang.org/x/mod/sumdb/note.
NEUMANN = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN_SAID = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

# A public witness's key, with the type byte of a cosigner.
REMORA = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"


def vkey_of(name: str, material: bytes) -> str:
    return f"{name}+{_key_id(name, material).hex()}+{b64(material)}"


def test_a_key_and_a_note_of_the_format_s_authors_are_read() -> None:
    key = VerifierKey.parse(NEUMANN)
    assert (key.name, key.algorithm, key.key_id.hex(), key.vkey) == ("PeterNeumann", ED25519, "c74f20a3", NEUMANN)
    assert open_note(NEUMANN_SAID.encode(), [key]).signers == (key,)
    assert VerifierKey.make("PeterNeumann", key.public) == key


def test_a_published_cosigner_is_read_and_is_no_log() -> None:
    key = VerifierKey.parse_cosigner(REMORA)
    assert (key.name, key.algorithm, key.key_id.hex(), key.vkey) == ("remora.n621.de", COSIGNATURE, "da77ade7", REMORA)
    with pytest.raises(VerificationError, match="type byte 1 and 32 bytes"):
        VerifierKey.parse(REMORA)


@pytest.mark.parametrize("vkey", [NEUMANN, KEY.vkey, W1[1].vkey])
def test_no_part_of_a_vkey_and_no_change_of_one_character_is_a_vkey(vkey: str) -> None:
    length = len(vkey)
    bad = {vkey[i:j] for i in range(length) for j in range(i, length + 1)} - {vkey}
    bad |= {vkey[:i] + chr(ord(vkey[i]) + 1) + vkey[i + 1 :] for i in range(length)}
    bad |= {vkey + "+", vkey + "+AA==", vkey + "\n", " " + vkey, vkey.replace("+", "++", 1)}
    for text in bad:
        for read in (VerifierKey.parse, VerifierKey.parse_cosigner, split_vkey):
            with pytest.raises(VerificationError):
                read(text)


@pytest.mark.parametrize("algorithm", [0, ED25519, 2, COSIGNATURE, 5, 6, 255])
@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 64])
def test_only_32_bytes_of_a_known_algorithm_are_a_key(algorithm: int, length: int) -> None:
    material = bytes([algorithm]) + (KEY.public + KEY.public)[:length]
    vkey = vkey_of("a", material)
    for read, algorithms in (
        (VerifierKey.parse, {ED25519}),
        (VerifierKey.parse_cosigner, {ED25519, COSIGNATURE}),
    ):
        if length == 32 and algorithm in algorithms:
            assert read(vkey).public == KEY.public
        else:
            with pytest.raises(VerificationError):
                read(vkey)
    if length:
        assert split_vkey(vkey) == ("a", material), "of any algorithm"


SMALL_ORDER = [
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]


@pytest.mark.parametrize("public", [*SMALL_ORDER, b"\xff" * 32, b"\2" + bytes(31), KEY.public[:31], KEY.public + b"\0"])
def test_what_is_no_usable_point_is_no_key(public: bytes) -> None:
    with pytest.raises(VerificationError):
        VerifierKey.make("a", public)
    with pytest.raises(VerificationError):
        VerifierKey.parse(vkey_of("a", bytes([ED25519]) + public))
    with pytest.raises(VerificationError):
        VerifierKey.parse_cosigner(vkey_of("a", bytes([COSIGNATURE]) + public))


SPACES = {0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
"""Unicode's white space above ASCII."""

REFUSED = {*range(0x21), ord("+"), *range(0xD800, 0xE000), *SPACES}


def test_a_name_holds_no_space_control_character_plus_or_half_a_character() -> None:
    for code in sorted(REFUSED):
        for name in (chr(code), f"a{chr(code)}", f"{chr(code)}b", f"a{chr(code)}b"):
            with pytest.raises(VerificationError, match="a key name"):
                VerifierKey.make(name, KEY.public)
    with pytest.raises(VerificationError, match="a key name"):
        VerifierKey.make("", KEY.public)


def test_every_other_character_is_good_in_a_name() -> None:
    beside = {code + step for code in REFUSED for step in (-1, 1)} | {0x7F, 0x10FFFF, 0x2014}
    for code in sorted(code for code in beside - REFUSED if code >= 0):
        key = VerifierKey.make(f"a{chr(code)}", KEY.public)
        assert VerifierKey.parse(key.vkey) == key


def test_a_vkey_names_what_its_id_was_made_of() -> None:
    material = bytes([ED25519]) + KEY.public
    for name in ("a b", "", "a\u3000b", "a\x01b"):
        with pytest.raises(VerificationError, match="a key name"):
            split_vkey(vkey_of(name, material))
    good = vkey_of("a", material)
    with pytest.raises(VerificationError, match="8 lower-case hex digits"):
        split_vkey(good.replace(good.split("+")[1], good.split("+")[1].upper() + "A"))
    with pytest.raises(VerificationError, match="does not belong"):
        split_vkey(good.replace("a+", "b+", 1))
    with pytest.raises(VerificationError, match="three parts"):
        split_vkey("a+" + "0" * 8)
