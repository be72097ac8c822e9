"""What `audit freeze|shard|adopt|rotate|reconcile` ask and show."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterseal.api.audit.v1 import ledger_admin_pb2 as pb
from counterseal.canonical import parse_strict
from counterseal.cli import exits
from counterseal.cli.output import complain, emit, say
from counterseal.cli.session import as_person
from counterseal.cli.views import as_json
from counterseal.errors import InputInvalid, NotCanonical

if TYPE_CHECKING:
    from counterseal.client import Person

RECEIPTS_AT_ONCE = 1000


def run(args: argparse.Namespace) -> int:
    """Ask for what the verb says; exit 6 while a second person is missing, 4 for receipts that the log belies."""
    work = {"freeze": _freeze, "shard": _shard, "adopt": _adopt, "rotate": _rotate, "reconcile": _reconcile}[args.verb]
    return as_person(args, lambda person: work(person, args))


async def _freeze(person: "Person", args: argparse.Namespace) -> int:
    answer = await person.freeze_log(args.reason_code, args.request_digest, system=args.system)
    return _show(args, answer, "", (f"frozen    {answer.origin} at {answer.size} entries",))


async def _shard(person: "Person", args: argparse.Namespace) -> int:
    kept = _bytes(args.checkpoint) if args.checkpoint else b""
    answer = await person.open_shard(kept, args.request_digest, system=args.system)
    lines = (
        f"shard     {answer.shard}",
        f"vkey      {answer.vkey}",
        f"cites     {answer.predecessor or 'nothing: nothing was ever signed'}",
    )
    return _show(args, answer, f"--checkpoint {args.checkpoint} " if args.checkpoint else "", lines)


async def _adopt(person: "Person", args: argparse.Namespace) -> int:
    try:
        root = bytes.fromhex(args.root)
    except ValueError:
        raise InputInvalid("--root: expected 64 hex digits") from None
    size = args.size
    if not size:
        head = await person.adopt_anchor(system=args.system)
        size, root = head.size, head.root_hash
    answer = await person.adopt_anchor(size, root, args.request_digest, system=args.system)
    return _show(args, answer, f"--size {size} --root {root.hex()} ", (f"adopted   {size} entries, root {root.hex()}",))


async def _rotate(person: "Person", args: argparse.Namespace) -> int:
    answer = await person.rotate_log_key(system=args.system)
    lines = (f"rotated   entry {answer.index}, key version {answer.version}", f"vkey      {answer.vkey}")
    return _show(args, answer, "", lines)


async def _reconcile(person: "Person", args: argparse.Namespace) -> int:
    matched, problems, last = 0, [], pb.ReconcileReceiptsResponse()
    for some in _receipts(args.receipts):
        last = await person.reconcile_receipts(some, system=args.system)
        matched += last.matched_count
        problems += list(last.problems)
    if args.json:
        emit({"matched": matched, "problems": [as_json(one) for one in problems], "size": last.size})
    else:
        for one in problems:
            say(f"{one.problem:<12}{one.receipt.event_id} acknowledged at {one.receipt.index}")
        say(f"{matched} receipts match, {len(problems)} do not; the log has {last.size} entries")
    return exits.TAMPERED if problems else exits.OK


def _show(args: argparse.Namespace, answer: Any, again: str, lines: tuple[str, ...]) -> int:
    """Print what was done, or what the second person has to say; `again`: the options that must be repeated."""
    waits = "second_person" in answer.DESCRIPTOR.fields_by_name and answer.HasField("second_person")
    if args.json:
        emit(as_json(answer))
    elif waits:
        say("a second person has to repeat this with:")
        say(f"  {again}--request-digest {answer.second_person.request_digest}")
    else:
        for line in lines:
            say(line)
    return exits.APPROVAL_PENDING if waits else exits.OK


def _receipts(name: str) -> Iterator[list[pb.Receipt]]:
    """Yield the receipts of a file, many at a time. Raises InputInvalid with the line."""
    some: list[pb.Receipt] = []
    for number, line in enumerate(_bytes(name).splitlines(), 1):
        try:
            one = parse_strict(line)
            some.append(
                pb.Receipt(event_id=one["event_id"], index=one["index"], leaf_hash=bytes.fromhex(one["leaf_hash"]))
            )
        except (KeyError, NotCanonical, TypeError, ValueError):
            raise InputInvalid(f"{name}:{number}: expected {{event_id, index, leaf_hash: hex}}") from None
        if len(some) == RECEIPTS_AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def _bytes(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        complain(f"{name}: {error.strerror}")
        raise InputInvalid(f"{name}: cannot be read") from error
