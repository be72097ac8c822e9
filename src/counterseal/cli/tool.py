"""`counterseal tool list|register`: the registry of what agents may propose."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from counterseal.canonical import canonical, parse_strict
from counterseal.cli import exits
from counterseal.cli.options import add_options
from counterseal.cli.output import emit, say

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers
    from counterseal.client import Person


def register(subparsers: "Subparsers") -> None:
    """Add the command and its own subcommands."""
    parser = subparsers.add_parser("tool", help="list and register tools")
    commands = parser.add_subparsers(dest="tool_command", metavar="COMMAND", required=True)

    one = commands.add_parser("list", help="print the tenant's tools")
    add_options(one)
    one.set_defaults(run=list_tools)

    one = commands.add_parser("register", help="register tool descriptors (two people in prod)")
    one.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON descriptors")
    one.add_argument("--request-digest", default="", help="what the first person's call printed")
    add_options(one)
    one.set_defaults(run=register_tools)


def list_tools(args: argparse.Namespace) -> int:
    """Print the tools by name."""
    from counterseal.cli.session import as_person

    async def work(person: "Person") -> int:
        tools = await person.tools()
        if args.json:
            emit([{"tool": t.tool, "tool_digest": t.tool_digest, "retired": t.retired} for t in tools])
        for tool in () if args.json else tools:
            say(f"{tool.tool:<40} {tool.tool_digest}{'  retired' if tool.retired else ''}")
        return exits.OK

    return as_person(args, work)


def register_tools(args: argparse.Namespace) -> int:
    """Register every file's descriptor, all or none."""
    from counterseal.cli.session import as_person

    descriptors = [canonical(parse_strict(file.read_bytes())) for file in args.files]

    async def work(person: "Person") -> int:
        answer = await person.register(descriptors, args.request_digest)
        pending = answer.HasField("second_person")
        if args.json:
            tools = [{"tool": t.tool, "tool_digest": t.tool_digest} for t in answer.tools]
            emit({"tools": tools, "request_digest": answer.second_person.request_digest if pending else None})
        elif pending:
            say("a second person has to repeat this with:")
            say(f"  --request-digest {answer.second_person.request_digest}")
        for tool in () if args.json else answer.tools:
            say(f"registered {tool.tool} {tool.tool_digest}")
        return exits.APPROVAL_PENDING if pending else exits.OK

    return as_person(args, work)
