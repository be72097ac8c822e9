"""`counterseal audit ...`: verifying needs nothing but Python; what asks the service is loaded on use."""

import argparse
from typing import TYPE_CHECKING

from counterseal.cli.entry_name import METAVAR
from counterseal.cli.options import add_options

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers


def register(subparsers: "Subparsers") -> None:
    """Add the command and its own subcommands."""
    parser = subparsers.add_parser("audit", help="verify, export and prove the ledger")
    from counterseal.cli import (
        audit_admin,
        audit_export,
        audit_monitor,
        audit_read,
        audit_reapply,
        audit_retention,
        audit_verify,
        audit_witness,
    )

    commands: Subparsers = parser.add_subparsers(
        dest="audit_command",
        metavar="COMMAND",
        required=True,
        parser_class=audit_verify.CommandParser,
    )
    audit_verify.register(commands)
    audit_monitor.register(commands)
    audit_witness.register(commands)
    audit_admin.register(commands)
    audit_retention.register(commands)
    audit_reapply.register(commands)
    audit_export.register(commands)
    audit_read.register(commands)

    one = commands.add_parser("proof", help="write one entry with its offline proof (C2SP tlog-proof)")
    one.add_argument("entry", metavar=METAVAR)
    one.add_argument("--out", metavar="FILE", help="default: <index>.tlog-proof, <shard>-<index> in a later log")
    one.add_argument("--vkey", metavar="FILE_OR_STRING", help="the key that you pinned, default: the log's own word")
    add_options(one)
    one.set_defaults(run=_prove)


def _prove(args: argparse.Namespace) -> int:
    from counterseal.cli import audit_calls

    return audit_calls.prove(args)
