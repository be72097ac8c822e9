"""Whatever comes in, every reader of the ledger library raises VerificationError and nothing else."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.ledger import checkpoint, disclosure, entry, note, proof, tiles
from counterseal.ledger.encoding import b64url
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tree import Frontier
from support.exports import KEY, changed, files_of, log_of

FILES = files_of(log_of(5))
PROOF = proof.TlogProof(1, (b"\1" * 32, b"\2" * 32), FILES["checkpoint"], b"extra").serialize()
DISCLOSURE = disclosure.make("args", {"a": [1, "x", None]}, lambda n: b"s" * n)
BUNDLE = tiles.Tile(None, 0, 5)

READERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "note": (lambda data: note.open_note(data, [KEY]), FILES["checkpoint"]),
    "checkpoint": (lambda data: checkpoint.open_checkpoint(data, [KEY]), FILES["checkpoint"]),
    "checkpoint text": (lambda data: checkpoint.parse_text(text_of(data)), FILES["checkpoint"]),
    "proof": (proof.parse, PROOF),
    "proof of an entry": (lambda data: proof.parse(data).verify(b"{}", [KEY]), PROOF),
    "vkey": (lambda data: note.VerifierKey.parse(text_of(data)), KEY.vkey.encode()),
    "entry": (entry.parse, changed(1)),
    "disclosure": (lambda data: disclosure.parse(text_of(data)), DISCLOSURE.encode()),
    "disclosed json": (lambda data: disclosure.parse(b64url(data)), b'["c3Nzc3Nzc3Nzc3Nzc3Nzcw","args",1]'),
    "bundle": (lambda data: tiles.parse_bundle(BUNDLE, data), FILES[BUNDLE.path]),
    "hashes": (lambda data: tiles.parse_hashes(tiles.Tile(0, 0, 5), data), FILES["tile/0/000.p/5"]),
    "path": (lambda data: tiles.parse_path(text_of(data)), b"tile/0/x001/234.p/5"),
    "frontier": (lambda data: Frontier.parse(5, data), b"\0" * 64),
}


def text_of(data: bytes) -> str:
    """Text as a command line gives it: undecodable bytes are lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


@st.composite
def mutated(draw: st.DrawFn, good: bytes) -> bytes:
    """Some cuts, flips, insertions and repetitions of good bytes, or no good bytes at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.integers(0, 3))
        if kind == 0 and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif kind == 1:
            data[at:at] = draw(
                st.sampled_from([b"\n", b"\n\n", b"\0", b"=", b"+", b" ", b'"', b"{", b"\xff", b"\xe2\x80\x94 "])
            )
        elif kind == 2:
            del data[at : at + draw(st.integers(1, 20))]
        else:
            data[at:at] = data[: draw(st.integers(0, len(data)))]
    return bytes(data)


@pytest.mark.parametrize("name", list(READERS))
def test_readers_raise_nothing_but_verification_errors(name: str) -> None:
    read, good = READERS[name]
    with contextlib.suppress(VerificationError):
        read(good)

    @settings(max_examples=300)
    @given(mutated(good))
    def attack(data: bytes) -> None:
        with contextlib.suppress(VerificationError):
            read(data)

    attack()
