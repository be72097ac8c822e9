"""How a verification is told: how far it is, its exit code, a document, words. Standard library only."""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from counterseal.cli import exits
from counterseal.cli.output import complain, emit, say
from counterseal.ledger.checkpoint import Checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.exported import manifest_digest
from counterseal.ledger.verify import Report

EXITS = {
    None: exits.OK,
    "incomplete": exits.REFUSED,
    "stale": exits.TAMPERED,
    "tampered": exits.TAMPERED,
    "forked": exits.TAMPERED,
}

PROGRESS_SECONDS = 2.0


def exit_code(report: Report) -> int:
    """Return the exit code that a verdict stands for."""
    return EXITS[report.verdict]


class Progress:
    """Says on standard error how far long work is; silent about short work."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PROGRESS_SECONDS

    def __call__(self, done: int, total: int) -> None:
        """Say that so many of the log's entries were read."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PROGRESS_SECONDS
            complain(f"{done} of {total} entries ({100 * done // total} %)")


def output(args: argparse.Namespace, document: dict[str, Any], tell: Callable[[], None]) -> None:
    """Print for a machine or a person. A reader that went away does not change the verdict."""
    try:
        if args.json:
            emit(document)
        else:
            tell()
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = None


def refuse(args: argparse.Namespace, error: VerificationError) -> int:
    """Tell the one thing that does not hold and return its exit code."""
    document = {"verdict": error.kind, "findings": [finding_of(error)]}

    def tell() -> None:
        say(f"{error.kind}: {error.where}: {error.message}")
        say(f"verdict      {error.kind}")

    output(args, document, tell)
    return EXITS[error.kind]


def accept(
    args: argparse.Namespace, head: Checkpoint, times: dict[str, int], more: dict[str, Any] | None = None
) -> int:
    """Tell that a head holds and return 0; more: what else was verified, by name."""
    document = {
        "verdict": "verified",
        "origin": head.origin,
        "size": head.size,
        "root": head.root.hex(),
        "witnesses": times,
        **(more or {}),
    }

    def tell() -> None:
        say(f"log          {head.origin}")
        say(f"entries      {head.size}")
        say(f"root         {head.root.hex()}")
        for name, value in (more or {}).items():
            if value not in ({}, ""):
                say(f"{name:<12} {value}")
        _show_witnesses(tuple(sorted(times.items())))
        say("verdict      verified")

    output(args, document, tell)
    return exits.OK


def manifest_of(report: Report) -> str:
    """Return the digest by which `access.disclosed` names an export of what a report is about."""
    return manifest_digest([Checkpoint(one.origin, one.size, one.root) for one in (report, *reversed(report.shards))])


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as one JSON document."""
    return {
        "verdict": report.verdict or "verified",
        "origin": report.origin,
        "size": report.size,
        "root": report.root.hex(),
        "tenant": report.tenant,
        "environment": report.environment,
        "rotation_count": report.rotation_count,
        "disclosed_count": report.disclosed_count,
        "witnesses": dict(report.witnesses),
        "manifest_digest": manifest_of(report) if report.verdict is None else None,
        "shards": [{"origin": one.origin, "size": one.size, "root": one.root.hex()} for one in report.shards],
        "findings": [finding_of(f) for f in report.findings],
        "omitted_count": report.omitted_count,
    }


def finding_of(finding: VerificationError) -> dict[str, str]:
    """Return a finding as a document shows it."""
    return {"kind": finding.kind, "where": finding.where, "message": finding.message}


def show(report: Report) -> None:
    """Print the report for a person: the findings first, the verdict last."""
    for finding in report.findings:
        say(f"{finding.kind}: {finding.where}: {finding.message}")
    if report.omitted_count:
        say(f"... and {report.omitted_count} more findings")
    for older in report.shards:
        say(f"after        {older.size} entries of {older.origin}")
    say(f"log          {report.origin}")
    if report.tenant:
        say(f"of           tenant {report.tenant}, environment {report.environment}")
    say(f"entries      {report.size}")
    say(f"root         {report.root.hex()}")
    if report.rotation_count:
        say(f"rotations    {report.rotation_count}")
    if report.disclosed_count:
        say(f"disclosed    {report.disclosed_count} fields")
    _show_witnesses(report.witnesses)
    if report.verdict is None:
        say(f"manifest     {manifest_of(report)}")
    say(f"verdict      {report.verdict or 'verified: every entry, tile, root and signature holds'}")


def _show_witnesses(times: tuple[tuple[str, int], ...]) -> None:
    for name, seconds in times:
        say(f"witness      {name}, {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))} UTC")
