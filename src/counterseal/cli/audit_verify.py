"""`audit verify` and `audit chain`: an export against the key that the auditor pinned. Standard library only.

Exit codes: 0 verified, 2 usage, 3 incomplete (a file is missing), 4 tampered or forked.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from counterseal.cli import exits
from counterseal.cli.output import complain, emit, say
from counterseal.ledger.chain import Chain
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.verify import MAX_FINDINGS, Report, verify_log

MAX_FILE_BYTES = 17 << 20
"""Above the largest file of the layout: 256 entries of 65,535 bytes, each with its length."""

_EXITS = {None: exits.OK, "incomplete": exits.REFUSED, "tampered": exits.TAMPERED, "forked": exits.TAMPERED}


@dataclass(frozen=True, slots=True)
class Directory:
    """The files of an export on disk."""

    root: Path

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, at most one more than any good file has; None when there is no such file."""
        try:
            with (self.root / path).open("rb") as file:
                return file.read(MAX_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def paths(self, below: str = "tile/") -> Iterable[str]:
        """Return the paths of all files below a folder."""
        found = (self.root / below).rglob("*")
        return sorted(path.relative_to(self.root).as_posix() for path in found if not path.is_dir())

    def lines(self, path: str) -> Iterator[bytes] | None:
        """Yield a file's lines; None when there is no such file."""
        return None


def run(args: argparse.Namespace) -> int:
    """Verify a directory and print what holds and what does not."""
    return _verify(args, None)


def run_chain(args: argparse.Namespace) -> int:
    """Verify a directory, then the chain of evidence inside it."""
    return _verify(args, Chain())


def _verify(args: argparse.Namespace, chain: Chain | None) -> int:
    directory = Path(args.directory)
    if not directory.is_dir():
        complain(f"{args.directory} is not a directory")
        return exits.USAGE
    try:
        key = read_vkey(args.vkey)
    except VerificationError as error:
        complain(f"--vkey: {error.message}")
        return exits.USAGE
    since = Path(args.since).read_bytes() if args.since is not None else None
    report = verify_log(Directory(directory), key, since, chain.add if chain is not None else None)
    if chain is not None and not report.findings:
        found = chain.findings()
        report = replace(report, findings=tuple(found[:MAX_FINDINGS]), omitted_count=len(found[MAX_FINDINGS:]))
    if args.json:
        emit(as_json(report))
    else:
        show(report)
    return exit_code(report)


def exit_code(report: Report) -> int:
    """Return the exit code that a verdict stands for."""
    return _EXITS[report.verdict]


def read_vkey(text: str) -> VerifierKey:
    """Return the key given as text or as the path of a one-line file. Raises VerificationError when it is neither."""
    try:
        return VerifierKey.parse(text)
    except VerificationError:
        path = Path(text)
        if "+" in text and not path.exists():
            raise
    try:
        data = path.read_bytes()
    except (OSError, ValueError):
        raise VerificationError(f"{text!r} is neither a verifier key nor a file that holds one") from None
    try:
        return VerifierKey.parse(data.decode("ascii").removesuffix("\n"))
    except UnicodeDecodeError:
        raise VerificationError("the file does not hold a verifier key") from None


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as one JSON document."""
    return {
        "verdict": report.verdict or "verified",
        "origin": report.origin,
        "size": report.size,
        "root": report.root.hex(),
        "tenant": report.tenant,
        "environment": report.environment,
        "findings": [{"kind": f.kind, "where": f.where, "message": f.message} for f in report.findings],
        "omitted_count": report.omitted_count,
    }


def show(report: Report) -> None:
    """Print the report for a person: the findings first, the verdict last."""
    for finding in report.findings:
        say(f"{finding.kind}: {finding.where}: {finding.message}")
    if report.omitted_count:
        say(f"... and {report.omitted_count} more findings")
    say(f"log          {report.origin}")
    if report.tenant:
        say(f"of           tenant {report.tenant}, environment {report.environment}")
    say(f"entries      {report.size}")
    say(f"root         {report.root.hex()}")
    say(f"verdict      {report.verdict or 'verified: every entry, tile, root and signature holds'}")
