"""`counterseal policy publish|activate|show`: policy documents through the policy service.

Checking documents without a service is `counterseal-policy lint|test`.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from counterseal.cli import exits
from counterseal.cli.options import add_options
from counterseal.cli.output import emit, say
from counterseal.errors import InputInvalid

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers
    from counterseal.client import Person


def register(subparsers: "Subparsers") -> None:
    """Add the command and its own subcommands."""
    parser = subparsers.add_parser("policy", help="publish and activate policy")
    commands = parser.add_subparsers(dest="policy_command", metavar="COMMAND", required=True)

    one = commands.add_parser("publish", help="publish all YAML files of a directory as one snapshot")
    one.add_argument("directory", type=Path, metavar="DIR")
    add_options(one)
    one.set_defaults(run=publish)

    one = commands.add_parser("activate", help="make a snapshot the active one (two people)")
    one.add_argument("snapshot_id", metavar="SNAPSHOT")
    one.add_argument("--request-digest", default="", help="what the first person's call printed")
    add_options(one)
    one.set_defaults(run=activate)


def publish(args: argparse.Namespace) -> int:
    """Publish; nothing becomes active."""
    from counterseal.cli.session import as_person
    from counterseal.cli.views import as_json

    files = sorted(p for p in args.directory.iterdir() if p.suffix in (".yaml", ".yml"))
    if not files:
        raise InputInvalid(f"{args.directory}: there are no YAML files")
    documents = {file.name: file.read_bytes() for file in files}

    async def work(person: "Person") -> int:
        answer = await person.publish(documents)
        if args.json:
            emit(as_json(answer))
            return exits.OK
        for finding in answer.findings:
            say(f"{finding.severity}: {finding.where}: {finding.code}: {finding.message}")
        say(f"snapshot  {answer.snapshot.snapshot_id}")
        return exits.OK

    return as_person(args, work)


def activate(args: argparse.Namespace) -> int:
    """Activate, or ask for the second person."""
    from counterseal.cli.session import as_person
    from counterseal.cli.views import as_json

    async def work(person: "Person") -> int:
        answer = await person.activate(args.snapshot_id, args.request_digest)
        pending = answer.HasField("second_person")
        if args.json:
            emit(as_json(answer))
        elif pending:
            say("a second person has to repeat this with:")
            say(f"  --request-digest {answer.second_person.request_digest}")
        else:
            say(f"active    {answer.snapshot.snapshot_id}")
        return exits.APPROVAL_PENDING if pending else exits.OK

    return as_person(args, work)
