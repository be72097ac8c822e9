"""`counterseal login`: keep a person's OIDC token for the commands that follow."""

import argparse
import sys
from typing import TYPE_CHECKING

from counterseal.cli import exits
from counterseal.cli.options import add_options
from counterseal.cli.output import emit, say
from counterseal.cli.session import keep_token, load_profile, safe_user

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers


def register(subparsers: "Subparsers") -> None:
    """Add the command."""
    parser = subparsers.add_parser("login", help="log a person in")
    add_options(parser)
    parser.add_argument("--token-stdin", action="store_true", help="read an OIDC token of your own provider from stdin")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Get a token from the development issuer, or take one from standard input."""
    from counterseal.client.login import password_login

    user = safe_user(args.user or "")
    token = sys.stdin.readline().strip() if args.token_stdin else password_login(load_profile(args), user)
    keep_token(args, user, token)
    if args.json:
        emit({"user": user, "profile": args.profile})
    else:
        say(f"logged in as {user} for profile {args.profile}")
    return exits.OK
