"""Whole logs: what holds is accepted, what was altered is named by file, entry and byte."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from counterseal.ledger.checkpoint import Checkpoint
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import root_of
from counterseal.ledger.verify import MAX_FINDINGS, Report, verify_log
from support.exports import KEY, ORIGIN, Files, changed, files_of, genesis, log_of, sign, uuid
from support.requirements import requirement

LOG = log_of(600)
FILES = files_of(LOG)


def verify(files: dict[str, bytes], since: bytes | None = None) -> Report:
    return verify_log(Files(files), KEY, since)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def texts(report: Report) -> str:
    return "\n".join(f"{f.kind} {f.where}: {f.message}" for f in report.findings)


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 513])
def test_a_good_log_of_any_size_is_verified(size: int) -> None:
    report = verify(files_of(log_of(size)))
    assert report.findings == ()
    assert report.verdict is None
    assert report.size == size


def test_a_log_with_three_levels_of_tiles_is_verified() -> None:
    # Only the tree is under test here: opaque leaves would fail the schema, so the schema findings are the only ones.
    logged = log_of(1) + [b"%d" % n for n in range(65_700)]
    report = verify(files_of(logged))
    assert {f.message for f in report.findings} <= {"the entry is not strict JSON: the document is not a JSON object"}


@requirement("ledger:tamper-named")
def test_a_flipped_byte_in_an_entry_is_named_with_its_index() -> None:
    report = verify({**FILES, "tile/entries/001": flip(FILES["tile/entries/001"], 2000)})
    assert report.verdict == "tampered"
    assert "is not what was logged" in texts(report)
    assert "tile/entries/001: entry 26" in texts(report)
    assert "tile/0/001:" not in texts(report), "the tile is not blamed"


def test_a_flipped_byte_in_a_tile_is_named_with_its_place() -> None:
    for path in ("tile/0/000", "tile/0/002.p/88", "tile/1/000.p/2"):
        report = verify({**FILES, path: flip(FILES[path], 40)})
        assert report.verdict == "tampered"
        assert f"{path}: hash 1" in texts(report)
        assert "first difference at byte 40" in texts(report)
        assert "is not what was logged" not in texts(report), "the entries are not blamed"


@requirement("ledger:tamper-named")
@requirement("ledger:tamper-named")
@settings(max_examples=60)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_no_flipped_bit_of_any_file_goes_unnoticed(path: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(FILES[path]) - 1))
    report = verify({**FILES, path: flip(FILES[path], at)})
    assert report.verdict == "tampered"
    assert any(f.where.startswith(path) for f in report.findings), texts(report)


@requirement("ledger:tamper-named")
@requirement("ledger:tamper-named")
@pytest.mark.parametrize("path", sorted(FILES.keys() - {"vkey"}))
def test_a_missing_file_is_incomplete_and_named(path: str) -> None:
    report = verify({name: data for name, data in FILES.items() if name != path})
    assert report.verdict == "incomplete"
    assert [f.where for f in report.findings] == [path]


def test_the_key_may_be_kept_apart_from_the_log() -> None:
    assert verify({name: data for name, data in FILES.items() if name != "vkey"}).verdict is None


def test_missing_entries_and_their_tile_end_the_recomputation_but_name_both() -> None:
    gone = ("tile/entries/001", "tile/0/001")
    report = verify({name: data for name, data in FILES.items() if name not in gone})
    assert report.verdict == "incomplete"
    assert {f.where for f in report.findings} == set(gone)


def test_a_shorter_or_longer_file_is_tampered() -> None:
    for path in FILES:
        for data in (FILES[path][:-1], FILES[path] + b"\0"):
            if path == "vkey" and data == KEY.vkey.encode():
                continue  # a missing newline changes nothing
            assert verify({**FILES, path: data}).verdict == "tampered", path


@requirement("ledger:tamper-named")
@requirement("ledger:tamper-named")
def test_a_cut_tail_looks_valid_by_itself_and_is_found_against_a_kept_checkpoint() -> None:
    shorter = files_of(LOG[:500])
    assert verify(shorter).verdict is None
    report = verify(shorter, since=FILES["checkpoint"])
    assert report.verdict == "tampered"
    assert "600 entries, this copy only 500" in texts(report)


def test_growth_since_a_kept_checkpoint_is_fine() -> None:
    for size in (1, 255, 256, 300, 512, 600):
        assert verify(FILES, since=files_of(LOG[:size])["checkpoint"]).verdict is None


@requirement("ledger:tamper-named")
def test_another_history_is_a_fork() -> None:
    other = [*LOG[:100], changed(100, stream="plan:other", seq=1), *LOG[101:300]]
    report = verify(FILES, since=files_of(other)["checkpoint"])
    assert report.verdict == "forked"


def test_a_kept_note_by_another_key_is_no_evidence() -> None:
    other = SigningKey(b"\x08" * 32)
    key = VerifierKey.make(ORIGIN, bytes(other.verify_key))
    note = sign(Checkpoint(ORIGIN, 3, b"\0" * 32), other, key)
    report = verify(FILES, since=note)
    assert report.verdict == "tampered"
    assert "the kept checkpoint" in texts(report)


def test_a_log_under_another_key_is_refused_whatever_its_vkey_file_says() -> None:
    other = SigningKey(b"\x08" * 32)
    key = VerifierKey.make(ORIGIN, bytes(other.verify_key))
    root = root_of([])
    files = {"checkpoint": sign(Checkpoint(ORIGIN, 0, root), other, key), "vkey": key.vkey.encode()}
    assert verify(files).verdict == "tampered"


def renumbered(change: Callable[[list[bytes]], None]) -> str:
    logged = log_of(20)
    change(logged)
    report = verify(files_of(logged))
    assert report.verdict == "tampered"
    return texts(report)


def put(index: int, data: bytes) -> Callable[[list[bytes]], None]:
    return lambda logged: logged.__setitem__(index, data)


def test_a_signed_log_whose_entries_break_the_rules_is_refused_by_name() -> None:
    other = VerifierKey.make("counterseal.dev/other", KEY.public)
    assert "entry 5: the event id" in renumbered(put(5, changed(4, seq=5)))
    assert "goes on with seq 7 where 5 is due" in renumbered(put(5, changed(5, seq=7)))
    assert "the entry is of globex/prod" in renumbered(put(5, changed(5, tenant="globex")))
    assert "a second log.genesis" in renumbered(put(5, genesis()))
    assert "names another key" in renumbered(put(0, genesis(other)))
    assert "the first entry is not log.genesis" in renumbered(put(0, changed(0, seq=1)))
    assert "may not write" in renumbered(put(5, changed(5).replace(b'"executor"', b'"policy"')))
    assert "not strict JSON" in renumbered(put(5, b"\xff"))


def test_an_entry_left_out_of_a_stream_is_found() -> None:
    logged = log_of(20)
    del logged[7]
    assert "goes on with seq 8 where 7 is due" in texts(verify(files_of(logged)))


def test_older_partial_tiles_may_stay_if_they_are_prefixes_and_nothing_else_may() -> None:
    older = files_of(LOG[:520])
    both = {**older, **FILES}
    assert len(both) > len(FILES)
    assert verify(both).verdict is None
    stray = next(path for path in older if path not in FILES)
    assert verify({**both, stray: flip(older[stray], 3)}).verdict == "tampered"
    assert verify({**FILES, "tile/0/003": b""}).verdict == "tampered"
    assert verify({**FILES, "tile/zero/000": b""}).verdict == "tampered"


def test_a_full_tile_may_stand_in_for_a_deleted_partial_one() -> None:
    grown = files_of(log_of(768))
    files = {name: data for name, data in FILES.items() if not name.endswith(".p/88")}
    report = verify({**files, "tile/0/002": grown["tile/0/002"], "tile/entries/002": grown["tile/entries/002"]})
    assert {f.message for f in report.findings} == {"the file lies beyond the checkpoint's 600 entries"}


def test_findings_are_counted_where_they_are_cut() -> None:
    logged = log_of(1) + [b"{}"] * 200
    report = verify(files_of(logged))
    assert len(report.findings) == MAX_FINDINGS
    assert report.omitted_count == 200 - MAX_FINDINGS


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from(sorted(FILES)), st.binary(max_size=100), min_size=1, max_size=4),
    st.binary(max_size=60),
)
def test_no_files_make_the_verifier_raise_or_say_verified(garbage: dict[str, bytes], since: bytes) -> None:
    assert verify({**FILES, **garbage}, since).verdict is not None


def test_a_finding_says_what_follows_from_it() -> None:
    report = verify({**FILES, "tile/0/000": flip(FILES["tile/0/000"], 0)})
    assert "Do not trust this copy" in report.findings[0].diagnostics()
    assert json.dumps([f.where for f in report.findings])
    assert uuid(1)
