"""The witness server on real sockets: paths and status codes of C2SP tlog-witness, and SIGKILL where it hurts."""

import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from counterseal.cli import main
from counterseal.ledger.checkpoint import Checkpoint, open_signed
from counterseal.ledger.tree import consistency_path, leaf_hash, root_of
from counterseal.ledger.witness import AddCheckpoint, cosignatures, origin_hash
from support.exports import KEY, ORIGIN, log_of
from support.histories import OLD, note_of, pair, signed
from support.requirements import requirement
from support.witnesses import RunningWitness, make_key, witness

LOG = log_of(40)
LEAVES = [leaf_hash(data) for data in LOG]


def ask(one: RunningWitness, old: int, size: int) -> tuple[int, dict[str, str], bytes] | None:
    proof = consistency_path(old, LEAVES[:size]) if old else []
    return one.ask(AddCheckpoint(old, tuple(proof), note_of(LOG[:size], OLD)).serialize())


def accepted(one: RunningWitness, old: int, size: int) -> None:
    answer = ask(one, old, size)
    assert answer is not None
    assert (answer[0], answer[1]["content-type"]) == (200, "text/plain; charset=utf-8"), answer
    assert len(cosignatures(note_of(LOG[:size], OLD), answer[2], one.key)) == 1


def conflict(one: RunningWitness, old: int, size: int) -> int:
    answer = ask(one, old, size)
    assert answer is not None
    assert (answer[0], answer[1]["content-type"]) == (409, "text/x.tlog.size"), answer
    assert answer[2].endswith(b"\n")
    return int(answer[2])


@requirement("ledger:witnesses")
def test_a_witness_cosigns_growth_and_shows_its_last_head(tmp_path: Path) -> None:
    with witness(tmp_path, [KEY]) as one:
        shown = f"/{origin_hash(ORIGIN)}/checkpoint"
        missing = one.ask(b"", shown, "GET")
        assert missing is not None
        assert missing[0] == 404
        accepted(one, 0, 5)
        assert conflict(one, 0, 9) == 5
        accepted(one, 5, 9)
        accepted(one, 9, 9)
        answer = one.ask(b"", shown, "GET")
        assert answer is not None
        assert answer[0] == 200
        head, note = open_signed(answer[2], [KEY, one.key])
        assert head.size == 9
        assert note.signers == (KEY, one.key)
        kept = tmp_path / "state" / origin_hash(ORIGIN)
        assert kept.read_bytes() == answer[2]
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(60) == 0


@requirement("ledger:witnesses")
def test_every_refusal_has_the_status_of_the_specification(tmp_path: Path) -> None:
    with witness(tmp_path, [KEY]) as one:
        accepted(one, 0, 7)
        fork = [leaf_hash(b"x"), *LEAVES[1:9]]
        note = signed(Checkpoint(ORIGIN, 9, root_of(fork)).text(), OLD)
        stranger = note_of(LOG[:3], pair(5, "stranger"), origin="stranger")
        for status, body in (
            (400, b"nonsense"),
            (400, AddCheckpoint(7, (), note_of(LOG[:3], OLD)).serialize()),
            (403, AddCheckpoint(7, (), note_of(LOG[:7], pair(5))).serialize()),
            (404, AddCheckpoint(0, (), stranger).serialize()),
            (409, AddCheckpoint(6, (), note_of(LOG[:7], OLD)).serialize()),
            (422, AddCheckpoint(7, tuple(consistency_path(7, fork)), note).serialize()),
        ):
            answer = one.ask(body)
            assert answer is not None
            assert answer[0] == status, answer
        (kept,) = (tmp_path / "state" / "evidence").iterdir()
        assert kept.read_bytes() == note, "a fork that the log signed is evidence"
        for method, path, status in (
            ("GET", "/add-checkpoint", 405),
            ("POST", "/other", 404),
            ("GET", "/" + "0" * 64 + "/checkpoint", 404),
            ("GET", "/" + "A" * 64 + "/checkpoint", 404),
            ("GET", "/lock", 404),
        ):
            answer = one.ask(b"", path, method)
            assert answer is not None
            assert answer[0] == status, path
        too_long = one.ask(b"x" * ((1 << 20) + 1))
        assert too_long is None or too_long[0] in (400, 413)
        accepted(one, 7, 9)


@requirement("ledger:witnesses")
@pytest.mark.parametrize("dies", ["before", "after"])
def test_killed_between_state_and_answer_it_never_goes_back_and_goes_on(tmp_path: Path, dies: str) -> None:
    with witness(tmp_path, [KEY]) as one:
        accepted(one, 0, 5)
    with witness(tmp_path, [KEY], dies=dies) as dying:
        assert ask(dying, 5, 9) is None
        assert dying.process.wait(60) == -signal.SIGKILL
    with witness(tmp_path, [KEY]) as again:
        if dies == "after":
            assert conflict(again, 5, 9) == 9, "the head is kept though nobody got an answer"
            assert conflict(again, 5, 7) == 9, "and nothing older is cosigned"
            accepted(again, 9, 9)
        else:
            accepted(again, 5, 9)
        accepted(again, 9, 20)


@requirement("ledger:witnesses")
def test_many_callers_at_once_never_make_it_go_back(tmp_path: Path) -> None:
    """The race of the specification: two requests from one size, the larger stored first."""
    with witness(tmp_path, [KEY]) as one, ThreadPoolExecutor(8) as callers:
        accepted(one, 0, 5)
        answers = list(callers.map(lambda size: (size, ask(one, 5, size)), [6 + n % 30 for n in range(60)]))
        won = [size for size, answer in answers if answer is not None and answer[0] == 200]
        assert all(answer is not None and answer[0] in (200, 409) for _, answer in answers)
        assert len(won) == 1, "all others lost to it"
        assert conflict(one, 5, 40) == won[0]


def test_one_witness_per_state_directory(tmp_path: Path) -> None:
    with witness(tmp_path, [KEY]):
        code = serve_code(tmp_path)
    assert code == 2


def serve_code(folder: Path, *more: str) -> int:
    file, _ = make_key(folder, "w1.example")
    argv = ["audit", "witness", "serve", str(file), "--state", str(folder / "state"), "--logs", str(folder / "logs")]
    return main([*argv, "--listen", "127.0.0.1:0", *more])


def test_state_that_is_not_its_own_is_refused(tmp_path: Path) -> None:
    with witness(tmp_path, [KEY]) as one:
        accepted(one, 0, 5)
    kept = tmp_path / "state" / origin_hash(ORIGIN)
    good = kept.read_bytes()
    for bad in (b"", good[:-3], note_of(LOG[:5], OLD), good.replace(b"\n5\n", b"\n6\n")):
        kept.write_bytes(bad)
        assert serve_code(tmp_path) == 2
    kept.write_bytes(good)
    other = tmp_path / "other"
    with witness(other, [KEY], name="w2.example"):
        pass
    (other / "state" / kept.name).write_bytes(good)
    argv_state = other / "state"
    file, _ = make_key(other, "w2.example")
    argv = ["audit", "witness", "serve", str(file), "--state", str(argv_state), "--logs", str(other / "logs")]
    assert main([*argv, "--listen", "127.0.0.1:0"]) == 2


def test_key_files_are_private_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, key = make_key(tmp_path, "w1.example")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert text.startswith("PRIVATE+KEY+w1.example+")
    assert main(["audit", "witness", "keygen", str(file), "--name", "w1.example"]) == 2
    assert file.read_text() == text
    assert main(["audit", "witness", "keygen", str(tmp_path / "bad"), "--name", "a b"]) == 2
    assert main(["audit", "witness", "vkey", str(file), "--json"]) == 0
    assert key.vkey in capsys.readouterr().out
    file.chmod(0o640)
    assert main(["audit", "witness", "vkey", str(file)]) == 2
    file.chmod(0o600)
    for bad in ("", "nonsense", text.replace("w1", "w2"), text[:-6], text.replace("PRIVATE", "PUBLIC")):
        file.write_text(bad)
        assert main(["audit", "witness", "vkey", str(file)]) == 2, bad
    assert text.split("+")[-1].strip() not in capsys.readouterr().err, "a key is never shown"


def test_bad_usage_exits_2(tmp_path: Path) -> None:
    make_key(tmp_path, "w1.example")
    logs = tmp_path / "logs"
    assert serve_code(tmp_path) == 2, "no list of logs"
    for bad in ("nonsense\n", f"{KEY.vkey}\n{KEY.vkey}\n"):
        logs.write_text(bad)
        assert serve_code(tmp_path) == 2
    logs.write_text(f"# ours\nlog {KEY.vkey} https://example.com\n\n")
    assert serve_code(tmp_path, "--listen", "nowhere") == 2
    assert serve_code(tmp_path, "--cert", "x") == 2
    assert main(["audit", "witness"]) == 2
