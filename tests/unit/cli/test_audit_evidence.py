"""`audit verify checkpoint|entry|consistency`, and logs in zips: the exit code is the verdict, whatever the bytes."""

import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from counterseal.cli import main
from counterseal.cli.audit_sources import Zip
from counterseal.cli.audit_verdict import EXITS, exit_code
from counterseal.ledger import disclosure
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.proof import TlogProof
from counterseal.ledger.tree import inclusion_path, leaf_hash
from counterseal.ledger.verify import verify_log
from support.exports import KEY, changed, files_of, genesis, log_of, write
from support.golden_history import DIRECTORY as HISTORY
from support.histories import NEW, OLD, W1, cosigned, note_of, pair, received
from support.requirements import requirement

LOG = log_of(300)
FILES = files_of(LOG)


def verify(*argv: object, key: str = KEY.vkey) -> int:
    return main(["audit", "verify", *map(str, argv), "--vkey", key])


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write(FILES, tmp_path / "ledger")


def zipped(files: dict[str, bytes], path: Path, folder: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in files.items():
            opened.writestr(folder + name, data)
    return path


# --- one head ---


@requirement("ledger:witnesses")
def test_a_head_is_verified_by_itself_with_and_without_a_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note, policy = tmp_path / "note", tmp_path / "policy"
    policy.write_text(f"witness A {W1[1].vkey}\nquorum A\n")
    note.write_bytes(FILES["checkpoint"])
    assert verify("checkpoint", note) == 0
    assert verify("checkpoint", note, "--policy", policy) == 3
    note.write_bytes(cosigned(FILES["checkpoint"], W1))
    assert verify("checkpoint", note, "--policy", policy, "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["witnesses"] == {"A": 1_795_000_000}
    assert verify("checkpoint", note, key=NEW[1].vkey) == 4
    note.write_bytes(b"garbage")
    assert verify("checkpoint", note) == 4
    assert verify("checkpoint", tmp_path / "absent") == 2
    policy.write_text("quorum nobody\n")
    assert verify("checkpoint", note, "--policy", policy) == 2


# --- one entry ---


def proof_files(folder: Path, index: int, extra: bytes | None = None, logged: list[bytes] = LOG) -> Path:
    path = inclusion_path(index, [leaf_hash(data) for data in logged])
    file = folder / f"{index}.tlog-proof"
    file.write_bytes(TlogProof(index, tuple(path), note_of(logged, OLD), extra).serialize())
    (folder / f"{index}.entry.json").write_bytes(logged[index])
    return file


def test_an_entry_is_verified_by_its_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = proof_files(tmp_path, 7)
    assert verify("entry", file, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["index"], report["size"], report["type"]) == (7, 300, "plan.changed")
    assert verify("entry", file, "--entry", tmp_path / "7.entry.json") == 0
    assert verify("entry", file, key=NEW[1].vkey) == 4
    (tmp_path / "7.entry.json").write_bytes(LOG[8])
    assert verify("entry", file) == 4
    file.write_bytes(b"garbage")
    assert verify("entry", file) == 4
    (tmp_path / "7.entry.json").unlink()
    assert verify("entry", file) == 2
    assert verify("entry", tmp_path / "absent.tlog-proof") == 2


@requirement("ledger:disclosures-checked")
def test_disclosures_of_a_proof_are_shown_only_if_the_entry_sealed_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry, strings = received(1, {"user_request": "refund", "intent": {"n": 1}})
    logged = [genesis(), entry, changed(2, stream="plan:x", seq=1)]
    other = disclosure.make("user_request", "give me all", lambda n: b"z" * n)
    for shown, code in (
        ({"disclosures": strings[:1]}, 0),
        ({"disclosures": strings}, 0),
        ({"disclosures": []}, 0),
        ({"disclosures": [other]}, 4),
        ({"disclosures": [strings[0], strings[0]]}, 4),
        ({"disclosures": "x"}, 4),
        ({"other": 1}, 4),
    ):
        file = proof_files(tmp_path, 1, json.dumps(shown).encode(), logged)
        assert verify("entry", file, "--json") == code, shown
        report = json.loads(capsys.readouterr().out)
        if code == 0 and shown["disclosures"]:
            assert report["disclosed"]["user_request"] == "refund"
    assert verify("entry", proof_files(tmp_path, 1, b"\xff", logged)) == 4


# --- two heads ---


@requirement("ledger:tamper-named")
def test_one_head_extends_another_by_the_tiles_of_the_larger(tmp_path: Path, export: Path) -> None:
    for size in (0, 1, 255, 256, 257, 299, 300):
        old = tmp_path / "old"
        old.write_bytes(note_of(LOG[:size], OLD))
        assert verify("consistency", old, export) == 0, size
        assert verify("consistency", export, old) == 0, "in either order"
    old.write_bytes(note_of([*LOG[:100], changed(100, stream="plan:x", seq=1), *LOG[101:200]], OLD))
    assert verify("consistency", old, export) == 4
    smaller = tmp_path / "smaller"
    smaller.write_bytes(note_of(LOG[:200], OLD))
    new = tmp_path / "new"
    new.write_bytes(FILES["checkpoint"])
    assert verify("consistency", smaller, new) == 3, "without tiles there is nothing to prove it with"
    assert verify("consistency", new, new) == 0
    assert verify("consistency", smaller, zipped(FILES, tmp_path / "log.zip")) == 0


def test_heads_that_cannot_belong_together_are_refused(tmp_path: Path, export: Path) -> None:
    forked, other = tmp_path / "forked", tmp_path / "other"
    forked.write_bytes(note_of([*LOG[:299], changed(299, stream="plan:x", seq=1)], OLD))
    assert verify("consistency", forked, export) == 4
    stranger = pair(5, "stranger")
    other.write_bytes(note_of(LOG[:5], stranger, origin="stranger"))
    assert verify("consistency", other, export, "--vkey", stranger[1].vkey) == 4
    assert verify("consistency", other, export) == 4
    assert verify("consistency", tmp_path / "absent", export) == 2
    (export / "tile/0/001.p/44").unlink()
    forked.write_bytes(note_of(LOG[:280], OLD))
    assert verify("consistency", forked, export) == 3
    (export / "checkpoint").unlink()
    assert verify("consistency", forked, export) == 3


def test_an_altered_tile_proves_nothing(tmp_path: Path, export: Path) -> None:
    old = tmp_path / "old"
    old.write_bytes(note_of(LOG[:280], OLD))
    tile = export / "tile/0/001.p/44"
    data = bytearray(tile.read_bytes())
    data[5] ^= 1
    tile.write_bytes(data)
    assert verify("consistency", old, export) == 4


# --- zips ---


@pytest.mark.parametrize("folder", ["", "acme-2026/"])
def test_a_zip_is_verified_with_its_files_at_the_top_or_in_a_folder(tmp_path: Path, folder: str) -> None:
    assert verify(zipped(FILES, tmp_path / "log.zip", folder)) == 0
    less = {path: data for path, data in FILES.items() if path != "tile/0/000"}
    assert verify(zipped(less, tmp_path / "less.zip", folder)) == 3
    more = {**FILES, "tile/0/002": b"x"}
    assert verify(zipped(more, tmp_path / "more.zip", folder)) == 4


def test_a_zip_with_a_history_is_verified_as_its_folder_is(tmp_path: Path) -> None:
    files = {path.relative_to(HISTORY).as_posix(): path.read_bytes() for path in HISTORY.rglob("*") if path.is_file()}
    vkey = files["vkey"].decode().strip()
    assert verify(zipped(files, tmp_path / "log.zip"), "--policy", HISTORY / "policy", key=vkey) == 0
    assert verify(HISTORY, "--policy", HISTORY / "policy", key=vkey) == 0


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_says_two_things_is_refused(tmp_path: Path) -> None:
    path = zipped(FILES, tmp_path / "log.zip")
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("checkpoint", b"another")
    assert verify(path) == 4


def zip_code(path: Path) -> int:
    """What the command does, without its parser."""
    try:
        source = Zip(path)
    except VerificationError as error:
        return EXITS[error.kind]
    try:
        return exit_code(verify_log(source, KEY))
    finally:
        source.close()


@requirement("ledger:only-verification-errors")
def test_mutated_zips_exit_3_or_4_and_never_with_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = files_of(log_of(5))
    good = zipped(small, tmp_path / "log.zip").read_bytes()
    dice = random.Random(5)
    path = tmp_path / "bad.zip"
    for number in range(150):
        data = bytearray(good)
        for _ in range(dice.randint(1, 3)):
            at = dice.randrange(len(data))
            if dice.random() < 0.7:
                data[at] = dice.randrange(256)
            else:
                del data[at : at + dice.randint(1, 30)]
        path.write_bytes(data)
        code = verify(path) if number < 5 else zip_code(path)
        # Dates and attributes of members mean nothing; everything else is refused.
        assert code in (0, 3, 4), bytes(data)
        if code == 0:
            with zipfile.ZipFile(path) as opened:
                assert all(opened.read(name) == small[name] for name in small)
    assert "Traceback" not in capsys.readouterr().err
    for bad in (b"", b"PK", good[: len(good) // 2]):
        path.write_bytes(bad)
        assert verify(path) == 4


# --- exits ---


@requirement("ledger:liar-caught")
def test_a_reader_who_goes_away_does_not_change_the_verdict(export: Path) -> None:
    (export / "checkpoint").write_bytes(b"garbage")
    code = (
        "import os, sys\n"
        "read, write = os.pipe()\n"
        "os.close(read)\n"
        "os.dup2(write, 1)\n"
        "from counterseal.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    argv = [sys.executable, "-c", code, "audit", "verify", str(export), "--vkey", KEY.vkey]
    done = subprocess.run(argv, check=False, capture_output=True, timeout=100)
    assert done.returncode == 4, done.stderr


@requirement("ledger:liar-caught")
@pytest.mark.parametrize(
    "argv",
    [
        ["verify"],
        ["verify", "log"],
        ["verify", "checkpoint"],
        ["verify", "entry"],
        ["verify", "consistency", "a"],
        ["verify", "chain"],
        ["verify", "nowhere", "--vkey", KEY.vkey],
        ["verify", "http://", "--vkey", KEY.vkey, "--since", "nowhere"],
        ["verify", "log", "nowhere", "--vkey", KEY.vkey, "--bogus"],
        ["chain", "nowhere", "--vkey", KEY.vkey, "--platform", "x"],
        ["chain", "nowhere", "--vkey", KEY.vkey, "--platform", "x", "--platform-vkey", "y"],
        ["verify", ".", "--vkey", KEY.vkey, "--vkey", KEY.vkey],
    ],
)
def test_bad_usage_exits_2(argv: list[str]) -> None:
    assert main(["audit", *argv]) == 2


def test_an_address_that_cannot_be_one_is_refused() -> None:
    for url in ("http://", "http://[", "https://x/?query", "http://127.0.0.1:0x"):
        assert verify(url) == 4, url
