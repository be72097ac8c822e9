"""`counterseal explain`: why it happened, who allowed it, with which credential, what became of it, what proves it.

One call to audit, or an export on disk; the answer is the log's alone, and every line names the leaf that says so.
"""

import argparse
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterseal.canonical import parse_strict
from counterseal.cli import exits, story
from counterseal.cli.audit_pins import read_vkey
from counterseal.cli.audit_sources import Directory
from counterseal.cli.audit_verdict import exit_code, show
from counterseal.cli.options import add_options
from counterseal.cli.output import complain, emit, say
from counterseal.errors import NotCanonical, NotFound
from counterseal.ids import is_id
from counterseal.ledger import tiles, trace
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.keyring import Rotation, followed
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.places import of_place, place
from counterseal.ledger.tree import leaf_hash, verify_inclusion
from counterseal.ledger.verify import Report, verify_log

if TYPE_CHECKING:
    from counterseal.api.audit.v1 import reader_pb2
    from counterseal.cli.arguments import Subparsers
    from counterseal.client import Person

    Traced = reader_pb2.GetTraceResponse | reader_pb2.ShardTrace

DISCLOSURES = "disclosures.jsonl"
PREDECESSOR = "predecessor"


def register(subparsers: "Subparsers") -> None:
    """Add the command."""
    parser = subparsers.add_parser("explain", help="tell an action's whole story from the ledger")
    parser.add_argument("plan", metavar="ID", help="plan digest, request id, event id, external id, or plan id")
    parser.add_argument("--from", dest="source", metavar="DIR", help="an export on disk instead of the service")
    parser.add_argument(
        "--vkey",
        action="append",
        metavar="FILE_OR_STRING",
        help="the log's key that you pinned, default: its own word; again for each earlier shard whose key you pinned",
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the story of one action; 4 when a proof does not hold."""
    try:
        pinned = [read_vkey(text) for text in args.vkey or ()]
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


def from_answer(answer: "reader_pb2.GetTraceResponse", pinned: Sequence[VerifierKey]) -> story.Story:
    """Return the story of a trace after checking each entry's proof. Raises VerificationError.

    pinned: keys of the log and of shards before it; the log's own must be among them, where there are any.
    """
    newest = _checked(answer, pinned, must=bool(pinned))
    # Shards that hold nothing about the action need no proof; how far they were searched counts all the same.
    older = [_checked(one, pinned, must=False) for one in answer.older if one.entries]
    unpinned = [one.origin for one in older if one.origin not in {key.name for key in pinned}]
    how = f"each proof checked with {'the pinned key' if pinned else 'the key that the service names; pin it'}"
    if pinned and unpinned:
        how += f", of {len(unpinned)} earlier shards with the key that the service names"
    parts: list[Traced] = [*answer.older, answer]
    warnings = []
    for part in parts:
        if part.indexed_size < part.size:
            where = f" of shard {part.shard}" if part.shard != answer.shard else ""
            warnings.append(f"incomplete: entries {part.indexed_size} to {part.size - 1}{where} were not looked at yet")
    if answer.truncated:
        warnings.append("incomplete: there are more entries than one answer holds")
    return story.tell(
        [story.told(place(part.shard, one.entry.index), one.entry.entry) for part in parts for one in part.entries],
        replace(newest, how=how, older=tuple(older)),
        warnings,
    )


def _checked(part: "Traced", pinned: Sequence[VerifierKey], *, must: bool) -> story.Proof:
    """Return what vouches for one log's entries. must: only a pinned key will do. Raises VerificationError."""
    named = VerifierKey.parse(part.vkey)
    keys = [key for key in pinned if key.name == named.name] or ([*pinned] if must else [named])
    rotations = [Rotation(one.index, one.entry, list(one.path), one.note) for one in part.rotations]
    head = followed(keys, named, rotations).open_head(part.checkpoint) if part.checkpoint else None
    if head is not None and head.origin != named.name:
        raise VerificationError(f"the checkpoint is of {head.origin}, the key of {named.name}")
    size = head.size if head is not None else 0
    proven = 0
    for one in part.entries:
        if head is not None and one.entry.index < size:
            verify_inclusion(one.entry.index, size, leaf_hash(one.entry.entry), list(one.path), head.root)
            proven += 1
    return story.Proof(named.name, size, head.root.hex() if head is not None else "", proven, "", part.shard)


# --- from an export ---


def _offline(args: argparse.Namespace, pinned: Sequence[VerifierKey]) -> int:
    directory = Path(args.source)
    if not directory.is_dir():
        complain(f"{args.source} is not a directory")
        return exits.USAGE
    try:
        key, *more = pinned or [read_vkey(str(directory / tiles.VKEY))]
    except VerificationError as error:
        complain(f"{directory / tiles.VKEY}: {error.message}")
        return exits.USAGE
    report = verify_log(Directory(directory), key, pinned=more)
    if report.findings:
        show(report)
        return exit_code(report)
    parts = _parts(directory, report)
    found = Export(parts).find(args.plan)
    if not found:
        raise NotFound("the export holds nothing about this", id=args.plan[:80])
    opened = {
        place(part.shard, index): texts
        for part in parts
        for index, texts in read_disclosures(part.files.root / DISCLOSURES).items()
    }
    how = f"every byte of the export checked with {'the pinned key' if pinned else 'the key in it; pin it'}"
    *older, newest = [_proof_of(part, found) for part in parts]
    _print(
        args,
        story.tell(
            [story.told(at, entry, opened.get(at, ())) for at, entry in found.items()],
            replace(newest, how=how, older=tuple(one for one in older if one.proven_count)),
        ),
    )
    return exits.OK


@dataclass(frozen=True, slots=True)
class Part:
    """One log of a verified export."""

    shard: int
    files: Directory
    report: Report


def _parts(directory: Path, report: Report) -> list[Part]:
    """Return the logs of an export, oldest first; each is told in the folder `predecessor` of the next."""
    parts = []
    for one in (report, *reversed(report.shards)):
        files = Directory(directory)
        first = next(iter(tiles.bundles_of(one.size)))
        genesis = _document(tiles.parse_bundle(first, _covered(files, first))[0])
        parts.append(Part(int(genesis["data"]["shard"]), files, one))
        directory = directory / PREDECESSOR
    return parts[::-1]


def _covered(files: Directory, bundle: tiles.Tile) -> bytes:
    """Return a bundle of a verified log; where the partial one made room for the full one, the beginning of that."""
    data = files.read(bundle.path)
    if data is not None:
        return data
    whole = tiles.Tile(None, bundle.index, tiles.WIDTH)
    return tiles.bundle(tiles.parse_bundle(whole, files.read(whole.path) or b"")[: bundle.width])


def _proof_of(part: Part, found: Mapping[int, bytes]) -> story.Proof:
    count = sum(of_place(at)[0] == part.shard for at in found)
    report = part.report
    return story.Proof(report.origin, report.size, report.root.hex(), count, "", part.shard)


@dataclass(frozen=True, slots=True)
class Export:
    """Finds entries in a verified export by reading it through; memory holds what was found and one bundle."""

    parts: Sequence[Part]

    def find(self, name: str) -> dict[int, bytes]:
        """Return an action's entries by place. name: a plan's digest, or an id of an event, request or outcome."""
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
        """Return the entries from place `start` on whose bytes hold one of the texts, each as a whole JSON string."""
        needles = [f'"{text}"'.encode() for text in texts if text.isascii() and '"' not in text and "\\" not in text]
        rows = []
        for part in self.parts:
            for bundle in tiles.bundles_of(part.report.size):
                first = place(part.shard, bundle.index * tiles.WIDTH)
                if first + bundle.width <= start:
                    continue
                data = _covered(part.files, bundle)
                hits = [at for needle in needles for at in _positions(data, needle)]
                if not hits:
                    continue
                logged = tiles.parse_bundle(bundle, data)
                offsets = tiles.bundle_offsets(logged)
                # What looks like a hit between two entries is taken for the one before it: the asker looks inside.
                numbers = sorted({max(0, bisect_right(offsets, at) - 1) for at in hits})
                rows += [(first + number, logged[number]) for number in numbers if first + number >= start]
        return rows


def _positions(data: bytes, needle: bytes) -> Iterator[int]:
    at = data.find(needle)
    while at >= 0:
        yield at
        at = data.find(needle, at + 1)


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
