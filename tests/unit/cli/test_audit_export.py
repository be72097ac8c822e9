"""`audit export --from`: rows and bundles of a verified log, and a verifier that needs nothing but Python."""

import base64
import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from counterseal.canonical import canonical, digest
from counterseal.cli import bundle, main, zipapp_build
from counterseal.cli.audit_calls import Taken
from counterseal.cli.audit_pins import read_vkey
from counterseal.cli.audit_sources import Directory
from counterseal.cli.export_rows import COLUMNS, Row, csv_row, guarded, ocsf_event
from counterseal.ledger import disclosure
from counterseal.ledger import entry as entries
from counterseal.ledger.checkpoint import Checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.exported import manifest_digest
from counterseal.ledger.tree import leaf_hash
from counterseal.ledger.verify import verify_log
from support import incidents
from support.exports import KEY, files_of, genesis, write
from support.requirements import requirement

BARE = [sys.executable, "-I", "-S"]


def export(*argv: object, source: Path = incidents.DIRECTORY) -> int:
    return main(["audit", "export", *map(str, argv), "--from", str(source)])


def made(tmp_path: Path, *argv: object, name: str = "out") -> tuple[bytes, dict[str, Any]]:
    """Export, and return the file and its manifest."""
    out = tmp_path / name
    assert export(out, *argv) == 0
    return out.read_bytes(), json.loads((tmp_path / f"{name}.manifest.json").read_bytes())


@requirement("ledger:exports")
def test_json_lines_hold_every_entry_byte_for_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, manifest = made(tmp_path, "--format", "jsonl")
    lines = [json.loads(line) for line in content.splitlines()]
    assert [line["index"] for line in lines] == list(range(524))
    for line, entry in zip(content.splitlines(), incidents.entries(), strict=True):
        assert entry in line
    assert [bytes.fromhex(line["leaf_hash"]) for line in lines] == [leaf_hash(e) for e in incidents.entries()]
    assert (manifest["completeness"], manifest["count"], manifest["size"]) == (bundle.WHOLE, 524, 524)
    assert manifest["files"] == [{"path": "out", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}]
    assert base64.b64decode(manifest["checkpoint"]) == (incidents.DIRECTORY / "checkpoint").read_bytes()
    assert digest("export-manifest", canonical(manifest)) in capsys.readouterr().out


def test_what_is_made_from_a_copy_on_disk_is_recorded_nowhere_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(tmp_path / "out", "--format", "csv") == 0
    assert "recorded     nothing: made from a copy on disk" in capsys.readouterr().out
    assert export(tmp_path / "out", "--format", "csv", "--json") == 0
    assert json.loads(capsys.readouterr().out)["disclosed_event_id"] is None


def test_a_service_that_recorded_another_export_than_it_sent_is_found_out(capsys: pytest.CaptureFixture[str]) -> None:
    report = verify_log(Directory(incidents.DIRECTORY), read_vkey(str(incidents.DIRECTORY / "vkey")))
    named = manifest_digest([Checkpoint(report.origin, report.size, report.root)])
    Taken("id", named).check(report)
    Taken().check(report)
    for size, root in ((report.size - 1, report.root), (report.size, bytes(32))):
        with pytest.raises(VerificationError, match="recorded another export"):
            Taken("id", manifest_digest([Checkpoint(report.origin, size, root)])).check(report)
    with pytest.raises(VerificationError):
        Taken("id", "").check(report)
    assert main(["audit", "verify", str(incidents.DIRECTORY), "--vkey", str(incidents.DIRECTORY / "vkey")]) == 0
    assert f"manifest     {named}" in capsys.readouterr().out


@requirement("ledger:exports")
def test_what_is_filtered_says_that_completeness_is_not_proven(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = incidents.plans()[2]
    content, manifest = made(
        tmp_path, "--format", "jsonl", "--plan", plan, "--type", "step.intent", "--type", "plan.ended"
    )
    found = [json.loads(line)["entry"] for line in content.splitlines()]
    wanted = [
        one
        for one in incidents.documents()
        if one.get("plan_digest") == plan and one["type"] in ("step.intent", "plan.ended")
    ]
    assert found == wanted
    assert manifest["completeness"] == "completeness not proven"
    assert manifest["filters"] == {"plan": [plan], "type": ["step.intent", "plan.ended"]}
    assert "completeness not proven" in capsys.readouterr().out
    moment = incidents.documents()[100]["event_time_ms"]
    content, _ = made(tmp_path, "--format", "jsonl", "--until", "2026-11-27T06:14:00Z")
    assert 0 < len(content.splitlines()) < 524
    assert all(json.loads(line)["entry"]["event_time_ms"] < 1_795_760_040_000 for line in content.splitlines())
    assert moment


@requirement("ledger:exports")
def test_csv_is_read_back_and_no_cell_is_a_formula(tmp_path: Path) -> None:
    content, _ = made(tmp_path, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 524
    for row, one in zip(rows, incidents.documents(), strict=True):
        assert row["event_id"] == one["event_id"]
        assert json.loads(row["data"]) == one["data"]
    for lead in ("=", "+", "-", "@", "\t", "\r"):
        assert guarded(f"{lead}cmd|' /C calc'!A0").startswith("'")
    assert guarded("plain") == "plain"
    hostile = json.loads(genesis())
    hostile["data"] = {"vkey": "x", "shard": 0}
    hostile["agent"] = "-2+3"
    line = csv_row(Row("o", 0, json.dumps(hostile).encode())).decode()
    assert "'-2+3" in line


@requirement("ledger:exports")
def test_every_entry_is_an_ocsf_api_activity(tmp_path: Path) -> None:
    content, _ = made(tmp_path, "--format", "ocsf")
    events = [json.loads(line) for line in content.splitlines()]
    assert len(events) == 524
    for index, (event, entry) in enumerate(zip(events, incidents.entries(), strict=True)):
        for required in ("activity_id", "actor", "api", "category_uid", "class_uid", "metadata", "severity_id"):
            assert required in event
        assert (event["class_uid"], event["category_uid"]) == (6003, 6)
        assert event["type_uid"] == 600300 + event["activity_id"]
        assert (event["raw_data"].encode(), event["metadata"]["sequence"]) == (entry, index)
        assert event["src_endpoint"]["name"] == json.loads(entry)["srv"]["producer"]
    by_type = {event["message"]: event for event in events}
    assert by_type["credential.granted"]["activity_id"] == 1
    assert by_type["credential.revoked"]["activity_id"] == 4
    assert by_type["containment.tripped"]["severity_id"] == 4
    assert {e["status_id"] for e in events if e["message"] == "step.outcome"} == {0, 1, 2}


def test_an_ocsf_event_survives_an_entry_without_anything_optional() -> None:
    assert ocsf_event(Row("o", 0, genesis()))["actor"]["user"]["uid"] == "unknown"


@requirement("ledger:exports")
def test_a_broken_log_is_exported_in_no_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "ledger"
    shutil.copytree(incidents.DIRECTORY, copy)
    data = bytearray((copy / "tile/entries/001").read_bytes())
    data[5000] ^= 1
    (copy / "tile/entries/001").write_bytes(data)
    for form in ("jsonl", "csv", "ocsf", "bundle"):
        assert export(tmp_path / "out", "--format", form, source=copy) == 4
        assert not (tmp_path / "out").exists()
    assert "tile/entries/001: entry" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ["--format", "bundle", "--type", "plan.ended"],
        ["--format", "jsonl", "--since", "yesterday"],
        ["--format", "jsonl", "--since", "2026-11-27T06:00:00"],
        ["--format", "jsonl", "--disclosures", "x"],
        ["--format", "tiles"],
        ["--format", "csv", "--purpose", "case-1"],
    ],
)
def test_what_can_mean_nothing_is_refused(tmp_path: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tmp_path / "out", *argv) == 3
    assert not (tmp_path / "out").exists()
    assert "INPUT_INVALID" in capsys.readouterr().err


# --- the bundle ---


def unzipped(tmp_path: Path, *argv: object, source: Path = incidents.DIRECTORY) -> Path:
    assert export(tmp_path / "b.zip", "--format", "bundle", *argv, source=source) == 0
    target = tmp_path / "bundle"
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        archive.extractall(target)
    return target


def bare(directory: Path, *argv: str) -> "subprocess.CompletedProcess[str]":
    """The bundle's verifier on Python alone: no site-packages, no environment, no network to ask for."""
    command = [*BARE, "verifier.pyz", *argv]
    unshare = shutil.which("unshare")
    if unshare and subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False).returncode == 0:
        command = [unshare, "-rn", *command]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=100)


@requirement("ledger:bundle-verifies-bare")
def test_the_bundles_verifier_runs_on_python_alone_and_finds_a_flipped_byte(tmp_path: Path) -> None:
    home = unzipped(tmp_path)
    pinned = (incidents.DIRECTORY / "vkey").read_text().strip()
    done = bare(home, "verify", "log", ".", "--vkey", pinned)
    assert done.returncode == 0, done.stderr
    assert "the bundle's own" not in done.stderr
    assert "verified" in done.stdout
    without = bare(home, "verify", "log", ".")
    assert without.returncode == 0
    assert "the key is the bundle's own" in without.stderr
    story = bare(home, "explain", incidents.plans()[0], "--from", ".")
    assert story.returncode == 0
    assert story.stdout.startswith("problems ")
    other = KEY.vkey
    assert bare(home, "verify", "log", ".", "--vkey", other).returncode == 4
    for argv in ([], ["nonsense"], ["verify"], ["verify", "log", "nowhere", "--vkey", pinned]):
        done = bare(home, *argv)
        assert done.returncode == 2, argv
        assert "Traceback" not in done.stderr
    data = bytearray((home / "tile/entries/001").read_bytes())
    data[777] ^= 1
    (home / "tile/entries/001").write_bytes(data)
    assert bare(home, "verify", "log", ".", "--vkey", pinned).returncode == 4
    (home / "tile/0/000").unlink()
    (home / "tile/entries/000").unlink()
    assert bare(home, "verify", "log", ".", "--vkey", pinned).returncode in (3, 4)


@requirement("ledger:exports")
def test_the_manifest_names_every_other_file_and_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    home = unzipped(tmp_path)
    manifest = json.loads((home / "manifest.json").read_bytes())
    named = {one["path"]: one for one in manifest["files"]}
    there = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert set(named) == there - {"manifest.json"}
    for path, one in named.items():
        content = (home / path).read_bytes()
        assert (one["size"], one["sha256"]) == (len(content), hashlib.sha256(content).hexdigest()), path
    assert {"checkpoint", "vkey", "entries.jsonl", "vkeys", "policy", "verifier.pyz", "README.txt"} <= there
    assert (home / "policy").read_text() == f"log {(home / 'vkey').read_text().strip()}\nquorum none\n"
    assert (home / "vkeys").read_bytes() == (home / "vkey").read_bytes()
    assert len((home / "entries.jsonl").read_bytes().splitlines()) == 524
    first = (tmp_path / "b.zip").read_bytes()
    assert export(tmp_path / "again.zip", "--format", "bundle") == 0
    assert (tmp_path / "again.zip").read_bytes() == first


@requirement("ledger:exports")
def test_chosen_disclosures_travel_along_and_are_read_by_explain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strings = [disclosure.make("user_request", "refund order 7", lambda n: b"s" * n)]
    content = {
        "v": 1,
        "type": "request.received",
        "event_id": "0192f000-0000-7000-8000-000000000001",
        "event_time_ms": 1,
        "tenant": "acme",
        "environment": "prod",
        "request_id": "r-1",
        "agent": "bot",
        "agent_version": "1",
        "data": {},
        **entries.sealed_digests(strings),
    }
    entries.check_content(content)
    log = write(files_of([genesis(), entries.build(content, entries.Srv(1, "executor"))]), tmp_path / "log")
    chosen = tmp_path / "chosen.jsonl"
    chosen.write_bytes(canonical({"index": 1, "disclosures": strings}) + b"\n")
    home = unzipped(tmp_path, "--disclosures", chosen, source=log)
    assert (home / "disclosures.jsonl").read_bytes() == chosen.read_bytes()
    for line in ({"index": 0, "disclosures": strings}, {"index": 9, "disclosures": strings}):
        (tmp_path / "bad.jsonl").write_bytes(canonical(line) + b"\n")
        bad = ("--format", "bundle", "--disclosures", tmp_path / "bad.jsonl")
        assert export(tmp_path / "bad.zip", *bad, source=log) == 4
        assert not (tmp_path / "bad.zip").exists()
    capsys.readouterr()
    assert main(["explain", "r-1", "--from", str(home)]) == 0
    assert "refund order 7" in capsys.readouterr().out
    assert main(["explain", "r-1", "--from", str(log)]) == 0
    assert "request r-1: sealed" in capsys.readouterr().out
    assert bare(home, "verify", "log", ".").returncode == 0


def test_the_verifier_holds_our_sources_only_and_none_that_need_others() -> None:
    with zipfile.ZipFile(io.BytesIO(zipapp_build.build())) as archive:
        names = archive.namelist()
    assert all(name == "__main__.py" or name.startswith("counterseal/") for name in names)
    assert not [
        name for name in names if name.startswith(("counterseal/api/", "counterseal/client", "counterseal/rpc"))
    ]
    assert {"counterseal/ledger/verify.py", "counterseal/cli/audit_verify.py", "counterseal/cli/explain.py"} <= set(
        names
    )


def test_a_root_that_needs_somebody_elses_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipapp_build, "ROOTS", ("counterseal.rpc.server",))
    with pytest.raises(zipapp_build.NotStandalone, match="grpc"):
        zipapp_build.build()
