"""`counterseal plan ...`: canonical bytes need nothing but Python; what asks the services is loaded on use."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from counterseal.cli.arguments import add_json

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers

AGENT_PROFILE = "agent-refund-bot"


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

    one = commands.add_parser("propose", help="propose the plan of a JSON file, as an agent")
    one.add_argument("file", metavar="FILE", help="a file, or - for standard input")
    one.add_argument("--idempotency-key", help="repeat a proposal without making a second plan")
    one.add_argument("--agent-version", help="one of the agent's registered versions")
    _calling(one, "propose", AGENT_PROFILE)

    one = commands.add_parser("commit", help="commit exactly the bytes of a digest, as an agent")
    one.add_argument("plan_id", metavar="PLAN_ID")
    one.add_argument("--digest", required=True, help="the plan digest that was checked")
    one.add_argument("--idempotency-key", help="repeat a commit safely")
    one.add_argument("--wait", type=float, metavar="SECONDS", help="wait until the plan has ended")
    _calling(one, "commit", AGENT_PROFILE)

    one = commands.add_parser("watch", help="print a plan's events until its end, as an agent")
    one.add_argument("plan_id", metavar="PLAN_ID")
    one.add_argument("--after", type=int, default=0, metavar="SEQ", help="only events after this number")
    _calling(one, "watch", AGENT_PROFILE)

    one = commands.add_parser("cancel", help="withdraw a plan, or stop and undo it, as an agent")
    one.add_argument("plan_id", metavar="PLAN_ID")
    _calling(one, "cancel", AGENT_PROFILE)

    one = commands.add_parser("show", help="print one plan, as a person")
    one.add_argument("plan_id", metavar="PLAN_ID", help="plan id or digest")
    one.add_argument("--bytes", action="store_true", help="write the exact plan bytes")
    _calling(one, "show", "cli")

    one = commands.add_parser("list", help="print the newest plans, as a person")
    one.add_argument("--state", help="only plans in this state")
    _calling(one, "list_plans", "cli")


def _calling(parser: argparse.ArgumentParser, name: str, profile: str) -> None:
    """Let a subcommand run `plan_calls.<name>`, imported when it runs."""

    def run(args: argparse.Namespace) -> int:
        from counterseal.cli import plan_calls

        work: Callable[[argparse.Namespace], int] = getattr(plan_calls, name)
        return work(args)

    from counterseal.cli.options import add_options

    add_options(parser, profile=profile)
    parser.set_defaults(run=run)
