"""`audit export`: the tenant's log as C2SP files, JSON lines, CSV, OCSF events, or one bundle with the verifier in it.

Every format is made from a directory that was verified first, fetched or on disk; nothing is written where that failed.
What is fetched is recorded in the log before it is sent, and what is made of it before it is put in its place.
"""

import argparse
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterseal.canonical import canonical, digest
from counterseal.cli import bundle, exits
from counterseal.cli import export_rows as forms
from counterseal.cli.audit_pins import read_vkey
from counterseal.cli.audit_sources import Directory
from counterseal.cli.audit_verdict import exit_code, show
from counterseal.cli.explain import read_disclosures
from counterseal.cli.export_rows import Row, Writer
from counterseal.cli.options import add_options
from counterseal.cli.output import complain, emit, say
from counterseal.cli.progress import Progress
from counterseal.errors import InputInvalid, ServiceError
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tiles import CHECKPOINT, VKEY
from counterseal.ledger.verify import Report, verify_log

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers
    from counterseal.cli.audit_calls import Taken

ROWS: Mapping[str, Writer] = {"jsonl": forms.jsonl, "csv": forms.csv_row, "ocsf": forms.ocsf}
FILTERS = ("type", "plan", "request", "agent", "since", "until")


def register(commands: "Subparsers") -> None:
    """Add the subcommand."""
    one = commands.add_parser("export", help="write the tenant's log as files, rows or one bundle, and verify it")
    one.add_argument("out", metavar="OUT", help="directory (tiles: new, or an earlier export to extend) or file")
    one.add_argument("--format", choices=("tiles", *ROWS, "bundle"), default="tiles", help="default: tiles")
    one.add_argument("--from", dest="source", metavar="DIR", help="an export on disk instead of the service")
    one.add_argument("--vkey", metavar="FILE_OR_STRING", help="the key that you pinned, default: the log's own word")
    one.add_argument("--purpose", metavar="CODE", help="what it is for, such as case-4711; in clear in the log")
    one.add_argument("--disclosures", metavar="FILE", help="bundle: the sealed fields to hand out (disclosures.jsonl)")
    one.add_argument("--policy", metavar="FILE", help="bundle: the trust policy to hand out (C2SP tlog-policy)")
    rows = one.add_argument_group("filters of jsonl, csv and ocsf; what is filtered proves no completeness")
    rows.add_argument("--type", action="append", metavar="TYPE", help="an event type; may be repeated")
    rows.add_argument("--plan", metavar="DIGEST", help="entries of this plan")
    rows.add_argument("--request", metavar="ID", help="entries of this request")
    rows.add_argument("--agent", metavar="AGENT", help="entries of this agent")
    rows.add_argument("--since", metavar="TIME", help="events from this time on (ISO 8601)")
    rows.add_argument("--until", metavar="TIME", help="events before this time (ISO 8601)")
    add_options(one)
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, and return 0 only for what was verified."""
    filters = {name: getattr(args, name) for name in FILTERS if getattr(args, name)}
    if filters and args.format not in ROWS:
        raise InputInvalid(f"{args.format} is always whole; filters are for {', '.join(ROWS)}")
    if (args.disclosures or args.policy) and args.format != "bundle":
        raise InputInvalid("--disclosures and --policy are for bundles")
    if args.purpose and args.source is not None:
        raise InputInvalid("--purpose is for the log's record; an export --from a copy on disk is recorded nowhere")
    if args.format == "tiles":
        if args.source is not None:
            raise InputInvalid("tiles are fetched from the service; copy a directory as it is")
        from counterseal.cli import audit_calls

        args.directory = args.out
        return audit_calls.export(args)
    wanted = Filter.of(filters)
    if args.source is not None:
        return _convert(args, Path(args.source), wanted, None)
    with tempfile.TemporaryDirectory(prefix="counterseal-export-") as folder:
        from counterseal.cli import audit_calls

        taken = audit_calls.Taken()
        code = audit_calls.fetch(args, Path(folder), taken)
        return code if code != exits.OK else _convert(args, Path(folder), wanted, taken)


def _convert(args: argparse.Namespace, source: Path, wanted: "Filter", taken: "Taken | None") -> int:
    try:
        key = read_vkey(args.vkey or str(source / VKEY))
    except VerificationError as error:
        complain(f"--vkey: {error.message}" if args.vkey else f"{source / VKEY}: {error.message}")
        return exits.USAGE
    report = verify_log(Directory(source), key)
    if report.findings:
        show(report)
        return exit_code(report)
    out = Path(args.out)
    fresh = out.with_name(f"{out.name}.new")
    progress = Progress("entries", report.size)
    try:
        if taken is not None:
            taken.check(report)
        if args.format == "bundle":
            manifest, name = _bundle(args, source, fresh, report, key, progress)
        else:
            count = _rows(fresh, source, report, args.format, wanted, progress)
            manifest, name = _manifest(args, fresh, source, report, count, wanted)
        recorded = _record(args, taken, manifest, name)
    except VerificationError as error:
        fresh.unlink(missing_ok=True)
        complain(error.diagnostics())
        return exits.TAMPERED
    except ServiceError:
        fresh.unlink(missing_ok=True)
        raise
    where = None
    if args.format != "bundle":
        where = out.with_name(f"{out.name}.manifest.json")
        where.write_bytes(canonical(manifest))
    fresh.replace(out)
    _tell(args, manifest, name, where, recorded)
    return exits.OK


def _record(args: argparse.Namespace, taken: "Taken | None", manifest: Mapping[str, Any], name: str) -> str | None:
    """Have the log say what was made, before it is in its place; None for what no service knows of."""
    if taken is None or not taken.event_id:
        return None
    from counterseal.cli import audit_calls

    return audit_calls.record(args, taken, args.format, name, int(manifest["count"]))


def _bundle(
    args: argparse.Namespace, source: Path, target: Path, report: Report, key: VerifierKey, progress: Progress
) -> tuple[dict[str, Any], str]:
    chosen = None
    if args.disclosures:
        chosen = read_disclosures(Path(args.disclosures))
        if not chosen:
            raise InputInvalid("--disclosures: the file holds none")
    policy = Path(args.policy).read_bytes() if args.policy else None
    return bundle.write(target, source, report, key, disclosures=chosen, policy=policy, on_row=progress.step)


def _rows(target: Path, source: Path, report: Report, form: str, wanted: "Filter", progress: Progress) -> int:
    count = 0
    with target.open("wb") as file:
        if form == "csv":
            file.write(forms.csv_header())
        for row in bundle.rows(source, report):
            progress.step()
            if wanted.takes(row):
                file.write(ROWS[form](row))
                count += 1
    return count


def _manifest(
    args: argparse.Namespace, file: Path, source: Path, report: Report, count: int, wanted: "Filter"
) -> tuple[dict[str, Any], str]:
    with file.open("rb") as opened:
        hashed = hashlib.file_digest(opened, "sha256").hexdigest()
    files = [{"path": Path(args.out).name, "size": file.stat().st_size, "sha256": hashed}]
    manifest = bundle.manifest_of(
        report,
        args.format,
        count,
        files,
        checkpoint=(source / CHECKPOINT).read_bytes(),
        filters={name: list(values) for name, values in wanted.said.items()},
    )
    return manifest, digest(bundle.KIND, canonical(manifest))


def _tell(
    args: argparse.Namespace, manifest: Mapping[str, Any], name: str, where: Path | None, recorded: str | None
) -> None:
    if args.json:
        emit({"out": args.out, "manifest_digest": name, "manifest": manifest, "disclosed_event_id": recorded})
        return
    say(f"log          {manifest['origin']}")
    say(f"entries      {manifest['count']} of {manifest['size']}: {manifest['completeness']}")
    say(f"manifest     {name}" + (f" ({where})" if where is not None else ""))
    if recorded is not None:
        say(f"recorded     access.disclosed {recorded}")
    elif args.source is not None:
        say("recorded     nothing: made from a copy on disk, of which no service knows")
    else:
        say("recorded     nothing: the service is of an older release")
    say(f"written to   {args.out}, from a log that verifies")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries are written. said: the filters as they were asked for."""

    said: Mapping[str, Sequence[str]]
    since_ms: int | None = None
    until_ms: int | None = None

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> "Filter":
        """Return the filter; raises InputInvalid for a time that is none."""
        said = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in asked.items()}
        return replace(
            cls(said),
            since_ms=time_ms("--since", asked["since"]) if "since" in asked else None,
            until_ms=time_ms("--until", asked["until"]) if "until" in asked else None,
        )

    def takes(self, row: Row) -> bool:
        """Tell whether an entry is wanted."""
        return not self.said or all(self._checks(row))

    def _checks(self, row: Row) -> Iterator[bool]:
        document = row.document
        for name, header in (("type", "type"), ("plan", "plan_digest"), ("request", "request_id"), ("agent", "agent")):
            if name in self.said:
                yield document.get(header) in self.said[name]
        if self.since_ms is not None:
            yield document["event_time_ms"] >= self.since_ms
        if self.until_ms is not None:
            yield document["event_time_ms"] < self.until_ms


def time_ms(name: str, text: str) -> int:
    """Return a time of the command line in milliseconds; one without a zone is refused, as it could mean several."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputInvalid(f"{name}: not a time such as 2026-11-27T06:00:00Z") from None
    if moment.tzinfo is None:
        raise InputInvalid(f"{name}: a time needs its zone, such as 2026-11-27T06:00:00Z")
    return int(moment.timestamp() * 1000)
