"""`counterseal lift`: start a stopped scope again; two people, the second echoes the first one's request digest."""

import argparse
from typing import TYPE_CHECKING

from counterseal.cli import exits
from counterseal.cli.containment import add_scope, scope_of
from counterseal.cli.options import add_options
from counterseal.cli.output import emit, say
from counterseal.errors import NotFound

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers
    from counterseal.client import Person


def register(subparsers: "Subparsers") -> None:
    """Add the command."""
    parser = subparsers.add_parser("lift", help="lift a stopped scope (two people)")
    add_scope(parser)
    parser.add_argument("--epoch", type=int, help="the epoch that this ends, default: the present one")
    parser.add_argument("--request-digest", default="", help="what the first person's call printed")
    parser.add_argument("--note", default="", help="why in words; sealed in the ledger")
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask for the lift, or do it as the second person."""
    from counterseal.cli.session import as_person, load_profile
    from counterseal.cli.views import as_json

    profile = load_profile(args)
    scope = scope_of(args, profile.environment, args.tenant or profile.tenant)

    async def work(person: "Person") -> int:
        epoch = args.epoch
        if epoch is None:
            known = {state.scope: state.epoch for state in await person.containments()}
            if scope not in known:
                raise NotFound("the scope was never tripped", scope=scope)
            epoch = known[scope]
        answer = await person.lift(scope, epoch, args.note, args.request_digest)
        if args.json:
            emit(as_json(answer))
        elif answer.HasField("second_person"):
            say("a second person has to repeat this with:")
            say(f"  --epoch {epoch} --request-digest {answer.second_person.request_digest}")
        else:
            say(f"lifted    {answer.state.scope} epoch {answer.state.epoch}")
        return exits.APPROVAL_PENDING if answer.HasField("second_person") else exits.OK

    return as_person(args, work)
