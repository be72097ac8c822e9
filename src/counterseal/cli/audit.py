"""`counterseal audit ...`: verifying needs nothing but Python; what asks the service is loaded on use."""

from typing import TYPE_CHECKING

from counterseal.cli.arguments import add_json

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers


def register(subparsers: "Subparsers") -> None:
    """Add the command and its own subcommands."""
    parser = subparsers.add_parser("audit", help="verify, export and prove the ledger")
    commands = parser.add_subparsers(dest="audit_command", metavar="COMMAND", required=True)

    from counterseal.cli import audit_verify

    one = commands.add_parser("verify", help="verify an exported log: every entry, tile, root and signature")
    one.add_argument("directory", metavar="DIR", help="the export: checkpoint, vkey, tile/...")
    one.add_argument("--vkey", required=True, metavar="FILE_OR_STRING", help="the log's verifier key that you pinned")
    one.add_argument("--since", metavar="NOTE", help="a checkpoint that you kept: finds a cut or rewritten history")
    add_json(one)
    one.set_defaults(run=audit_verify.run)
