"""`audit export` and `audit proof`: what an auditor takes home, checked before it is kept."""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from counterseal.cli import exits
from counterseal.cli.audit_pins import read_vkey
from counterseal.cli.audit_sources import Directory
from counterseal.cli.audit_verdict import as_json, exit_code, manifest_of, show
from counterseal.cli.entry_name import parse_entry_name, place_name
from counterseal.cli.output import complain, emit, say
from counterseal.cli.progress import Progress
from counterseal.errors import NotFound
from counterseal.ledger import proof as proofs
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tiles import CHECKPOINT, VKEY, WIDTH
from counterseal.ledger.verify import Report, verify_log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from counterseal.api.audit.v1 import reader_pb2
    from counterseal.client import Person


@dataclass(slots=True)
class Taken:
    """What the service says that it recorded about an export; empty texts where it is too old to do so."""

    event_id: str = ""
    manifest_digest: str = ""

    def check(self, report: Report) -> None:
        """Raise VerificationError unless a verified export is the one that was recorded."""
        if self.event_id and self.manifest_digest != manifest_of(report):
            raise VerificationError(f"the service recorded another export than it sent ({self.manifest_digest})")

    def line(self) -> str:
        """Return what to tell the person."""
        return f"access.disclosed {self.event_id}" if self.event_id else "nothing: the service is of an older release"


def export(args: argparse.Namespace) -> int:
    """Write the tenant's whole log into a directory; an earlier export there must be extended by it.

    The new copy is written beside the old and takes its place only after it was verified, so that a service which shows
    another history cannot overwrite the evidence against it.
    """
    directory = Path(args.directory).resolve()
    fresh = directory.with_name(f"{directory.name}.new")
    kept = _read(directory / CHECKPOINT)
    shutil.rmtree(fresh, ignore_errors=True)
    taken = Taken()
    code = fetch(args, fresh, taken)
    if code != exits.OK:
        return code
    try:
        key = read_vkey(str((directory if kept is not None else fresh) / VKEY))
    except VerificationError as error:
        complain(f"{directory / VKEY}: {error.message}")
        return exits.TAMPERED
    report = verify_log(Directory(fresh), key, kept)
    if report.verdict is None:
        try:
            taken.check(report)
        except VerificationError as error:
            complain(f"{fresh}: {error.message}; {directory} is as it was")
            return exits.TAMPERED
        _take_place(fresh, directory)
    if args.json:
        where = str(directory if report.verdict is None else fresh)
        emit({"directory": where, **as_json(report), "disclosed_event_id": taken.event_id})
    else:
        show(report)
        say(f"recorded     {taken.line()}")
        say(f"written to   {directory if report.verdict is None else f'{fresh}; {directory} is as it was'}")
    return exit_code(report)


def fetch(args: argparse.Namespace, directory: Path, taken: Taken) -> int:
    """Write everything that is in the tenant's log now; nothing of it is verified yet. Fills `taken`."""
    from counterseal.cli.session import as_person
    from counterseal.client.export import write_export

    async def work(person: "Person") -> int:
        parts = person.export(await _size_now(person), args.purpose or "")
        await write_export(_counted(parts, taken), directory)
        return exits.OK

    return as_person(args, work)


def record(args: argparse.Namespace, taken: Taken, form: str, manifest_digest: str, count: int) -> str:
    """Have the log say what was made of an export; return the entry's id. Raises ServiceError."""
    from counterseal.cli.session import as_person

    ids: list[str] = []

    async def work(person: "Person") -> int:
        answer = await person.record_export(taken.event_id, form, manifest_digest, count)
        ids.append(answer.disclosed_event_id)
        return exits.OK

    as_person(args, work)
    return ids[0]


async def _size_now(person: "Person") -> int:
    """Return how many entries the log has now: a checkpoint covers them within its interval, which an export awaits."""
    try:
        return (await person.checkpoint()).log_size
    except NotFound:
        return (
            1  # a log that began a moment ago has its first checkpoint soon; where there is no log, the export says so
        )


async def _counted(
    parts: "AsyncIterator[reader_pb2.ExportLogResponse]", taken: Taken
) -> "AsyncIterator[reader_pb2.ExportLogResponse]":
    """Yield the pieces and say how many entries have come; keep what the first one says of the export."""
    progress, size, count, last = Progress("entries"), 0, 0, ""
    async for part in parts:
        if part.size:
            size, taken.event_id, taken.manifest_digest = part.size, part.disclosed_event_id, part.manifest_digest
        if part.path != last and part.path.startswith("tile/entries/"):
            count = min(size, count + WIDTH)
            progress.at(count, size)
        last = part.path
        yield part


def _take_place(fresh: Path, directory: Path) -> None:
    """Move every file of the new export over the old one, the checkpoint last."""
    files = [path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()]
    for file in sorted(files, key=lambda file: file.name == CHECKPOINT):
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (fresh / file).replace(directory / file)
    shutil.rmtree(fresh)


def _read(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def prove(args: argparse.Namespace) -> int:
    """Write one entry and its offline proof (C2SP tlog-proof) after checking them against the log's key."""
    from counterseal.cli.session import as_person

    named = parse_entry_name(args.entry)
    try:
        pinned = read_vkey(args.vkey) if args.vkey else None
    except VerificationError as error:
        complain(f"--vkey: {error.message}")
        return exits.USAGE
    found: list[tuple[reader_pb2.LedgerEntry, bytes, str]] = []

    async def work(person: "Person") -> int:
        entry = (await person.entry(**named)).entry
        head = await person.checkpoint(entry.shard)
        proof = await person.inclusion_proof(entry.index, head.size, entry.shard)
        found.append((entry, proof.tlog_proof, head.vkey))
        return exits.OK

    code = as_person(args, work)
    if code != exits.OK:
        return code
    ((entry, proof, vkey),) = found
    try:
        checkpoint = proofs.parse(proof).verify(entry.entry, [pinned or VerifierKey.parse(vkey)])
    except VerificationError as error:
        complain(error.diagnostics())
        return exits.TAMPERED
    where = place_name(entry.shard, entry.index)
    out = Path(args.out or f"{where.replace('/', '-')}.tlog-proof")
    out.write_bytes(proof)
    out.with_suffix(".entry.json").write_bytes(entry.entry)
    if args.json:
        emit(
            {
                "index": entry.index,
                "shard": entry.shard,
                "size": checkpoint.size,
                "origin": checkpoint.origin,
                "proof": str(out),
            }
        )
    else:
        say(f"entry        {where} of {checkpoint.size}, log {checkpoint.origin}")
        say(f"proof        {out}, verified{'' if pinned else ' with the key that the service names; pin it'}")
        say(f"entry bytes  {out.with_suffix('.entry.json')}")
    return exits.OK
