"""`audit freeze|shard|adopt|rotate|reconcile`: an operator's verbs about the tenant's log."""

import argparse
from typing import TYPE_CHECKING

from counterseal.cli.options import add_options

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers


def register(commands: "Subparsers") -> None:
    """Add the verbs below `audit`."""
    one = _add(commands, "freeze", "close the log for ever (two people)", two=True)
    one.add_argument("--reason-code", required=True, metavar="CODE", help="why, in capitals: DATABASE_LOST")

    one = _add(commands, "shard", "begin the log behind one that is frozen or forked (two people)", two=True)
    one.add_argument("--checkpoint", metavar="NOTE", help="its last checkpoint as you kept it; default: the stored one")

    one = _add(commands, "adopt", "take the log for right after its anchor was lost (two people)", two=True)
    one.add_argument("--size", type=int, default=0, help="entries of the head that both people mean; default: all")
    one.add_argument("--root", default="", metavar="HEX", help="its root hash; default: the present head's")

    _add(commands, "rotate", "make the newest version of the transit key the log's key")

    one = _add(commands, "reconcile", "compare what producers were acknowledged with the log")
    one.add_argument(
        "receipts", metavar="FILE", help="JSON lines {event_id, index, leaf_hash: hex}; `-`: standard input"
    )


def _add(commands: "Subparsers", verb: str, line: str, *, two: bool = False) -> argparse.ArgumentParser:
    one = commands.add_parser(verb, help=line)
    one.add_argument("--system", action="store_true", help="the environment's own log instead of the tenant's")
    if two:
        one.add_argument("--request-digest", default="", help="what the first person's call printed")
    add_options(one)
    one.set_defaults(run=_run, verb=verb)
    return one


def _run(args: argparse.Namespace) -> int:
    from counterseal.cli import audit_admin_calls

    return audit_admin_calls.run(args)
