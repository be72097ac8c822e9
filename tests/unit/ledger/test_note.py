"""Signed notes, checkpoints and proofs: the public vectors, and what readers must not accept."""

import json
from typing import Any

import pytest
from nacl.signing import SigningKey

from counterseal.ledger import checkpoint as checkpoints
from counterseal.ledger import proof as proofs
from counterseal.ledger.checkpoint import Checkpoint, open_checkpoint
from counterseal.ledger.encoding import b64, parse_b64
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import (
    MAX_SIGNATURES,
    Signature,
    VerifierKey,
    assemble,
    open_note,
    signature_line,
    split,
)
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
        ORIGIN + "\n5\n" + "A" * 43 + "=\next\n\next\n",
        ORIGIN + "\n5\n" + "A" * 43 + "=",
        ORIGIN + "\n5\n" + "A" * 43 + "=\next",
        ORIGIN + "\n5\n" + "A" * 44 + "\n",  # 33 bytes
        ORIGIN + "\n5\n" + "A" * 40 + "AA==\n",  # 31 bytes
        ORIGIN + "\n5\n\n",
        ORIGIN + "\n\n" + "A" * 43 + "=\n",
        ORIGIN + "\n5\n",
        ORIGIN + "\n",
        "\n",
        "",
    ],
)
def test_a_checkpoint_has_one_spelling(text: str) -> None:
    with pytest.raises(VerificationError):
        checkpoints.parse_text(text)


@pytest.mark.parametrize("extensions", [(), ("ext",), ("one", "two ", " three")])
def test_a_checkpoint_is_read_as_it_was_written(extensions: tuple[str, ...]) -> None:
    checkpoint = Checkpoint(ORIGIN, 5, bytes(32), extensions)
    assert checkpoint.text() == f"{ORIGIN}\n5\n{'A' * 43}=\n" + "".join(f"{line}\n" for line in extensions)
    assert checkpoints.parse_text(checkpoint.text()) == checkpoint
    assert open_checkpoint(sign(checkpoint), [KEY]) == checkpoint


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


SIGNED = "text\n"
GOOD_LINE = signature_line(KEY, SIGNING.sign(SIGNED.encode()).signature)


def line_of(raw: bytes, name: str = ORIGIN) -> str:
    return f"\u2014 {name} {b64(raw)}\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (GOOD_LINE.removeprefix("\u2014"), "does not start with an em dash"),
        (GOOD_LINE.replace("\u2014 ", "\u2014", 1), "does not start with an em dash"),
        (GOOD_LINE.replace("\u2014", "-", 1), "does not start with an em dash"),
        (" " + GOOD_LINE, "does not start with an em dash"),
        ("\u2014 \n", "not of the form"),
        (f"\u2014 {ORIGIN}\n", "not of the form"),
        (line_of(KEY.key_id + b"s" * 64, ""), "not of the form"),
        (line_of(KEY.key_id + b"s" * 64, "a+b"), "not of the form"),
        (line_of(KEY.key_id + b"s" * 64, "a\u3000b"), "not of the form"),
        (GOOD_LINE.replace(" ", "  "), "not of the form"),
        (f"\u2014 {ORIGIN} !\n", "not base64"),
        (f"\u2014 {ORIGIN} \n", "shorter than its key id"),
        (line_of(b"1234"), "shorter than its key id"),
        (GOOD_LINE.replace("\n", " \n"), "not base64"),
    ],
)
def test_a_malformed_signature_line_refuses_the_note_though_another_line_is_good(line: str, why: str) -> None:
    for lines in ([line], [GOOD_LINE, line], [line, GOOD_LINE]):
        with pytest.raises(VerificationError, match=why):
            open_note(assemble(SIGNED, lines), [KEY])


def test_a_signature_line_is_a_name_an_id_and_what_follows() -> None:
    assert split(assemble(SIGNED, [line_of(b"1234s")]))[1] == (Signature(ORIGIN, b"1234", b"s"),)
    assert split(assemble(SIGNED, [GOOD_LINE]))[1][0].value == SIGNING.sign(SIGNED.encode()).signature


def test_a_known_id_under_another_name_and_a_known_name_under_another_id_are_unknown_keys() -> None:
    value = SIGNING.sign(SIGNED.encode()).signature
    for line in (line_of(KEY.key_id + value, "other"), line_of(b"1234" + value)):
        with pytest.raises(VerificationError, match="no signature by a known key"):
            open_note(assemble(SIGNED, [line]), [KEY])
        assert open_note(assemble(SIGNED, [line, GOOD_LINE]), [KEY]).signers == (KEY,)


@pytest.mark.parametrize("cut", [1, 2, 63])
def test_a_signature_of_another_length_refuses_the_note(cut: int) -> None:
    value = SIGNING.sign(SIGNED.encode()).signature
    for other in (value[:-cut], value + b"\0" * cut, value[cut:]):
        with pytest.raises(VerificationError, match="does not verify"):
            open_note(assemble(SIGNED, [signature_line(KEY, other)]), [KEY])


def test_every_changed_byte_of_a_signed_text_is_noticed() -> None:
    data = assemble(SIGNED, [GOOD_LINE])
    for at in range(len(data)):
        with pytest.raises(VerificationError):
            open_note(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], [KEY])


def test_no_part_of_a_note_is_a_note() -> None:
    data = assemble(SIGNED, [GOOD_LINE])
    for end in range(len(data)):
        with pytest.raises(VerificationError):
            open_note(data[:end], [KEY])
    for start in range(1, len(data)):
        with pytest.raises(VerificationError):
            open_note(data[start:], [KEY])


def test_a_signer_counts_once_and_a_reader_lists_each_key_once() -> None:
    assert open_note(assemble(SIGNED, [GOOD_LINE, GOOD_LINE]), [KEY]).signers == (KEY,)
    with pytest.raises(VerificationError, match="listed twice"):
        open_note(assemble(SIGNED, [GOOD_LINE]), [KEY, KEY])
    with pytest.raises(VerificationError, match="no signature by a known key"):
        open_note(assemble(SIGNED, [GOOD_LINE]), [])


def test_as_many_signatures_are_read_as_is_stated_and_no_more() -> None:
    lines = [GOOD_LINE, *(line_of(b"%05d" % n) for n in range(MAX_SIGNATURES))]
    assert MAX_SIGNATURES == 100
    assert open_note(assemble(SIGNED, lines[:-1]), [KEY]).signers == (KEY,)
    with pytest.raises(VerificationError, match="at most 100"):
        open_note(assemble(SIGNED, lines), [KEY])


def test_what_surrounds_a_note_belongs_to_it() -> None:
    for data, why in (
        (b"", "no blank line"),
        (b"text\n\n", "has no signatures"),
        (f"text\n\n{GOOD_LINE[:-1]}".encode(), "does not end in a newline"),
        (f"text\n{GOOD_LINE}".encode(), "no blank line"),
        (assemble(SIGNED, [GOOD_LINE]) + b"\n", "has no signatures"),
        (f"text\n\n\n{GOOD_LINE}".encode(), "does not verify"),
        (assemble(SIGNED, [GOOD_LINE]) + b"\n\n", "has no signatures"),
    ):
        with pytest.raises(VerificationError, match=why):
            open_note(data, [KEY])
