"""An export bundle: one zip with everything that an auditor needs, the verifier included, and a manifest of it all.

    checkpoint, vkey, rotation/, tile/, predecessor/   the log (C2SP tlog-tiles), as `verify log` reads it
    entries.jsonl       the entries, one a line, byte for byte
    disclosures.jsonl   the sealed fields that were chosen, where some were
    vkeys, policy       the keys that may sign, and the trust policy (C2SP tlog-policy)
    verifier.pyz        `python3 -I verifier.pyz verify log .`
    manifest.json       path, size and SHA-256 of every other file; its digest names the export

The same log and choices give the same bytes.
"""

import base64
import hashlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterseal.canonical import canonical, digest
from counterseal.cli import zipapp_build
from counterseal.cli.export_rows import Row, jsonl
from counterseal.ledger import disclosure, tiles
from counterseal.ledger import entry as entries
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.verify import Report

MANIFEST = "manifest.json"
KIND = "export-manifest"
WHOLE = "every entry of the log up to the checkpoint"
NOT_PROVEN = "completeness not proven"
_README = """An export of a Counterseal ledger.

Verify it where you unzipped it, with any Python from 3.11 on, no network and nothing installed:

    python3 -I verifier.pyz verify log . --vkey 'THE KEY THAT YOU PINNED'

Without --vkey the key in the file `vkey` is used: that proves the bundle is whole, not whose it is.
Exit codes: 0 verified, 3 incomplete, 4 tampered or forked. To read one action:

    python3 -I verifier.pyz explain ID --from .

The files checkpoint, vkey and tile/ are those of c2sp.org/tlog-tiles; other people's tools read them too.
Sealed fields are in disclosures.jsonl only as far as they were chosen. manifest.json names every file with its SHA-256.
"""


@dataclass(slots=True)
class _Zip:
    """Writes members and remembers what the manifest says of them."""

    archive: zipfile.ZipFile
    files: list[dict[str, Any]] = field(default_factory=list)

    def add(self, path: str, content: bytes) -> None:
        zipapp_build.add(self.archive, path, content)
        self.files.append({"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()})

    def stream(self, path: str, chunks: Iterable[bytes]) -> None:
        info = zipfile.ZipInfo(path, zipapp_build.EPOCH)
        info.external_attr = 0o644 << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        hashed, size = hashlib.sha256(), 0
        with self.archive.open(info, "w", force_zip64=True) as member:
            for chunk in chunks:
                member.write(chunk)
                hashed.update(chunk)
                size += len(chunk)
        self.files.append({"path": path, "size": size, "sha256": hashed.hexdigest()})


def write(
    target: Path,
    source: Path,
    report: Report,
    key: VerifierKey,
    *,
    disclosures: Mapping[int, Sequence[str]] | None = None,
    policy: bytes | None = None,
    on_row: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], str]:
    """Write the bundle of a directory that `report` has verified; return its manifest and the manifest's digest.

    disclosures: the chosen sealed fields by index. policy: a tlog-policy file; without one the log's own keys are
    enough. Raises VerificationError for a disclosure that its entry did not seal.
    """
    keys, unchecked = [key], dict(disclosures or {})
    with zipfile.ZipFile(target, "w") as archive:
        out = _Zip(archive)
        for path in sorted(_log_files(source)):
            out.add(path, (source / path).read_bytes())

        def lines() -> Iterator[bytes]:
            for row in rows(source, report):
                keys.extend(_new_keys(row, key.name))
                _check_sealed(row, unchecked.pop(row.index, ()))
                on_row()
                yield jsonl(row)

        out.stream("entries.jsonl", lines())
        if unchecked:
            raise VerificationError("a disclosure is of an entry that the log does not have", where="disclosures")
        if disclosures:
            chosen = ({"index": index, "disclosures": list(disclosures[index])} for index in sorted(disclosures))
            out.stream("disclosures.jsonl", (canonical(one) + b"\n" for one in chosen))
        out.add("vkeys", "".join(f"{one.vkey}\n" for one in keys).encode())
        out.add("policy", policy if policy is not None else _own_policy(keys))
        out.add("verifier.pyz", zipapp_build.build())
        out.add("README.txt", _README.encode())
        manifest = manifest_of(
            report, "bundle", report.size, out.files, checkpoint=(source / tiles.CHECKPOINT).read_bytes()
        )
        body = canonical(manifest)
        zipapp_build.add(archive, MANIFEST, body)
    return manifest, digest(KIND, body)


def manifest_of(
    report: Report, form: str, count: int, files: Sequence[Mapping[str, Any]], *, checkpoint: bytes, **more: Any
) -> dict[str, Any]:
    """Return the manifest of an export. `more`: the filters, where there are some; completeness is not proven then."""
    return {
        "v": 1,
        "format": form,
        "origin": report.origin,
        "tenant": report.tenant,
        "environment": report.environment,
        "checkpoint": base64.b64encode(checkpoint).decode(),
        "size": report.size,
        "root": report.root.hex(),
        "count": count,
        "completeness": NOT_PROVEN if more.get("filters") else WHOLE,
        "files": [dict(one) for one in files],
        **{name: value for name, value in more.items() if value},
    }


def rows(source: Path, report: Report) -> Iterator[Row]:
    """Yield the entries of a verified directory in order, a bundle in memory at a time."""
    for bundle in tiles.bundles_of(report.size):
        data = _covered(source, bundle)
        for index, entry in enumerate(tiles.parse_bundle(bundle, data), bundle.index * tiles.WIDTH):
            yield Row(report.origin, index, entry)


def _covered(source: Path, bundle: tiles.Tile) -> bytes:
    """Return a bundle; where the partial one was deleted because the full one is there, the beginning of that."""
    file = source / bundle.path
    if file.exists():
        return file.read_bytes()
    whole = tiles.Tile(None, bundle.index, tiles.WIDTH)
    return tiles.bundle(tiles.parse_bundle(whole, (source / whole.path).read_bytes())[: bundle.width])


def _log_files(source: Path) -> Iterator[str]:
    for path in source.rglob("*"):
        name = path.relative_to(source).as_posix()
        own = name.removeprefix("predecessor/")
        while own.startswith("predecessor/"):
            own = own.removeprefix("predecessor/")
        if path.is_file() and (own in (tiles.CHECKPOINT, tiles.VKEY) or own.startswith(("tile/", "rotation/"))):
            yield name


def _new_keys(row: Row, origin: str) -> list[VerifierKey]:
    """Return the key that an entry brings, if it rotates this log's key."""
    if b'"type":"key.rotated"' not in row.entry:
        return []
    data = entries.parse(row.entry).data
    if data.get("kind") != "log" or data.get("name") != origin or "public_key" not in data:
        return []
    return [VerifierKey.make(origin, bytes.fromhex(data["public_key"]))]


def _check_sealed(row: Row, disclosures: Sequence[str]) -> None:
    sealed = row.document.get("_sd", ()) if disclosures else ()
    for text in disclosures:
        if disclosure.digest(text) not in sealed:
            raise VerificationError("a disclosure is not what the entry sealed", where=f"entry {row.index}")


def _own_policy(keys: Sequence[VerifierKey]) -> bytes:
    """Return a tlog-policy that asks for no witness."""
    distinct = {one.public: one for one in keys}
    return "".join(f"log {one.vkey}\n" for one in distinct.values()).encode() + b"quorum none\n"
