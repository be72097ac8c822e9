"""The head MAC covers every field of the head row and the name of its log."""

import hmac
import struct
from dataclasses import replace

import pytest

from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import Frontier, leaf_hash
from counterseal_audit.append.mac import Head, HeadMac
from counterseal_audit.checkpoints.engine import Keyring, rotations_in

MAC = HeadMac(b"k" * 32, "example.org/log")
FRONTIER = Frontier().extend(leaf_hash(b"%d" % n) for n in range(5))
HEAD = Head(True, FRONTIER, FRONTIER.root(), MAC.of(FRONTIER))


def test_only_the_head_that_was_sealed_passes() -> None:
    MAC.check(HEAD)
    closed = Head(False, FRONTIER, FRONTIER.root(), MAC.of(FRONTIER, is_open=False))
    MAC.check(closed)
    other = Frontier().extend(leaf_hash(b"%d" % n) for n in range(6))
    for forged in (
        replace(HEAD, open=False),
        replace(closed, open=True),
        replace(HEAD, mac=None),
        replace(HEAD, mac=b""),
        replace(HEAD, mac=HEAD.mac[:-1] if HEAD.mac else None),
        replace(HEAD, root=other.root()),
        replace(HEAD, frontier=other, root=other.root()),
        replace(HEAD, frontier=Frontier(5, FRONTIER.hashes[::-1])),
    ):
        with pytest.raises(VerificationError):
            MAC.check(forged)
    for stranger in (replace(MAC, origin="example.org/log2"), replace(MAC, key=b"K" * 32), replace(MAC, origin="")):
        with pytest.raises(VerificationError):
            stranger.check(HEAD)


def test_the_mac_is_over_these_bytes() -> None:
    for size, is_open in ((0, True), (5, True), (5, False), (6, True)):
        head = Frontier().extend(leaf_hash(b"%d" % n) for n in range(size))
        text = b"counterseal ledger-head v1\0" + struct.pack(">I", 15) + b"example.org/log"
        text += struct.pack(">BQ", is_open, size) + head.root() + b"".join(head.hashes)
        assert MAC.of(head, is_open=is_open) == hmac.new(b"k" * 32, text, "sha256").digest()


def test_each_refusal_is_a_fork_and_says_which() -> None:
    for forged, why in (
        (replace(HEAD, root=b"\0" * 32), "root is not that of its frontier"),
        (replace(HEAD, mac=None), "MAC is not ours"),
        (replace(HEAD, mac=b"\0" * 32), "MAC is not ours"),
    ):
        with pytest.raises(VerificationError, match=why) as caught:
            MAC.check(forged)
        assert caught.value.kind == "forked"


def test_the_key_is_not_in_its_own_words() -> None:
    assert "kkkk" not in repr(MAC)


def test_two_keys_sign_until_the_overlap_ends() -> None:
    keys = tuple(VerifierKey("log", bytes([n]) * 32) for n in range(3))
    ring = Keyring(keys, (0, 100, 1000))
    assert ring.signing(1000, 50) == ring.signing(1049, 50) == keys[1:]
    assert ring.signing(1050, 50) == keys[2:]
    assert ring.retired(1049, 50) is None
    assert ring.retired(1050, 50) == (keys[1], 1050)
    alone = Keyring(keys[:1], (0,))
    assert alone.signing(5, 50) == keys[:1]
    assert alone.retired(10**15, 0) is None


def test_entries_that_only_mention_a_rotation_are_none() -> None:
    assert rotations_in([b'{"type":"log.heartbeat"}', b"not even JSON"], 0, "example.org/log", 0) == []
