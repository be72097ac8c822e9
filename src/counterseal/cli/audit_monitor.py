"""`audit monitor`: look at a log again and again, and say at once when it is not what it was. Standard library only.

    <state>/monitor.json        the last checkpoint that held, and what is needed to go on from there
    <state>/evidence/<id>.*     two notes that exclude each other: `kept` and `seen`

Exit codes: 0 the last look held, 3 it could not be completed, 4 an alarm: fork, cut, altered bytes, stale head.
"""

import argparse
import hashlib
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterseal.cli import exits
from counterseal.cli.audit_sources import add_access, opened
from counterseal.cli.audit_verify import (
    EXITS,
    Progress,
    Usage,
    add_keys,
    finding_of,
    guarded,
    keys_of,
    output,
    policy_of,
)
from counterseal.cli.output import say
from counterseal.cli.statefiles import replace_file
from counterseal.clock import system_clock
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.keyring import Keyring
from counterseal.ledger.monitor import Kept, Look, look
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.policy import Policy

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers

STATE = "monitor.json"
EVIDENCE = "evidence"
HEARTBEAT_MINUTES = 60


def register(commands: "Subparsers") -> None:
    """Add the command."""
    one = commands.add_parser("monitor", help="look at a log again and again; alarm on fork, cut, stale or altered log")
    one.add_argument("directory", metavar="SOURCE", help="the log's URL, or its export (directory or zip)")
    one.add_argument("--state", required=True, type=Path, metavar="DIR", help="what the monitor remembers; made if new")
    one.add_argument("--interval", type=_seconds, metavar="SECONDS", help="look again and again; default: once")
    one.add_argument("--rounds", type=_count, metavar="N", help="with --interval: stop after so many looks")
    one.add_argument(
        "--heartbeat-minutes",
        type=_count,
        default=HEARTBEAT_MINUTES,
        metavar="N",
        help=f"an idle log's heartbeat; a head is stale at twice that, default: {HEARTBEAT_MINUTES}",
    )
    add_keys(one)
    add_access(one)
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look once, or until something does not hold or the process is told to stop."""
    return guarded(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    key, *more = keys_of(args)
    if more:
        raise Usage("--vkey: a monitor watches one log; name one key")
    trust = policy_of(args)
    kept = _load(args.state, key)
    stopping = threading.Event()
    if args.interval is not None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
    rounds, code = 0, exits.OK
    while True:
        seen = _look(args, key, kept, trust)
        evidence = _keep(args.state, kept, seen)
        kept, rounds, code = seen.kept, rounds + 1, EXITS[seen.verdict]
        _tell(args, seen, evidence)
        if args.interval is None or code == exits.TAMPERED or rounds == args.rounds or stopping.wait(args.interval):
            return code


def _look(args: argparse.Namespace, key: VerifierKey, kept: Kept | None, trust: Policy | None) -> Look:
    max_age_ms = 2 * 60_000 * args.heartbeat_minutes
    try:
        with opened(args.directory, args) as source:
            if source is None:
                raise Usage(f"{args.directory} is not a directory, a zip or a URL")
            now_ms = system_clock()
            return look(source, key, kept, now_ms=now_ms, max_age_ms=max_age_ms, policy=trust, on_progress=Progress())
    except VerificationError as error:
        return Look(None, kept, None, (error.at(args.directory),))


def _load(state: Path, key: VerifierKey) -> Kept | None:
    """Return what an earlier look kept, None in a new directory. Raises Usage when it cannot be used."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        data = (state / STATE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Usage(f"{state}: {error.strerror}") from None
    try:
        kept = Kept.parse(data)
        later = [VerifierKey.make(key.name, bytes.fromhex(public)) for public in kept.keys]
        Keyring(key, [key, *later]).open_old(kept.note)
    except VerificationError as error:
        raise Usage(f"{state / STATE}: {error.message}; it is of another log, or was changed") from None
    return kept


def _keep(state: Path, before: Kept | None, seen: Look) -> Path | None:
    """Remember a good look; of a bad one keep both notes. Returns the evidence's path without its ending."""
    if seen.verdict in {None, "stale"}:
        if seen.kept is not None and seen.kept != before:
            replace_file(state / STATE, seen.kept.serialize())
        return None
    if seen.verdict == "incomplete" or seen.seen is None:
        return None
    folder = state / EVIDENCE
    folder.mkdir(exist_ok=True)
    name = folder / hashlib.sha256(seen.seen).hexdigest()[:16]
    replace_file(name.with_suffix(".seen"), seen.seen)
    if before is not None:
        replace_file(name.with_suffix(".kept"), before.note)
    return name


def _tell(args: argparse.Namespace, seen: Look, evidence: Path | None) -> None:
    head = seen.head
    document: dict[str, Any] = {
        "verdict": seen.verdict or "verified",
        "size": head.size if head is not None else None,
        "root": head.root.hex() if head is not None else None,
        "age_ms": seen.age_ms,
        "witnesses": dict(seen.times),
        "findings": [finding_of(one) for one in seen.findings],
        "omitted_count": seen.omitted_count,
        "evidence": str(evidence) if evidence is not None else None,
    }

    def tell() -> None:
        for one in seen.findings:
            say(f"{one.kind}: {one.where}: {one.message}")
        if evidence is not None:
            say(f"evidence: {evidence}.seen and, where there was an earlier head, {evidence}.kept")
        size = f"{head.size} entries, the last {seen.age_ms // 1000} s old" if head is not None else "no head"
        say(f"{seen.verdict or 'verified'}: {size}")

    output(args, document, tell)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError("expected up to 86400 seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError("expected 1 to 1000000")
    return value
