"""The lying server is caught, by one look or by the next, by verifier and monitor; honest growth never alarms."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from counterseal.cli import main
from counterseal.clock import system_clock
from counterseal.ledger import entry as entries
from counterseal.ledger.monitor import Kept, look
from counterseal.ledger.note import VerifierKey
from support.exports import KEY, Files, changed, files_of, genesis, write
from support.histories import NEW, NEWER, OLD, W1, cosigned, key_entry, note_of, pair
from support.lying_server import LyingServer, serve
from support.requirements import requirement

NOW = system_clock()
HOUR_MS = 3_600_000


def at(number: int, received_ms: int = NOW, *, stream: str = "") -> bytes:
    """Entry `number`, received then."""
    document = dict(entries.parse(changed(number, stream=stream or f"plan:{number}", seq=1)).document)
    del document["srv"]
    return entries.build(document, entries.Srv(received_ms, "executor"))


LOG = [genesis(), *(at(n) for n in range(1, 700))]
FILES = {size: files_of(LOG[:size]) for size in (40, 256, 300, 512, 600)}


@pytest.fixture
def server() -> Iterator[LyingServer]:
    with serve(FILES[300]) as lying:
        yield lying


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def monitor(source: object, state: Path, *more: object, key: VerifierKey = KEY) -> int:
    return main(["audit", "monitor", *map(str, (source, "--state", state, "--vkey", key.vkey, *more))])


def verify(source: object, *more: object) -> int:
    return main(["audit", "verify", *map(str, (source, "--vkey", KEY.vkey, *more))])


@requirement("ledger:liar-caught")
def test_an_honest_log_that_grows_never_alarms(server: LyingServer, state: Path) -> None:
    for size in (40, 256, 300, 300, 512, 600):
        server.show(FILES[size])
        assert monitor(server.url, state) == 0, size
    assert not (state / "evidence").exists()
    assert verify(server.url) == 0


def test_a_later_look_reads_only_what_is_new(server: LyingServer, state: Path) -> None:
    server.show(FILES[512])
    assert monitor(server.url, state) == 0
    server.show(FILES[600])
    server.asked.clear()
    assert monitor(server.url, state) == 0
    assert [path for path in server.asked if "entries" in path] == ["tile/entries/002.p/88"]
    server.asked.clear()
    assert monitor(server.url, state) == 0
    assert server.asked == ["checkpoint"]


def forked(size: int) -> dict[str, bytes]:
    return files_of([*LOG[:30], at(30, stream="plan:other"), *LOG[31:size]])


def reordered() -> dict[str, bytes]:
    files = dict(FILES[600])
    lines = [*LOG[:600]]
    lines[520], lines[521] = lines[521], lines[520]
    files["tile/entries/002.p/88"] = files_of(lines)["tile/entries/002.p/88"]
    return files


def bad_tile(path: str) -> dict[str, bytes]:
    data = bytearray(FILES[600][path])
    data[70] ^= 1
    return {**FILES[600], path: bytes(data)}


def other_log() -> dict[str, bytes]:
    """A log that exists and is well signed, by its own key."""
    signing, key = pair(51, "counterseal.dev/other")
    return {**FILES[600], "checkpoint": note_of(LOG[:600], (signing, key), origin=key.name)}


LIES: dict[str, Callable[[], dict[str, bytes]]] = {
    "a fork of the same size": lambda: forked(300),
    "a fork that goes on": lambda: forked(600),
    "a cut tail": lambda: FILES[256],
    "two entries reordered": reordered,
    "another log": other_log,
    "a bad tile of hashes": lambda: bad_tile("tile/0/002.p/88"),
    "a bad tile above": lambda: bad_tile("tile/1/000.p/2") if len(FILES[600]["tile/1/000.p/2"]) > 70 else forked(600),
    "a bad bundle": lambda: bad_tile("tile/entries/002.p/88"),
    "a head of garbage": lambda: {**FILES[600], "checkpoint": b"garbage"},
    "a head without a signature": lambda: {**FILES[600], "checkpoint": FILES[600]["checkpoint"].split(b"\n\n")[0]},
    "a head larger than its log": lambda: {**FILES[300], "checkpoint": FILES[600]["checkpoint"]},
}
INCOMPLETE = "a head larger than its log"


@requirement("ledger:liar-caught")
@pytest.mark.parametrize("lie", list(LIES))
def test_a_lying_server_is_caught_by_the_monitor_s_next_look(
    lie: str, server: LyingServer, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert monitor(server.url, state) == 0
    kept = (state / "monitor.json").read_bytes()
    shown = LIES[lie]()
    server.show(shown)
    assert monitor(server.url, state, "--json") == (3 if lie == INCOMPLETE else 4)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (state / "monitor.json").read_bytes() == kept, "what was kept stays what it is"
    if lie != INCOMPLETE:
        (seen,) = (state / "evidence").glob("*.seen")
        assert report["evidence"] == str(seen.with_suffix(""))
        assert seen.read_bytes() == shown["checkpoint"]
        assert seen.with_suffix(".kept").read_bytes() == FILES[300]["checkpoint"]
    server.show(FILES[600])
    assert monitor(server.url, state) == 0, "an honest server is believed again"


@requirement("ledger:liar-caught")
@pytest.mark.parametrize("lie", list(LIES))
def test_a_lying_server_is_caught_by_the_verifier_with_a_kept_note(
    lie: str, server: LyingServer, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.note"
    kept.write_bytes(FILES[300]["checkpoint"])
    server.show(LIES[lie]())
    assert verify(server.url, "--since", kept) == (3 if lie == INCOMPLETE else 4)


@requirement("ledger:liar-caught")
def test_a_head_older_than_two_heartbeats_is_stale_and_what_it_covers_is_kept(
    server: LyingServer, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = [genesis(), *(at(n, NOW - 3 * HOUR_MS) for n in range(1, 40))]
    server.show(files_of(old))
    assert monitor(server.url, state) == 4
    assert re.search(r"stale: checkpoint: the last entry is \d+ minutes old", capsys.readouterr().out)
    assert monitor(server.url, state) == 4, "again, though nothing is new"
    assert monitor(server.url, state, "--heartbeat-minutes", 600) == 0
    server.show(files_of([*old, at(40)]))
    assert monitor(server.url, state) == 0


def test_a_server_that_cannot_be_read_is_incomplete_whatever_it_does(server: LyingServer, state: Path) -> None:
    assert monitor(server.url, state) == 0
    for status in (301, 401, 403, 404, 500, 503):
        server.status = status
        assert monitor(server.url, state) == 3, status
        assert verify(server.url) == 3, status
    server.status = 200
    server.show(FILES[600])
    server.cut = 10
    assert monitor(server.url, state) == 3
    assert verify(server.url) == 3
    server.cut = 0
    assert monitor("http://127.0.0.1:1/log", state) == 3
    assert monitor("http://127.0.0.1:99999/log", state) == 4
    assert monitor(server.url, state) == 0


def test_compressed_answers_and_tokens(server: LyingServer, state: Path, tmp_path: Path) -> None:
    server.gzipped, server.token = True, "secret"
    assert monitor(server.url, state) == 3
    token = tmp_path / "token"
    token.write_text("secret\n")
    assert monitor(server.url, state, "--token-file", token) == 0
    assert verify(server.url, "--token-file", token) == 0


def test_a_directory_and_a_url_of_one_log_are_one_to_the_monitor(
    server: LyingServer, state: Path, tmp_path: Path
) -> None:
    assert monitor(server.url, state) == 0
    assert monitor(write(FILES[600], tmp_path / "export"), state) == 0
    assert monitor(write(FILES[40], tmp_path / "older"), state) == 4


def test_state_that_was_changed_or_is_of_another_log_is_refused(server: LyingServer, state: Path) -> None:
    assert monitor(server.url, state) == 0
    good = (state / "monitor.json").read_bytes()
    assert Kept.parse(good).serialize() == good
    for bad in (
        b"",
        b"{}",
        good[:-1],
        good.replace(b'"size":256', b'"size":255'),
        good.replace(b"\\n300\\n", b"\\n299\\n"),
    ):
        (state / "monitor.json").write_bytes(bad)
        assert monitor(server.url, state) == 2, bad[:40]
        assert (state / "monitor.json").read_bytes() == bad
    (state / "monitor.json").write_bytes(good)
    assert monitor(server.url, state, key=pair(9)[1]) == 2


def test_who_follows_by_url_alone_is_told_that_sealed_fields_are_not_checked(
    server: LyingServer, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert monitor(server.url, state) == 0
    assert "sealed fields: not checked" in capsys.readouterr().out
    assert monitor(server.url, state, "--json") == 0
    assert json.loads(capsys.readouterr().out)["payloads"] is None


def test_a_check_that_could_not_be_made_is_no_good_verdict(
    server: LyingServer, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--payloads", "--home", tmp_path)
    assert monitor(server.url, state, *asked) == 3, "the log holds, but nobody is logged in"
    out = capsys.readouterr().out
    assert "verified: 300 entries" in out
    assert "incomplete: sealed fields: the service did not check: " in out
    server.show(FILES[40])
    assert monitor(server.url, state, *asked) == 4, "what is worse counts"


def test_bad_usage_exits_2(server: LyingServer, state: Path, tmp_path: Path) -> None:
    assert monitor(tmp_path / "absent", state) == 2
    assert monitor(server.url, state, "--interval", "0") == 2
    assert monitor(server.url, state, "--interval", "x") == 2
    assert monitor(server.url, state, "--rounds", "0") == 2
    assert monitor(server.url, state, "--policy", tmp_path / "absent") == 2
    assert monitor(server.url, state, "--vkey", pair(9)[1].vkey) == 2
    assert main(["audit", "monitor", server.url]) == 2


def test_several_rounds_end_at_the_first_alarm_or_when_told(server: LyingServer, state: Path) -> None:
    assert monitor(server.url, state, "--interval", "0.01", "--rounds", 3) == 0
    assert server.asked.count("checkpoint") == 3
    server.show(FILES[40])
    assert monitor(server.url, state, "--interval", "0.01", "--rounds", 3) == 4
    assert server.asked.count("checkpoint") == 4


SIGNALLED = """
import signal
from counterseal.cli.audit_monitor import Stopping

stopping = Stopping()
signal.signal(signal.SIGALRM, stopping.tell)
signal.setitimer(signal.ITIMER_REAL, 5e-4, 5e-4)
told = sum(stopping.wait(1e-5) for _ in range(20_000))
signal.setitimer(signal.ITIMER_REAL, 0)
while stopping.wait(0.01):
    told += 1
print(told)
"""


def test_a_signal_may_come_at_any_moment() -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED], check=True, capture_output=True, timeout=60)
    assert int(done.stdout) > 50


def test_a_running_monitor_ends_with_its_last_verdict_when_told_to_stop(server: LyingServer, state: Path) -> None:
    argv = ["audit", "monitor", server.url, "--state", str(state), "--vkey", KEY.vkey, "--interval", "0.05"]
    code = "import sys; from counterseal.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", code, *argv], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"verified: 300 entries")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


# --- keys and witnesses, look by look ---


def rotating(size: int, signer: tuple[object, VerifierKey], *notes: bytes, rotated_at: int = 5) -> dict[str, bytes]:
    logged = [key_entry(n, NEW[1]) if n == rotated_at else LOG[n] for n in range(size)]
    files = files_of(logged)
    files |= {f"rotation/{n}": note for n, note in enumerate(notes, 1)}
    return {**files, "checkpoint": note_of(logged, signer)}  # type: ignore[arg-type]


def seen(files: dict[str, bytes], kept: Kept | None) -> tuple[str | None, Kept | None]:
    found = look(Files(files), KEY, kept, now_ms=NOW, max_age_ms=10 * NOW)
    return found.verdict, found.kept


@requirement("ledger:rotation-followed")
def test_a_rotation_published_while_the_monitor_reads_is_followed_at_its_next_look() -> None:
    logged = [*LOG[:310], key_entry(310, NEW[1]), *LOG[311:]]
    cover = note_of(logged[:311], OLD)
    verdict, kept = seen(rotating(305, OLD, cover, rotated_at=310), None)
    assert verdict is None, "the checkpoint was read just before the rotation's note was written"
    assert kept is not None
    verdict, later = seen(rotating(600, NEW, cover, rotated_at=310), kept)
    assert verdict is None
    assert later is not None


@requirement("ledger:rotation-followed")
@pytest.mark.parametrize("rotated_at", [5, 299, 310])
def test_a_monitor_follows_a_rotation_wherever_it_falls(rotated_at: int) -> None:
    logged = [*LOG[:rotated_at], key_entry(rotated_at, NEW[1]), *LOG[rotated_at + 1 :]]
    cover = note_of(logged[: rotated_at + 1], OLD)
    verdict, kept = seen(rotating(300, OLD, rotated_at=rotated_at), None)
    assert (verdict, kept is not None) == (None, True)
    assert seen(rotating(600, NEW, rotated_at=rotated_at), kept) == ("incomplete", kept), "the note is missing"
    verdict, later = seen(rotating(600, NEW, cover, rotated_at=rotated_at), kept)
    assert verdict is None
    assert later is not None
    assert later.keys == (NEW[1].public.hex(),)
    assert Kept.parse(later.serialize()) == later
    verdict, _ = seen(rotating(650, NEW, cover, rotated_at=rotated_at), later)
    assert verdict is None
    assert seen(rotating(650, NEWER, cover, rotated_at=rotated_at), later) == ("tampered", later)


def test_a_monitor_asks_for_the_quorum_of_its_policy(server: LyingServer, state: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    policy.write_text(f"witness A {W1[1].vkey}\nquorum A\n")
    assert monitor(server.url, state, "--policy", policy) == 3
    server.show({**FILES[300], "checkpoint": cosigned(FILES[300]["checkpoint"], W1)})
    assert monitor(server.url, state, "--policy", policy) == 0
