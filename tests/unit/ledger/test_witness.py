"""The witness protocol as values: every rule of C2SP tlog-witness, with the status that it demands."""

import hashlib

import pytest

from counterseal.ledger.checkpoint import Checkpoint, open_signed
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import assemble, signature_line
from counterseal.ledger.tree import EMPTY_ROOT, consistency_path, leaf_hash, root_of
from counterseal.ledger.witness import (
    ADD_CHECKPOINT,
    MAX_PROOF_LINES,
    MAX_REQUEST_BYTES,
    SIZE_TYPE,
    AddCheckpoint,
    Refused,
    check,
    cosignatures,
    origin_hash,
    origin_of,
)
from support.exports import KEY, ORIGIN, SIGNING, log_of
from support.histories import NEW, OLD, W1, W2, Pair, cosigned, note_of, pair, signed
from support.requirements import requirement

LOG = log_of(12)
LEAVES = [leaf_hash(data) for data in LOG]
LOGS = {ORIGIN: [KEY]}


def head(size: int) -> Checkpoint:
    return Checkpoint(ORIGIN, size, root_of(LEAVES[:size]))


def ask(old: int, size: int, *signers: Pair, proof: list[bytes] | None = None) -> bytes:
    way = consistency_path(old, LEAVES[:size]) if proof is None and 0 < old <= size else proof or []
    return AddCheckpoint(old, tuple(way), note_of(LOG[:size], *(signers or (OLD,)))).serialize()


def refused(data: bytes, last: Checkpoint | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        check(data, last, LOGS)
    return caught.value


def test_the_request_has_the_form_of_the_specification() -> None:
    data = ask(3, 7)
    lines = data.decode().split("\n")
    assert lines[0] == "old 3"
    assert lines[lines.index("") + 1] == ORIGIN
    request = AddCheckpoint.parse(data)
    assert (request.old, request.serialize()) == (3, data)
    assert (ADD_CHECKPOINT, SIZE_TYPE) == ("add-checkpoint", "text/x.tlog.size")
    assert (MAX_PROOF_LINES, MAX_REQUEST_BYTES) == (63, 1_048_576)
    assert origin_of(data) == ORIGIN
    assert origin_hash(ORIGIN) == hashlib.sha256(ORIGIN.encode()).hexdigest()


@requirement("ledger:witnesses")
@pytest.mark.parametrize(("old", "size"), [(0, 0), (0, 5), (1, 2), (3, 7), (4, 8), (6, 12), (7, 7), (12, 12)])
def test_growth_from_the_last_head_is_cosigned(old: int, size: int) -> None:
    grown = check(ask(old, size), head(old) if old else None, LOGS)
    assert grown.checkpoint == head(size)
    assert open_signed(assemble(grown.text, grown.lines), [KEY])[0] == head(size)


def test_only_lines_of_trusted_keys_are_shown_on() -> None:
    grown = check(ask(0, 5, OLD, NEW), None, LOGS)
    assert [line.split(" ")[1] for line in grown.lines] == [ORIGIN]
    assert len(check(ask(0, 5, OLD, NEW), None, {ORIGIN: [KEY, NEW[1]]}).lines) == 2
    twice = AddCheckpoint(0, (), note_of(LOG[:5], OLD, OLD)).serialize()
    assert len(check(twice, None, LOGS).lines) == 1


@requirement("ledger:witnesses")
def test_another_size_than_the_last_is_a_conflict_that_says_the_last() -> None:
    for old in (0, 2, 4):
        answer = refused(ask(old, 7), head(3))
        assert (answer.status, answer.size) == (409, 3)
    assert refused(ask(3, 7)).size == 0, "never cosigned is zero"


@requirement("ledger:witnesses")
def test_a_rollback_is_refused() -> None:
    assert refused(ask(5, 5), head(7)).status == 409
    assert refused(ask(0, 3), head(7)).status == 409
    assert refused(ask(7, 5), head(7)).status == 400, "an old size above the checkpoint's"


@requirement("ledger:witnesses")
def test_a_head_that_does_not_extend_the_last_is_refused_and_is_evidence() -> None:
    fork = [leaf_hash(b"x"), *LEAVES[1:7]]
    other = Checkpoint(ORIGIN, 7, root_of(fork))
    note = signed(other.text(), OLD)
    for last, old, proof in (
        (head(3), 3, consistency_path(3, fork)),
        (head(7), 7, []),
        (head(3), 3, []),
        (head(3), 3, [*consistency_path(3, LEAVES[:7]), b"\0" * 32]),
    ):
        answer = refused(AddCheckpoint(old, tuple(proof), note).serialize(), last)
        assert (answer.status, answer.evidence) == (422, note)
    assert refused(ask(3, 7, proof=[]), head(3)).status == 422
    assert refused(ask(7, 7, proof=[b"\0" * 32]), head(7)).status == 422


def test_the_empty_tree_has_one_root_and_needs_no_proof() -> None:
    bad = signed(Checkpoint(ORIGIN, 0, b"\1" * 32).text(), OLD)
    assert refused(AddCheckpoint(0, (), bad).serialize()).status == 422
    assert refused(ask(0, 5, proof=[b"\0" * 32])).status == 422
    assert check(ask(0, 5), Checkpoint(ORIGIN, 0, EMPTY_ROOT), LOGS).checkpoint.size == 5
    assert refused(ask(0, 5, proof=[b"\0" * 32]), Checkpoint(ORIGIN, 0, EMPTY_ROOT)).status == 422


def test_an_unknown_log_is_not_found_whatever_signed_it() -> None:
    stranger = pair(5, "stranger")
    data = AddCheckpoint(0, (), note_of(LOG[:3], stranger, origin="stranger")).serialize()
    assert refused(data).status == 404
    with pytest.raises(Refused) as caught:
        check(ask(0, 3), None, {ORIGIN: []})
    assert caught.value.status == 404


@requirement("ledger:witnesses")
def test_a_head_without_a_good_signature_by_a_trusted_key_is_forbidden() -> None:
    assert refused(ask(0, 3, NEW)).status == 403
    text = head(3).text()
    broken = assemble(text, [signature_line(KEY, SIGNING.sign(b"other").signature)])
    assert refused(AddCheckpoint(0, (), broken).serialize()).status == 403
    both = note_of(LOG[:3], OLD) + signature_line(KEY, b"\0" * 64).encode()
    assert refused(AddCheckpoint(0, (), both).serialize()).status == 403
    other_name = pair(7, "counterseal.dev/other")
    assert refused(AddCheckpoint(0, (), note_of(LOG[:3], other_name)).serialize()).status == 403


NOTE = note_of(LOG[:3], OLD)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        NOTE,
        b"old 0\n" + NOTE,
        b"\n\n" + NOTE,
        b"old\n\n" + NOTE,
        b"0\n\n" + NOTE,
        b"old0\n\n" + NOTE,
        b"old  0\n\n" + NOTE,
        b"old -1\n\n" + NOTE,
        b"old 00\n\n" + NOTE,
        b"old 1x\n\n" + NOTE,
        b"old 9999999999999999999\n\n" + NOTE,
        b"OLD 0\n\n" + NOTE,
        b"old 0\nxx\n\n" + NOTE,
        b"old 0\nAAAA\n\n" + NOTE,
        b"old 0\n\n\n" + NOTE,
        b"old 0\n\n",
        b"old 0\n\nnonsense\n",
        b"old 0\r\n\n" + NOTE,
        b"old 0\n\n" + NOTE.replace(b"\n3\n", b"\n03\n"),
        b"old 0\n\n\xff" + NOTE,
        ask(0, 3, proof=[b"\0" * 32] * (MAX_PROOF_LINES + 1)),
        ask(0, 3) + b"x" * MAX_REQUEST_BYTES,
    ],
)
def test_a_malformed_request_is_a_bad_request(data: bytes) -> None:
    assert refused(data).status == 400
    with pytest.raises(Refused) as caught:
        origin_of(data)
    assert caught.value.status == 400


def test_a_request_has_all_its_parts_and_no_more_bytes_than_is_stated() -> None:
    head = b"old 0\n\n"
    longest = head + b"x" * (MAX_REQUEST_BYTES - len(head))
    assert len(AddCheckpoint.parse(longest).note) == MAX_REQUEST_BYTES - len(head)
    for bad, why in (
        (longest + b"x", "at most 1048576"),
        (b"old 0\n", "a request is an old size"),
        (b"0\n\n" + NOTE, "a request is an old size"),
    ):
        with pytest.raises(VerificationError, match=why):
            AddCheckpoint.parse(bad)


def test_a_refusal_says_why() -> None:
    answer = refused(ask(7, 5), head(7))
    assert str(answer) == answer.message == "the old size is larger than the checkpoint's"
    assert (answer.size, answer.evidence) == (None, None)
    answer = refused(ask(2, 7), head(3))
    assert (answer.message, answer.size, answer.evidence) == ("the last cosigned size is 3", 3, None)
    with pytest.raises(Refused) as caught:
        check(ask(0, 3), None, {})
    assert caught.value.message == "this witness does not know the log"


def test_as_many_proof_lines_as_the_specification_allows_are_read() -> None:
    assert len(AddCheckpoint.parse(ask(0, 3, proof=[b"\0" * 32] * MAX_PROOF_LINES)).proof) == MAX_PROOF_LINES


# --- what the caller makes of the answer ---


def lines_by(*witnesses: Pair, time: int = 5) -> bytes:
    return cosigned(NOTE, *witnesses, time=time)[len(NOTE) :]


@requirement("ledger:witnesses")
def test_only_cosignatures_by_the_known_key_are_taken_from_an_answer() -> None:
    assert "".join(cosignatures(NOTE, lines_by(W1), W1[1])).encode() == lines_by(W1)
    assert "".join(cosignatures(NOTE, lines_by(W2, W1), W1[1])).encode() == lines_by(W1)
    for answer in (
        b"",
        b"nonsense\n",
        lines_by(W2),
        lines_by(W1)[:-1],
        b"\xff\n",
        lines_by(W1, time=0),
        signature_line(W1[1], b"\0" * 72).encode(),
        lines_by(W1) + signature_line(W1[1], b"\0" * 72).encode(),
        cosigned(note_of(LOG[:4], OLD), W1)[len(note_of(LOG[:4], OLD)) :],
    ):
        with pytest.raises(VerificationError):
            cosignatures(NOTE, answer, W1[1])
