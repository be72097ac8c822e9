"""`audit get|search|tail|reindex`: a tenant's log as the service shows it, entry by entry."""

import argparse
from typing import TYPE_CHECKING, Any

from counterseal.canonical import parse_strict
from counterseal.cli import exits
from counterseal.cli.audit_export import time_ms
from counterseal.cli.entry_name import METAVAR, parse_entry_name, parse_place, place_name
from counterseal.cli.options import add_options
from counterseal.cli.output import complain, emit, say
from counterseal.cli.progress import Progress
from counterseal.errors import InputInvalid, NotFound

if TYPE_CHECKING:
    from counterseal.api.audit.v1 import reader_pb2
    from counterseal.cli.arguments import Subparsers
    from counterseal.client import Person

_TEXTS = (
    ("agent", "AGENT", "entries of this agent"),
    ("subject", "PERSON", "entries of this person (user:ana, or a pseudonym)"),
    ("request_id", "ID", "entries of this request"),
    ("plan_digest", "DIGEST", "entries of this plan"),
    ("step", "STEP", "entries of this step"),
    ("tool", "TOOL", "entries about this tool (name or name@version)"),
    ("reason_code", "CODE", "entries with this reason code"),
    ("external_id", "ID", "entries with this id in the target's system"),
)


def register(commands: "Subparsers") -> None:
    """Add the subcommands."""
    one = commands.add_parser("get", help="print one entry")
    one.add_argument("entry", metavar=METAVAR)
    add_options(one)
    one.set_defaults(run=run_get)

    one = commands.add_parser("search", help="find entries by their clear fields")
    one.add_argument("--type", action="append", default=[], metavar="TYPE", help="an event type; may be repeated")
    for name, metavar, line in _TEXTS:
        one.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, default="", help=line)
    one.add_argument("--since", metavar="TIME", help="events from this time on (ISO 8601)")
    one.add_argument("--until", metavar="TIME", help="events before this time (ISO 8601)")
    one.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many, default: 100; 0: all")
    one.add_argument("--page", default="", metavar="TOKEN", help="go on where an earlier search stopped")
    add_options(one)
    one.set_defaults(run=run_search)

    one = commands.add_parser("tail", help="print entries as they come, until Ctrl-C")
    one.add_argument(
        "--from", dest="start", metavar="[SHARD/]INDEX", help="first entry, default: only new ones; later logs follow"
    )
    one.add_argument("--count", type=int, default=0, metavar="N", help="stop after so many, default: never")
    add_options(one)
    one.set_defaults(run=run_tail)

    one = commands.add_parser("reindex", help="have the search projection made again (role operator)")
    add_options(one)
    one.set_defaults(run=run_reindex)


def run_get(args: argparse.Namespace) -> int:
    """Print one entry by index or event id."""
    named = parse_entry_name(args.entry)

    async def work(person: "Person") -> int:
        answer = await person.entry(**named)
        shown = _as_json(answer.entry)
        if args.json:
            emit({**shown, "size": answer.size, "signed_size": answer.signed_size})
        else:
            say(_line(shown))
            say(bytes(answer.entry.entry).decode())
        return exits.OK

    return _as_person(args, work)


def run_search(args: argparse.Namespace) -> int:
    """Print the entries that all filters mean, and how far the answer is complete."""
    from counterseal.api.audit.v1 import reader_pb2

    if args.limit < 0:
        raise InputInvalid("--limit: must not be negative")
    request = reader_pb2.SearchEntriesRequest(types=args.type, page_token=args.page)
    for name, _, _ in _TEXTS:
        setattr(request, name, getattr(args, name))
    if args.since:
        request.since_time.FromMilliseconds(time_ms("--since", args.since))
    if args.until:
        request.until_time.FromMilliseconds(time_ms("--until", args.until))

    async def work(person: "Person") -> int:
        found: list[dict[str, Any]] = []
        several = False
        left = args.limit
        while True:
            request.page_size = min(left, 1000) if args.limit else 1000
            answer = await person.search(request)
            several = len(answer.shards) > 1
            page = [_as_json(entry) for entry in answer.entries]
            found += page if args.json else []
            for one in page if not args.json else ():
                say(_line(one, several=several))
            left -= len(page)
            request.page_token = answer.next_page_token
            if not answer.next_page_token or (args.limit and left <= 0):
                break
        if args.json:
            emit(
                {
                    "entries": found,
                    "next_page_token": answer.next_page_token,
                    "indexed_size": answer.indexed_size,
                    "size": answer.size,
                    "shards": [
                        {"shard": s.shard, "origin": s.origin, "indexed_size": s.indexed_size, "size": s.size}
                        for s in answer.shards
                    ],
                }
            )
        elif answer.next_page_token:
            say(f"more: --page {answer.next_page_token}")
        for part in answer.shards if not answer.next_page_token else ():
            if part.indexed_size < part.size:
                where = f" of shard {part.shard}" if several else ""
                late = f"entries {part.indexed_size} to {part.size - 1}{where}"
                complain(f"{late} were not looked at yet: the index is behind")
        return exits.OK

    return _as_person(args, work)


def run_tail(args: argparse.Namespace) -> int:
    """Print entries one a line, as they are appended, in the newest log and those that will continue it."""
    shard, index = parse_place(args.start) if args.start is not None else (None, None)

    async def work(person: "Person") -> int:
        first, begin = await tail_start(person, shard, index)
        left = args.count
        async for part in person.tail(begin, first):
            for entry in part.entries:
                emit(_as_json(entry)) if args.json else say(_line(_as_json(entry)))
                left -= 1
                if left == 0:
                    return exits.OK
        return exits.OK

    return _as_person(args, work)


async def tail_start(person: "Person", shard: int | None, index: int | None) -> tuple[int, int]:
    """Return shard and index to tail from: without a shard the newest log, without an index only what is new.

    A tenant that has no log yet will have its first: whoever waits for its first entry is told of it.
    """
    if shard is not None and index is not None:
        return shard, index
    try:
        genesis = await person.entry(index=0)  # asked by the entry: a log that began just now has no checkpoint
    except NotFound:
        return 0, index or 0
    return genesis.entry.shard, genesis.size if index is None else index


def run_reindex(args: argparse.Namespace) -> int:
    """Empty the projection and wait until it is full again."""

    async def work(person: "Person") -> int:
        progress, indexed, size = Progress("indexed"), 0, 0
        async for part in person.reindex():
            indexed, size = part.indexed_size, part.size
            progress.at(indexed, size)
        if args.json:
            emit({"indexed_size": indexed, "size": size})
        else:
            say(f"indexed      {indexed} of {size}")
        return exits.OK if indexed >= size else exits.REFUSED

    return _as_person(args, work)


def _as_person(args: argparse.Namespace, work: Any) -> int:
    from counterseal.cli.session import as_person

    return as_person(args, work)


def _as_json(entry: "reader_pb2.LedgerEntry") -> dict[str, Any]:
    return {
        "index": entry.index,
        "shard": entry.shard,
        "leaf_hash": entry.leaf_hash.hex(),
        "entry": parse_strict(bytes(entry.entry)),
    }


def _line(shown: dict[str, Any], *, several: bool = False) -> str:
    entry = shown["entry"]
    data = entry["data"]
    what = " ".join(f"{name}={value}" for name, value in data.items() if isinstance(value, str | int))
    about = " ".join(filter(None, (str(entry.get("plan_digest", ""))[:19], entry.get("step", ""))))
    place = place_name(shown["shard"], shown["index"], several=several)
    return f"{place:>8}  {entry['type']:<24}{about:<24}{what[:160]}"
