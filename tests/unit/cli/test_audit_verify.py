"""`counterseal audit verify`: the exit code is the verdict, and nothing else exits 0, 3 or 4."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from counterseal.cli import main
from counterseal.ledger.proof import TlogProof
from counterseal.ledger.tree import inclusion_path, leaf_hash
from support import histories
from support.exports import KEY, files_of, log_of, write
from support.requirements import requirement

LOG = log_of(300)
FILES = files_of(LOG)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write(FILES, tmp_path / "ledger")


def verify(*argv: object) -> int:
    return main(["audit", "verify", *map(str, argv)])


def test_a_good_export_is_verified_with_the_key_as_text_or_file(
    export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(export, "--vkey", KEY.vkey) == 0
    assert verify(export, "--vkey", export / "vkey") == 0
    assert "verified" in capsys.readouterr().out


def test_a_flipped_byte_exits_4_and_names_the_file(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = export / "tile/entries/000"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    assert verify(export, "--vkey", KEY.vkey) == 4
    assert "tile/entries/000: entry" in capsys.readouterr().out


def test_a_missing_tile_exits_3_and_names_it(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (export / "tile/0/000").unlink()
    assert verify(export, "--vkey", KEY.vkey, "--json") == 3
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "incomplete"
    assert [finding["where"] for finding in report["findings"]] == ["tile/0/000"]


def test_a_cut_tail_exits_4_against_a_kept_note_only(tmp_path: Path) -> None:
    shorter = write(files_of(LOG[:200]), tmp_path / "shorter")
    kept = tmp_path / "kept.note"
    kept.write_bytes(FILES["checkpoint"])
    assert verify(shorter, "--vkey", KEY.vkey) == 0
    assert verify(shorter, "--vkey", KEY.vkey, "--since", kept) == 4


def test_bad_usage_exits_2(export: Path, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\xff\x00")
    assert verify(export) == 2
    assert verify(export, "--vkey", "nonsense") == 2
    assert verify(export, "--vkey", KEY.vkey[:-1]) == 2
    assert verify(export, "--vkey", garbage) == 2
    assert verify(export, "--vkey", "x\0y") == 2
    assert verify(tmp_path / "absent", "--vkey", KEY.vkey) == 2
    assert verify(export, "--vkey", KEY.vkey, "--since", tmp_path / "absent") == 2


def test_an_empty_directory_is_incomplete(tmp_path: Path) -> None:
    assert verify(tmp_path, "--vkey", KEY.vkey) == 3


def test_verifying_loads_no_grpc_and_no_driver(export: Path) -> None:
    code = (
        "import sys; from counterseal.cli import main; code = main(sys.argv[1:]);"
        "bad = {'grpc', 'google', 'sqlalchemy', 'nacl', 'hvac'} & set(sys.modules); assert not bad, bad; sys.exit(code)"
    )
    argv = [sys.executable, "-c", code, "audit", "verify", str(export), "--vkey", KEY.vkey]
    assert subprocess.run(argv, check=False, capture_output=True, timeout=60).returncode == 0


@pytest.fixture
def rotated_log(tmp_path: Path) -> Path:
    """An export whose head is signed by the key that it was rotated to, and beside it an entry with its proof."""
    logged, files = histories.rotated()
    path = tuple(inclusion_path(7, [leaf_hash(entry) for entry in logged]))
    (tmp_path / "7.tlog-proof").write_bytes(TlogProof(7, path, files["checkpoint"]).serialize())
    (tmp_path / "7.entry.json").write_bytes(logged[7])
    return write(files, tmp_path / "rotated")


def verified_alone(export: Path, *more: object) -> list[int]:
    """The exit codes for a head, an entry and two heads of a rotated log, with its first key pinned."""
    common = ("--vkey", KEY.vkey, *more)
    return [
        verify("checkpoint", export / "checkpoint", *common),
        verify("entry", export.parent / "7.tlog-proof", *common),
        verify("consistency", export / "rotation/1", export, *common),
    ]


@requirement("ledger:rotation-followed")
def test_the_keys_that_a_log_was_rotated_to_are_followed_through_its_export(rotated_log: Path) -> None:
    assert verified_alone(rotated_log) == [4, 4, 4], "the pinned key alone signed none of them"
    assert verified_alone(rotated_log, "--log", rotated_log) == [0, 0, 0]


@requirement("ledger:rotation-followed")
def test_an_export_that_does_not_verify_vouches_for_no_key(rotated_log: Path, tmp_path: Path) -> None:
    _, files = histories.rotated()
    without = {path: data for path, data in files.items() if path != "rotation/1"}
    assert verified_alone(rotated_log, "--log", write(without, tmp_path / "without")) == [3, 3, 3]
    forged = {**files, "rotation/1": histories.note_of(histories.rotated()[0][:6], histories.NEW)}
    assert verified_alone(rotated_log, "--log", write(forged, tmp_path / "forged")) == [4, 4, 4]
    assert verified_alone(rotated_log, "--log", write(FILES, tmp_path / "other")) == [4, 4, 4], "it was never rotated"
    assert verified_alone(rotated_log, "--log", tmp_path / "nothing") == [2, 2, 2]
