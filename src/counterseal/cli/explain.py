"""`counterseal explain`: why it happened, who allowed it, with which credential, what became of it, what proves it.

One call to audit, or an export on disk; the answer is the log's alone, and every line names the leaf that says so.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterseal.canonical import parse_strict
from counterseal.cli import exits, story
from counterseal.cli.audit_verify import Directory, exit_code, read_vkey, show
from counterseal.cli.options import add_options
from counterseal.cli.output import complain, emit, say
from counterseal.errors import NotCanonical, NotFound
from counterseal.ids import is_id
from counterseal.ledger import tiles, trace
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import leaf_hash, verify_inclusion
from counterseal.ledger.verify import verify_log

if TYPE_CHECKING:
    from counterseal.api.audit.v1 import reader_pb2
    from counterseal.cli.arguments import Subparsers
    from counterseal.client import Person

DISCLOSURES = "disclosures.jsonl"


def register(subparsers: "Subparsers") -> None:
    """Add the command."""
    parser = subparsers.add_parser("explain", help="tell an action's whole story from the ledger")
    parser.add_argument("plan", metavar="ID", help="plan digest, request id, event id, external id, or plan id")
    parser.add_argument("--from", dest="source", metavar="DIR", help="an export on disk instead of the service")
    parser.add_argument("--vkey", metavar="FILE_OR_STRING", help="the log's key that you pinned, default: its own word")
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the story of one action; 4 when a proof does not hold."""
    try:
        pinned = read_vkey(args.vkey) if args.vkey else None
    except VerificationError as error:
        complain(f"--vkey: {error.message}")
        return exits.USAGE
    if args.source is not None:
        return _offline(args, pinned)

    from counterseal.cli.session import as_person

    async def work(person: "Person") -> int:
        try:
            _print(args, from_answer(await _ask(person, args.plan), pinned))
        except VerificationError as error:
            complain(error.diagnostics())
            return exits.TAMPERED
        return exits.OK

    return as_person(args, work)


def _print(args: argparse.Namespace, told: story.Story) -> None:
    if args.json:
        emit(told.as_json())
    else:
        say("\n".join(told.lines()))


# --- by the service ---


async def _ask(person: "Person", name: str) -> "reader_pb2.GetTraceResponse":
    """Ask by what the name looks like. A UUID may be an event's, a request's or a plan's id."""
    if name.startswith("sha256:"):
        return await person.trace(plan_digest=name)
    tries = ({"event_id": name}, {"request_id": name}) if is_id(name) else ({"external_id": name}, {"request_id": name})
    for by in tries:
        try:
            return await person.trace(**by)
        except NotFound:
            continue
    if is_id(name):
        return await person.trace(plan_digest=(await person.plan(name)).plan.plan_digest)
    raise NotFound("the ledger holds nothing about this", id=name[:64])


def from_answer(answer: "reader_pb2.GetTraceResponse", pinned: VerifierKey | None) -> story.Story:
    """Return the story of a trace after checking each entry's proof. Raises VerificationError."""
    key = pinned or VerifierKey.parse(answer.vkey)
    head = open_checkpoint(answer.checkpoint, [key]) if answer.checkpoint else None
    size = head.size if head is not None else 0
    proven = 0
    for one in answer.entries:
        if head is not None and one.entry.index < size:
            verify_inclusion(one.entry.index, size, leaf_hash(one.entry.entry), list(one.path), head.root)
            proven += 1
    how = f"each proof checked with {'the pinned key' if pinned else 'the key that the service names; pin it'}"
    warnings = []
    if answer.indexed_size < answer.size:
        warnings.append(f"incomplete: entries {answer.indexed_size} to {answer.size - 1} were not looked at yet")
    if answer.truncated:
        warnings.append("incomplete: there are more entries than one answer holds")
    return story.tell(
        [story.told(one.entry.index, one.entry.entry) for one in answer.entries],
        story.Proof(key.name, size, head.root.hex() if head is not None else "", proven, how),
        warnings,
    )


# --- from an export ---


def _offline(args: argparse.Namespace, pinned: VerifierKey | None) -> int:
    directory = Path(args.source)
    if not directory.is_dir():
        complain(f"{args.source} is not a directory")
        return exits.USAGE
    try:
        key = pinned or read_vkey(str(directory / tiles.VKEY))
    except VerificationError as error:
        complain(f"{directory / tiles.VKEY}: {error.message}")
        return exits.USAGE
    files = Directory(directory)
    report = verify_log(files, key)
    if report.findings:
        show(report)
        return exit_code(report)
    found = Export(files, report.size).find(args.plan)
    if not found:
        raise NotFound("the export holds nothing about this", id=args.plan[:80])
    opened = read_disclosures(directory / DISCLOSURES)
    how = f"every byte of the export checked with {'the pinned key' if pinned else 'the key in it; pin it'}"
    _print(
        args,
        story.tell(
            [story.told(index, entry, opened.get(index, ())) for index, entry in found.items()],
            story.Proof(report.origin, report.size, report.root.hex(), len(found), how),
        ),
    )
    return exits.OK


@dataclass(slots=True)
class Export:
    """Finds entries in a verified export by reading it through; memory holds what was found and one bundle."""

    files: Directory
    size: int
    _kept: dict[int, bytes] = field(default_factory=dict)

    def find(self, name: str) -> dict[int, bytes]:
        """Return the entries of the action that a name means: a digest, or the id of an event, request or outcome."""
        if name.startswith("sha256:"):
            return self._run(trace.About(plans=[name]))
        named = [(n, entry) for n, entry in self._holding([name]) if _names(entry, name)]
        if any(_document(entry).get("request_id") == name for _, entry in named):
            return self._run(trace.About(requests=[name]))
        return self._run(trace.about([entry for _, entry in named]))

    def _run(self, about: trace.About) -> dict[int, bytes]:
        walk = trace.gather(about)
        try:
            ask = next(walk)
            while True:
                rows = [
                    (index, entry)
                    for index, entry in self._holding(ask.values, ask.start)
                    if (ask.end is None or index < ask.end) and _document(entry).get(ask.field) in ask.values
                ]
                ask = walk.send(rows)
        except StopIteration as done:
            found: dict[int, bytes] = done.value
            return found

    def _holding(self, texts: Sequence[str], start: int = 0) -> list[tuple[int, bytes]]:
        """Return the entries from `start` on whose bytes hold one of the texts, each as a whole JSON string."""
        needles = [f'"{text}"'.encode() for text in texts if text.isascii() and '"' not in text and "\\" not in text]
        rows = []
        for bundle in tiles.bundles_of(self.size):
            first = bundle.index * tiles.WIDTH
            data = self.files.read(bundle.path) or b""
            if first + bundle.width <= start or not any(needle in data for needle in needles):
                continue
            for index, entry in enumerate(tiles.parse_bundle(bundle, data), first):
                if index >= start and any(needle in entry for needle in needles):
                    rows.append((index, entry))
        return rows


def read_disclosures(file: Path) -> Mapping[int, Sequence[str]]:
    """Return the disclosures beside an export by index; a line that is none is left out: nothing vouches for it."""
    opened: dict[int, list[str]] = {}
    if file.is_file():
        for line in file.read_bytes().splitlines():
            one = _document(line)
            index, texts = one.get("index"), one.get("disclosures")
            if isinstance(index, int) and isinstance(texts, list):
                known = opened.setdefault(index, [])
                known += [text for text in texts if isinstance(text, str) and text not in known]
    return opened


def _names(entry: bytes, name: str) -> bool:
    document = _document(entry)
    data = document.get("data")
    external = data.get("external_id") if isinstance(data, dict) else None
    return name in (document.get("event_id"), document.get("request_id"), external)


def _document(entry: bytes) -> dict[str, Any]:
    try:
        return parse_strict(entry)
    except NotCanonical:
        return {}
