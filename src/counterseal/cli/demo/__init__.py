"""`counterseal demo`: the suite's promises on one machine, each shown by a scene that asserts it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers

DEFAULT_HOME = Path("build/demo")


def register(subparsers: "Subparsers") -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "demo", help="seven scenes on the real suite: allowed, denied, approved, crashed, ..."
    )
    parser.add_argument("--home", type=Path, default=DEFAULT_HOME, help=f"data directory, default: {DEFAULT_HOME}")
    parser.add_argument("--only", type=int, action="append", metavar="N", help="only this scene (repeatable)")
    parser.add_argument("--json", action="store_true", help="print one JSON document at the end")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the scenes; exit 0 when every one of them holds."""
    import asyncio

    from counterseal.cli.demo.show import show

    args.home.mkdir(parents=True, exist_ok=True)
    return asyncio.run(show(args.home, only=args.only, as_json=args.json))
