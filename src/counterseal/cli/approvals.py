"""`counterseal approvals list|show|approve|reject`: what people vote on, and their vote."""

import argparse
from typing import TYPE_CHECKING, Any

from counterseal.canonical import parse_canonical
from counterseal.cli import exits
from counterseal.cli.options import add_options
from counterseal.cli.output import emit, fenced, say

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers
    from counterseal.client import Person


def register(subparsers: "Subparsers") -> None:
    """Add the command and its own subcommands."""
    parser = subparsers.add_parser("approvals", help="list, show, approve and reject approval tasks")
    commands = parser.add_subparsers(dest="approvals_command", metavar="COMMAND", required=True)

    one = commands.add_parser("list", help="print the tasks that wait for votes")
    one.add_argument("--state", default="PENDING", help="PENDING (default), APPROVED, ..., or ALL")
    add_options(one)
    one.set_defaults(run=list_tasks)

    one = commands.add_parser("show", help="print a task's decision card")
    one.add_argument("task_id", metavar="TASK")
    add_options(one)
    one.set_defaults(run=show)

    for name, work in (("approve", approve), ("reject", reject)):
        one = commands.add_parser(name, help=f"{name} exactly the bytes and the card of these digests")
        one.add_argument("task_id", metavar="TASK")
        one.add_argument("--plan", required=True, metavar="DIGEST", help="plan digest, as `show` printed it")
        one.add_argument("--card", required=True, metavar="DIGEST", help="card digest, as `show` printed it")
        one.add_argument("--comment", default="", required=name == "reject", help="why; sealed in the ledger")
        add_options(one)
        one.set_defaults(run=work)


def list_tasks(args: argparse.Namespace) -> int:
    """Print the tenant's tasks."""
    from counterseal.cli.session import as_person
    from counterseal.cli.views import as_json, task_line

    async def work(person: "Person") -> int:
        tasks = await person.approvals("" if args.state == "ALL" else args.state)
        if args.json:
            emit([as_json(task) for task in tasks])
        else:
            say("\n".join(task_line(task) for task in tasks) or "no tasks")
        return exits.OK

    return as_person(args, work)


def show(args: argparse.Namespace) -> int:
    """Print a task and its card: facts in full, the agent's own words fenced."""
    from counterseal.cli.session import as_person
    from counterseal.cli.views import as_json, task_line

    async def work(person: "Person") -> int:
        answer = await person.approval(args.task_id)
        card = parse_canonical(answer.decision_card)
        if args.json:
            emit({"task": as_json(answer.task), "card": card})
            return exits.OK
        say(task_line(answer.task))
        print("\n".join(_card_lines(card, "")))
        task = answer.task
        echo = f"--plan {task.plan_digest} --card {task.card_digest}"
        say(f"to vote   counterseal approvals approve {task.task_id} {echo}")
        return exits.OK

    return as_person(args, work)


def approve(args: argparse.Namespace) -> int:
    """Vote for the task."""
    return _vote(args, "approve")


def reject(args: argparse.Namespace) -> int:
    """Refuse the task."""
    return _vote(args, "reject")


def _vote(args: argparse.Namespace, verb: str) -> int:
    from counterseal.cli.session import as_person
    from counterseal.cli.views import as_json, task_line

    async def work(person: "Person") -> int:
        task = await getattr(person, verb)(args.task_id, args.plan, args.card, args.comment)
        if args.json:
            emit(as_json(task))
        else:
            say(task_line(task))
        return exits.OK

    return as_person(args, work)


def _card_lines(value: Any, name: str) -> list[str]:
    """Return a card's fields one by one; every text is fenced, since part of them is the agent's own."""
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _card_lines(item, f"{name}.{key}" if name else key)]
    if isinstance(value, list):
        return [line for index, item in enumerate(value) for line in _card_lines(item, f"{name}[{index}]")]
    if isinstance(value, str) and ("\n" in value or len(value) > 100):
        return [f"{name}:", fenced(value)]
    return [f"{name}: {fenced(str(value)).removeprefix('  | ')}"]
