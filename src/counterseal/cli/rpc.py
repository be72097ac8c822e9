"""`counterseal rpc list`: who may call which method."""

import argparse
from typing import TYPE_CHECKING

from counterseal.cli import exits
from counterseal.cli.arguments import add_json
from counterseal.cli.output import emit, say
from counterseal.rpc.method_table import as_rows

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers


def register(subparsers: "Subparsers") -> None:
    """Add the command and its own subcommands."""
    parser = subparsers.add_parser("rpc", help="list the methods and who may call them")
    commands = parser.add_subparsers(dest="rpc_command", metavar="COMMAND", required=True)
    one = commands.add_parser("list", help="print the method table: method, peers, token")
    add_json(one)
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table; unlisted methods are denied."""
    rows = as_rows()
    if args.json:
        emit(rows)
        return exits.OK
    width = max(len(str(row["method"])) for row in rows)
    for row in rows:
        peers = row["peers"]
        assert isinstance(peers, list)  # noqa: S101 (as_rows makes lists)
        say(f"{row['method']!s:<{width}}  {row['token']!s:<8}  {', '.join(peers)}")
    return exits.OK
