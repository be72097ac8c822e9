"""`audit monitor`: look at a log again and again, and say at once when it is not what it was. Standard library only.

    <state>/monitor.json        the last checkpoint that held, and what is needed to go on from there
    <state>/evidence/<id>.*     two notes that exclude each other: `kept` and `seen`

What is sealed lies beside the log; only the service can say that it is there. With `--payloads` it is asked, by login.

Exit codes: 0 the last look held, 3 it could not be completed or an erasure is unfinished, 4 an alarm: fork, cut,
altered bytes, stale head, sealed fields missing that nothing declares.
"""

import argparse
import hashlib
import signal
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from counterseal.cli import exits, payload_check
from counterseal.cli.audit_pins import Usage, add_keys, guarded, keys_of, policy_of
from counterseal.cli.audit_sources import add_access, opened
from counterseal.cli.audit_verdict import EXITS, Progress, finding_of, output
from counterseal.cli.options import add_login
from counterseal.cli.output import say
from counterseal.cli.payload_check import Checked
from counterseal.cli.statefiles import replace_file
from counterseal.clock import system_clock
from counterseal.errors import ServiceError
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.keyring import Keyring
from counterseal.ledger.monitor import Kept, Look, look
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from counterseal.cli.arguments import Subparsers
    from counterseal.client import Person

    AsPerson = Callable[[argparse.Namespace, Callable[[Person], Coroutine[Any, Any, int]]], int]

STATE = "monitor.json"
EVIDENCE = "evidence"
HEARTBEAT_MINUTES = 60
PAYLOAD_MINUTES = 60


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
    asked = one.add_argument_group("sealed fields", "which are not in the log: the service is asked, by your login")
    asked.add_argument("--payloads", action="store_true", help="ask whether any is missing without a declaration")
    asked.add_argument(
        "--payload-minutes",
        type=_count,
        default=PAYLOAD_MINUTES,
        metavar="N",
        help=f"ask at the first look and again after so long, as it reads all of them, default: {PAYLOAD_MINUTES}",
    )
    add_login(asked)
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
    payloads = _payloads(args, key.name) if args.payloads else None
    stopping = Stopping()
    if args.interval is not None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stopping.tell)
    rounds, code = 0, exits.OK
    while True:
        seen = _look(args, key, kept, trust)
        evidence = _keep(args.state, kept, seen)
        checked = payloads.look() if payloads is not None else None
        kept, rounds, code = seen.kept, rounds + 1, _worst(seen, checked)
        _tell(args, seen, evidence, checked)
        if args.interval is None or code == exits.TAMPERED or rounds == args.rounds or stopping.wait(args.interval):
            return code


class Stopping:
    """Whether a signal told the process to stop.

    Not an Event: a signal's handler runs in the thread that waits, and where that one holds the Event's lock just then,
    to set it is to wait for oneself. A SimpleQueue may be put into at any moment.
    """

    def __init__(self) -> None:
        self._told: SimpleQueue[None] = SimpleQueue()

    def tell(self, *_: object) -> None:
        """Handle a signal."""
        self._told.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait for a signal; False when none came in time."""
        try:
            self._told.get(timeout=seconds)
        except Empty:
            return False
        return True


class Payloads:
    """Asks the service about the log's sealed fields at the first look and whenever its last answer is too old.

    origin: the log that is watched. as_person: runs calls with the person's login (`session.as_person`).
    """

    def __init__(self, args: argparse.Namespace, origin: str, as_person: "AsPerson") -> None:
        self._args = args
        self._origin = origin
        self._as_person = as_person
        self._seconds = 60.0 * args.payload_minutes
        self._last: tuple[float, Checked] | None = None

    def look(self) -> Checked:
        """Return the newest answer; a check that could not be made is tried again at the next look."""
        now = time.monotonic()
        if self._last is not None and self._last[1].counts and now < self._last[0] + self._seconds:
            return self._last[1]
        checked = self._ask()
        self._last = (now, checked)
        return checked

    def _ask(self) -> Checked:
        found: list[Checked] = []

        async def work(person: "Person") -> int:
            origin = (await person.checkpoint()).vkey.partition("+")[0]
            found.append(
                await payload_check.check(person)
                if origin == self._origin
                else _unasked(f"the login reads the log {origin}, not {self._origin}")
            )
            return exits.OK

        try:
            self._as_person(self._args, work)
        except ServiceError as error:
            return _unasked(f"the service did not check: {error.reason}")
        return found[0]


def _payloads(args: argparse.Namespace, origin: str) -> Payloads:
    from counterseal.cli.session import as_person

    return Payloads(args, origin, as_person)


def _unasked(why: str) -> Checked:
    return Checked(({"kind": "incomplete", "index": None, "message": why},), {})


def _worst(seen: Look, checked: Checked | None) -> int:
    """Return the exit code of a look; 0, 3 and 4 are in order of how bad they are."""
    return max(EXITS[seen.verdict], payload_check.EXITS[checked.verdict] if checked is not None else exits.OK)


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


def _tell(args: argparse.Namespace, seen: Look, evidence: Path | None, checked: Checked | None) -> None:
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
        "payloads": checked.as_json() if checked is not None else None,
    }

    def tell() -> None:
        for one in seen.findings:
            say(f"{one.kind}: {one.where}: {one.message}")
        if evidence is not None:
            say(f"evidence: {evidence}.seen and, where there was an earlier head, {evidence}.kept")
        size = f"{head.size} entries, the last {seen.age_ms // 1000} s old" if head is not None else "no head"
        say(f"{seen.verdict or 'verified'}: {size}")
        _tell_payloads(checked)

    output(args, document, tell)


def _tell_payloads(checked: Checked | None) -> None:
    if checked is None:
        say("sealed fields: not checked (--payloads asks the service)")
        return
    for one in checked.findings:
        where = f"entry {one['index']}: " if one["index"] is not None else ""
        say(f"{one['kind']}: sealed fields: {where}{one['message']}")
    if not checked.counts:
        say(f"sealed fields: {checked.verdict}: {payload_check.UNENDED}")
        return
    counts = checked.counts
    there = f"{counts['intact_count']} there, {counts['declared_count']} gone as the log declares"
    say(f"sealed fields: {checked.verdict}: {there}, {counts['finding_count']} findings")


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
