"""`audit reapply-erasures`: the audit service's own command, found beside the other verbs about erasures.

It works on the service's database as its owner, so it runs where the service is installed, as a process of the
service's own; this command starts it there, or says how to.
"""

import argparse
import importlib.util
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

from counterseal.cli import exits
from counterseal.cli.arguments import add_json
from counterseal.cli.audit_pins import read_vkey
from counterseal.cli.output import complain
from counterseal.ledger.errors import VerificationError

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers

SERVICE = "counterseal_audit"
COMMAND = "counterseal-audit"


def register(commands: "Subparsers") -> None:
    """Add the command."""
    one = commands.add_parser(
        "reapply-erasures",
        help="after a restore of the ledger's database, before it serves: erase again what its log says was erased",
    )
    one.add_argument(
        "--config", required=True, metavar="FILE.toml", help="the audit service's, with the owner's password"
    )
    one.add_argument("--export", required=True, metavar="DIR", help="the newest export of the tenant's log")
    one.add_argument("--vkey", required=True, metavar="FILE_OR_STRING", help="the log's verifier key, as pinned")
    add_json(one)
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the service's command and return its exit code; 2, and what to run, where the service is not installed."""
    try:
        key = read_vkey(args.vkey)
    except VerificationError as error:
        complain(f"--vkey: {error.message}")
        return exits.USAGE
    words = ["reapply-erasures", "--config", args.config, "--export", args.export, "--vkey", key.vkey]
    words += ["--json"] if args.json else []
    if importlib.util.find_spec(SERVICE) is None:
        complain("the audit service is not installed here; run this where it is, before it serves:")
        complain(f"  {COMMAND} {shlex.join(words)}")
        return exits.USAGE
    return subprocess.run([sys.executable, "-m", SERVICE, *words], check=False).returncode
