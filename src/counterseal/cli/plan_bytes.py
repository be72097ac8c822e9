"""`counterseal plan canonicalize|digest`: canonical bytes and digests, with the standard library alone."""

import argparse
import sys
from pathlib import Path

from counterseal.canonical import MAX_BYTES, canonical, digest, parse_canonical, parse_strict
from counterseal.cli import exits
from counterseal.cli.output import complain, emit
from counterseal.errors import NotCanonical


def read_input(name: str) -> bytes:
    """Return the bytes of a file, or of standard input for `-`; one byte more than the limit is enough to refuse."""
    if name == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    with Path(name).open("rb") as file:
        return file.read(MAX_BYTES + 1)


def canonicalize(args: argparse.Namespace) -> int:
    """Write the canonical bytes of any strict JSON; on refusal nothing is written and the exit code is 3."""
    try:
        body = canonical(parse_strict(read_input(args.file)))
    except NotCanonical as error:
        return _refuse(error)
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()
    return exits.OK


def print_digest(args: argparse.Namespace) -> int:
    """Print `sha256:<hex>` of bytes that are canonical already; anything else is refused with 3, never repaired."""
    try:
        body = read_input(args.file)
        parse_canonical(body)
        text = digest(args.kind, body)
    except NotCanonical as error:
        return _refuse(error)
    if args.json:
        emit({"digest": text, "kind": args.kind})
    else:
        print(text)
    return exits.OK


def _refuse(error: NotCanonical) -> int:
    complain(f"NOT_CANONICAL: {error.message}")
    return exits.REFUSED
