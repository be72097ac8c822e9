"""Signed notes, checkpoints and proofs: the public vectors, and what readers must not accept."""

import json
from typing import Any

import pytest
from nacl.signing import SigningKey

from counterseal.ledger import checkpoint as checkpoints
from counterseal.ledger import proof as proofs
from counterseal.ledger.checkpoint import Checkpoint, open_checkpoint
from counterseal.ledger.encoding import parse_b64
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey, assemble, open_note, signature_line, split
from counterseal.ledger.proof import TlogProof
from counterseal.ledger.tree import inclusion_path, leaf_hash, root_of
from support.exports import KEY, ORIGIN, SIGNING, changed, log_of, sign
from support.shared import shared_path


def vectors(name: str) -> Any:
    return json.loads(shared_path(f"vectors/ledger/{name}.json").read_text())


def test_every_note_opens_or_fails_as_the_vectors_say() -> None:
    for case in vectors("sumdb-note")["notes"]:
        try:
            note = open_note(case["msg"].encode(), [VerifierKey.parse(vkey) for vkey in case["vkeys"]])
        except VerificationError:
            assert case["result"] == "error", case["desc"]
        else:
            assert case["result"] == "ok", case["desc"]
            assert [signer.name for signer in note.signers] == case["verified"]
            assert note.text == case["text"] if "text" in case else note.text


def test_every_substring_and_every_increment_of_a_vkey_is_refused() -> None:
    data = vectors("sumdb-note")
    for vkey in data["vkeys"]:
        assert VerifierKey.parse(vkey).vkey == vkey
        length = len(vkey)
        bad = {vkey[i:j] for i in range(length) for j in range(i, length + 1)} - {vkey}
        bad |= {vkey[:i] + chr(ord(vkey[i]) + 1) + vkey[i + 1 :] for i in range(length)}
        for text in [*bad, *data["bad_vkeys"]]:
            with pytest.raises(VerificationError):
                VerifierKey.parse(text)


def test_the_deterministic_signing_case() -> None:
    case = vectors("sumdb-note")["skey_deterministic_test"]
    signing = SigningKey(parse_b64(case["ed25519_seed_b64_with_type_byte"], "seed")[1:])
    key = VerifierKey.make(case["name"], bytes(signing.verify_key))
    assert key.key_id.hex() == case["key_id"]
    assert signature_line(key, signing.sign(case["text"].encode()).signature) == case["signature_line"]


def test_malformed_checkpoints_are_refused_before_any_signature_is_looked_at() -> None:
    for text in vectors("c2sp-formats")["checkpoint_body_bad"]:
        with pytest.raises(VerificationError):
            checkpoints.parse_text(text)


def test_malformed_proofs_are_refused_and_the_good_one_survives_a_round_trip() -> None:
    data = vectors("c2sp-formats")
    for text in data["tlog_proof_bad"]:
        with pytest.raises(VerificationError):
            proofs.parse(text.encode())
    good = data["tlog_proof_good"].encode()
    assert proofs.parse(good).serialize() == good


@pytest.mark.parametrize(
    "text",
    [
        "\n5\n" + "A" * 43 + "=\n",
        ORIGIN + "\n05\n" + "A" * 43 + "=\n",
        ORIGIN + "\n+5\n" + "A" * 43 + "=\n",
        ORIGIN + "\n\u0665\n" + "A" * 43 + "=\n",  # an Arabic digit
        ORIGIN + "\n9223372036854775808\n" + "A" * 43 + "=\n",
        ORIGIN + "\n5\n" + "A" * 42 + "==\n",
        ORIGIN + "\n5\n" + "A" * 42 + "B=\n",  # stray bits: another spelling of the same hash
        ORIGIN + "\n5\n" + "A" * 43 + "=\n\n",
    ],
)
def test_a_checkpoint_has_one_spelling(text: str) -> None:
    with pytest.raises(VerificationError):
        checkpoints.parse_text(text)


def test_a_checkpoint_signed_by_another_logs_key_is_refused() -> None:
    other = SigningKey(b"\x09" * 32)
    key = VerifierKey.make("counterseal.dev/other", bytes(other.verify_key))
    note = sign(Checkpoint(ORIGIN, 1, b"\0" * 32), other, key)
    with pytest.raises(VerificationError, match="not signed by that log's key"):
        open_checkpoint(note, [KEY, key])


def test_a_known_key_that_fails_rejects_the_note_even_beside_a_good_signature() -> None:
    other = SigningKey(b"\x09" * 32)
    witness = VerifierKey.make("witness.example", bytes(other.verify_key))
    text = Checkpoint(ORIGIN, 1, b"\0" * 32).text()
    good = signature_line(KEY, SIGNING.sign(text.encode()).signature)
    bad = signature_line(witness, b"\0" * 64)
    assert open_note(assemble(text, [good, bad]), [KEY]).signers == (KEY,)
    with pytest.raises(VerificationError, match="does not verify"):
        open_note(assemble(text, [good, bad]), [KEY, witness])


def test_sixteen_signatures_are_accepted() -> None:
    text = "text\n"
    lines = []
    for number in range(16):
        key = VerifierKey.make(f"k{number}", bytes(SigningKey(bytes([number + 1]) * 32).verify_key))
        lines.append(signature_line(key, b"\0" * 64))
    assert len(split(assemble(text, lines))[1]) == 16


def test_the_last_blank_line_separates_text_and_signatures() -> None:
    text = "one\n\ntwo\n"
    note = assemble(text, [signature_line(KEY, SIGNING.sign(text.encode()).signature)])
    assert open_note(note, [KEY]).text == text


def test_a_proof_file_proves_its_entry_and_no_other() -> None:
    logged = log_of(7)
    leaves = [leaf_hash(data) for data in logged]
    note = sign(Checkpoint(ORIGIN, 7, root_of(leaves)))
    proof = TlogProof(3, tuple(inclusion_path(3, leaves)), note, extra=b"disclosures")
    read = proofs.parse(proof.serialize())
    assert read == proof
    assert read.verify(logged[3], [KEY]).size == 7
    for other in (logged[4], changed(99), logged[3] + b" "):
        with pytest.raises(VerificationError):
            read.verify(other, [KEY])
