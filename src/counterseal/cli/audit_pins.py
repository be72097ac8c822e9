"""What an auditor's command line names: pinned keys, a witness policy, files. Standard library only."""

import argparse
from collections.abc import Callable
from pathlib import Path

from counterseal.cli import exits
from counterseal.cli.arguments import add_json
from counterseal.cli.audit_sources import MAX_FILE_BYTES
from counterseal.cli.output import complain
from counterseal.ledger import policy
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.policy import Policy


class Usage(Exception):
    """What the command line names cannot be used."""


def guarded(work: Callable[[], int]) -> int:
    """Run a command; what its line names wrongly is told and exits 2."""
    try:
        return work()
    except Usage as problem:
        complain(str(problem))
        return exits.USAGE


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Add `--vkey`, `--policy` and `--json`."""
    parser.add_argument(
        "--vkey",
        action="append",
        required=True,
        metavar="FILE_OR_STRING",
        help="the log's verifier key, as pinned; again for each earlier shard whose key you pinned",
    )
    parser.add_argument("--policy", metavar="FILE", help="witnesses that must have cosigned (C2SP tlog-policy)")
    add_json(parser)


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


def keys_of(args: argparse.Namespace) -> list[VerifierKey]:
    """Return the keys that `--vkey` names, the log's first. Raises Usage."""
    try:
        keys = [read_vkey(text) for text in args.vkey]
    except VerificationError as error:
        raise Usage(f"--vkey: {error.message}") from None
    if len({key.vkey for key in keys}) != len(keys):
        raise Usage("--vkey: a key is named twice")
    return keys


def policy_of(args: argparse.Namespace) -> Policy | None:
    """Return the witness policy that `--policy` names, None without one. Raises Usage."""
    if args.policy is None:
        return None
    try:
        return policy.parse(read_file(args.policy))
    except VerificationError as error:
        raise Usage(f"--policy: {error.where}: {error.message}") from None


def read_file(path: str) -> bytes:
    """Return a file's bytes, at most one more than any file of a log may have. Raises Usage."""
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise Usage(f"{path}: {getattr(error, 'strerror', None) or 'cannot be read'}") from None
