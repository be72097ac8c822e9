"""`counterseal explain PLAN`: why it happened, who allowed it, with which credential, and what became of it.

From the ledger alone: every line names the leaf that says so.
"""

import argparse
from typing import TYPE_CHECKING, Any

from counterseal.canonical import JsonObject, parse_canonical
from counterseal.cli import exits
from counterseal.cli.options import add_options
from counterseal.cli.output import emit, say
from counterseal.errors import NotFound

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers
    from counterseal.client import Person


def register(subparsers: "Subparsers") -> None:
    """Add the command."""
    parser = subparsers.add_parser("explain", help="tell a plan's whole story from the ledger")
    parser.add_argument("plan", metavar="PLAN", help="plan digest, or plan id")
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print every entry of the plan in order."""
    from counterseal.cli.session import as_person

    async def work(person: "Person") -> int:
        story = await tell(person, args.plan)
        if args.json:
            emit(story)
            return exits.OK
        say(f"plan {story['plan_digest']}")
        for line in story["entries"]:
            what = " ".join(f"{key}={_short(value)}" for key, value in line["data"].items())
            step = f" {line['step']}" if line["step"] else ""
            say(f"leaf {line['index']:>6}  {line['type']:<24}{step}  {what}")
        return exits.OK

    return as_person(args, work)


async def tell(person: "Person", plan: str) -> dict[str, Any]:
    """Return `{plan_digest, entries}`; raises NotFound when the ledger knows no such plan."""
    digest = plan if plan.startswith("sha256:") else (await person.plan(plan)).plan.plan_digest
    entries = await person.entries(plan_digest=digest)
    if not entries:
        raise NotFound("the ledger holds nothing about this plan", plan_digest=digest)
    return {"plan_digest": digest, "entries": [_line(e.index, parse_canonical(bytes(e.entry))) for e in entries]}


def _line(index: int, entry: JsonObject) -> dict[str, Any]:
    data = entry.get("data")
    return {
        "index": index,
        "type": str(entry.get("type", "")),
        "step": str(entry.get("step", "")),
        "event_id": str(entry.get("event_id", "")),
        "data": data if isinstance(data, dict) else {},
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
