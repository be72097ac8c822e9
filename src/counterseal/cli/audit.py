"""`counterseal audit ...`: verifying needs nothing but Python; what asks the service is loaded on use."""

import argparse
from typing import TYPE_CHECKING

from counterseal.cli.arguments import add_json
from counterseal.cli.options import add_options

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers


def register(subparsers: "Subparsers") -> None:
    """Add the command and its own subcommands."""
    parser = subparsers.add_parser("audit", help="verify, export and prove the ledger")
    commands = parser.add_subparsers(dest="audit_command", metavar="COMMAND", required=True)

    from counterseal.cli import audit_export, audit_read, audit_verify

    for name, run, line in (
        ("verify", audit_verify.run, "verify an exported log: every entry, tile, root and signature"),
        ("chain", audit_verify.run_chain, "verify, and check decision, commit, intent, credential, outcome in order"),
    ):
        one = commands.add_parser(name, help=line)
        one.add_argument("directory", metavar="DIR", help="the export: checkpoint, vkey, tile/...")
        one.add_argument("--vkey", required=True, metavar="FILE_OR_STRING", help="the log's verifier key, as pinned")
        one.add_argument("--since", metavar="NOTE", help="a checkpoint that you kept: finds a cut or rewritten history")
        add_json(one)
        one.set_defaults(run=run)

    audit_export.register(commands)
    audit_read.register(commands)

    one = commands.add_parser("proof", help="write one entry with its offline proof (C2SP tlog-proof)")
    one.add_argument("entry", metavar="INDEX|EVENT_ID")
    one.add_argument("--out", metavar="FILE", help="default: <index>.tlog-proof")
    one.add_argument("--vkey", metavar="FILE_OR_STRING", help="the key that you pinned, default: the log's own word")
    add_options(one)
    one.set_defaults(run=_prove)


def _prove(args: argparse.Namespace) -> int:
    from counterseal.cli import audit_calls

    return audit_calls.prove(args)
