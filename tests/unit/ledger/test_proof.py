"""Offline proofs (C2SP tlog-proof): the form byte by byte, and that an entry lies where the proof says."""

import json

import pytest

from counterseal.ledger import proof as proofs
from counterseal.ledger.encoding import b64
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.proof import MAX_BYTES, TlogProof, parse
from counterseal.ledger.tree import inclusion_path, leaf_hash
from support.exports import KEY, log_of
from support.histories import NEW, OLD, W1, cosigned, note_of
from support.shared import shared_path

LOG = log_of(7)
LEAVES = [leaf_hash(data) for data in LOG]
NOTE = note_of(LOG, OLD)


def proof_of(index: int, extra: bytes | None = None, note: bytes = NOTE) -> TlogProof:
    return TlogProof(index, tuple(inclusion_path(index, LEAVES)), note, extra)


def test_the_form_is_that_of_the_specification() -> None:
    path = "".join(b64(one) + "\n" for one in inclusion_path(4, LEAVES))
    assert proof_of(4).serialize() == f"c2sp.org/tlog-proof@v1\nindex 4\n{path}\n".encode() + NOTE
    assert proof_of(4, b"more").serialize().startswith(b"c2sp.org/tlog-proof@v1\nextra bW9yZQ==\nindex 4\n")
    assert proofs.HEADER == "c2sp.org/tlog-proof@v1"
    vectors = json.loads(shared_path("vectors/ledger/c2sp-formats.json").read_text())
    assert parse(vectors["tlog_proof_good"].encode()) == TlogProof(0, (), b"checkpoint\n")
    for text in vectors["tlog_proof_bad"]:
        with pytest.raises(VerificationError):
            parse(text.encode())


@pytest.mark.parametrize("index", range(7))
@pytest.mark.parametrize("extra", [None, b"", b"\xffmore"])
def test_what_is_written_is_read_and_verifies(index: int, extra: bytes | None) -> None:
    proof = proof_of(index, extra)
    assert parse(proof.serialize()) == proof
    assert proof.verify(LOG[index], [KEY]).size == 7


def test_a_proof_of_one_entry_has_no_hashes() -> None:
    proof = TlogProof(0, (), note_of(LOG[:1], OLD))
    assert parse(proof.serialize()) == proof
    assert proof.verify(LOG[0], [KEY]).size == 1


def test_another_entry_index_path_or_checkpoint_does_not_verify() -> None:
    proof = proof_of(4)
    for bad, entry in (
        (proof, LOG[5]),
        (TlogProof(5, proof.path, NOTE), LOG[4]),
        (TlogProof(7, proof.path, NOTE), LOG[4]),
        (TlogProof(4, proof.path[:-1], NOTE), LOG[4]),
        (TlogProof(4, (*proof.path, b"\0" * 32), NOTE), LOG[4]),
        (TlogProof(4, (b"\0" * 32, *proof.path[1:]), NOTE), LOG[4]),
        (TlogProof(4, proof.path, note_of(LOG[:6], OLD)), LOG[4]),
        (TlogProof(4, proof.path, note_of(LOG, NEW)), LOG[4]),
        (TlogProof(4, proof.path, b"checkpoint\n"), LOG[4]),
    ):
        with pytest.raises(VerificationError):
            bad.verify(entry, [KEY])


def test_the_checkpoint_is_kept_verbatim_with_its_cosignatures() -> None:
    note = cosigned(NOTE, W1)
    proof = parse(proof_of(3, None, note).serialize())
    assert proof.checkpoint == note
    assert proof.verify(LOG[3], [KEY, W1[1]]).size == 7


GOOD = proof_of(4, b"x").serialize().decode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no checkpoint"),
        (GOOD.split("\n\n")[0], "no checkpoint"),
        (GOOD.split("\n\n")[0] + "\n\n", "no checkpoint"),
        (GOOD.replace("@v1", "@v2"), "the first line"),
        ("x" + GOOD, "the first line"),
        ("c2sp.org/tlog-proof@v1\n\n" + NOTE.decode(), "no index line"),
        ("c2sp.org/tlog-proof@v1\nextra eA==\n\n" + NOTE.decode(), "no index line"),
        (GOOD.replace("extra eA==", "extra eA="), "extra line is not"),
        (GOOD.replace("extra eA==\n", "extra eA==\nextra eA==\n"), "no index line"),
        (GOOD.replace("extra ", "Extra "), "no index line"),
        (GOOD.replace("index 4", "index 04"), "the index is not"),
        (GOOD.replace("index 4", "index -4"), "the index is not"),
        (GOOD.replace("index 4", "index"), "no index line"),
        (GOOD.replace("index 4\n", "index 4\nAAAA\n"), "has not 32 bytes"),
        (GOOD.replace("index 4\n", "index 4\n!\n"), "a hash of the proof is not base64"),
        (GOOD.replace("index 4", "index 4\r"), "control character"),
    ],
)
def test_a_malformed_proof_is_refused(text: str, why: str) -> None:
    with pytest.raises(VerificationError, match=why):
        parse(text.encode())


def test_the_longest_proof_is_read_and_one_byte_more_is_not() -> None:
    head = b"c2sp.org/tlog-proof@v1\nindex 0\n\n"
    longest = head + b"c" * (MAX_BYTES - len(head))
    assert MAX_BYTES == 8 * 1024 * 1024
    assert len(parse(longest).checkpoint) == MAX_BYTES - len(head)
    with pytest.raises(VerificationError, match="at most"):
        parse(longest + b"c")
