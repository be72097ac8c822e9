"""`counterseal plan ...`: canonical bytes here; what needs the services is loaded on use."""

from typing import TYPE_CHECKING

from counterseal.cli.arguments import add_json

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers


def register(subparsers: "Subparsers") -> None:
    """Add the command and its own subcommands."""
    parser = subparsers.add_parser("plan", help="propose, inspect and commit plans; canonical bytes and digests")
    commands = parser.add_subparsers(dest="plan_command", metavar="COMMAND", required=True)

    from counterseal.cli import plan_bytes

    one = commands.add_parser("canonicalize", help="write the canonical bytes of a JSON document")
    one.add_argument("file", metavar="FILE", help="a file, or - for standard input")
    one.set_defaults(run=plan_bytes.canonicalize)

    one = commands.add_parser("digest", help="print the digest of canonical bytes")
    one.add_argument("file", metavar="FILE", help="a file, or - for standard input")
    one.add_argument("--kind", default="plan", help="document kind, default: plan")
    add_json(one)
    one.set_defaults(run=plan_bytes.print_digest)
