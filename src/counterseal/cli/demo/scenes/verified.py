"""Scene 7: the exported log verifies with the pinned key; every kind of damage in a copy is found and named."""

import shutil
from pathlib import Path

from counterseal.cli.audit_sources import Directory
from counterseal.cli.demo.stage import Stage, expect, write_files
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.verify import Report, verify_log

TITLE = "the ledger's export verifies; a flipped byte, a cut tail and a missing tile are each named"


async def play(stage: Stage) -> list[str]:
    """Export the tenant's log, verify it, then damage copies."""
    person = stage.person("omar")
    size = (await person.checkpoint()).log_size
    folder = stage.running.data_dir / "ledger"
    files: dict[str, bytes] = {}
    async for part in person.export(min_size=size):
        files[part.path] = files.get(part.path, b"") + part.content
    shutil.rmtree(folder, ignore_errors=True)
    write_files(folder, files)
    key = VerifierKey.parse((folder / "vkey").read_text(encoding="ascii").removesuffix("\n"))
    report = verify_log(Directory(folder), key, stage.kept_checkpoint or None)
    expect(report.verdict is None, f"the export does not verify: {_first(report)}")
    expect(report.size >= size, f"the checkpoint covers {report.size} of {size} entries")

    copies = stage.running.data_dir / "ledger-copies"
    shutil.rmtree(copies, ignore_errors=True)
    flipped = _flipped(folder, copies / "flipped", key)
    cut = _cut(folder, copies / "cut", key, stage.kept_checkpoint)
    missing = _missing(folder, copies / "missing", key)
    shutil.rmtree(copies, ignore_errors=True)
    return [
        f"{folder}: {report.size} entries verify against {report.origin}",
        f"flipped byte -> {flipped}",
        f"cut tail     -> {cut}",
        f"missing tile -> {missing}",
    ]


def _flipped(folder: Path, copy: Path, key: VerifierKey) -> str:
    shutil.copytree(folder, copy)
    tile = _first_bundle(copy)
    data = bytearray(tile.read_bytes())
    data[len(data) // 2] ^= 1
    tile.write_bytes(bytes(data))
    report = verify_log(Directory(copy), key)
    expect(report.verdict == "tampered", f"one flipped byte: {report.verdict}")
    return _first(report)


def _cut(folder: Path, copy: Path, key: VerifierKey, kept: bytes) -> str:
    """Present the log as it was at its start, with the signed head of that time: only a kept checkpoint tells."""
    shutil.copytree(folder, copy)
    head = (folder / "checkpoint").read_bytes()
    expect(head != kept, "the log did not grow since the first scene")
    (copy / "checkpoint").write_bytes(kept)
    report = verify_log(Directory(copy), key, head)
    expect(report.verdict in ("tampered", "forked"), f"a cut tail: {report.verdict}")
    found = [f for f in report.findings if "cut" in f.message]
    expect(found, f"a cut tail is not named: {_first(report)}")
    return f"{found[0].kind}: {found[0].message}"


def _missing(folder: Path, copy: Path, key: VerifierKey) -> str:
    shutil.copytree(folder, copy)
    _first_bundle(copy).unlink()
    report = verify_log(Directory(copy), key)
    expect(report.verdict == "incomplete", f"one missing tile: {report.verdict}")
    return _first(report)


def _first_bundle(folder: Path) -> Path:
    return min(path for path in (folder / "tile" / "entries").rglob("*") if path.is_file())


def _first(report: Report) -> str:
    if not report.findings:
        return "nothing found"
    finding = report.findings[0]
    return f"{finding.kind}: {finding.where}: {finding.message}"
