"""The `counterseal` command: a dispatcher that loads only the module of the command in use.

Loading on use keeps `plan digest` and `audit verify` free of gRPC, and every start fast.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from counterseal.cli import exits
from counterseal.cli.output import complain
from counterseal.config import ConfigError
from counterseal.errors import ServiceError

__all__ = ["main"]

COMMANDS = {
    "demo": "seven scenes on the real suite: allowed, denied, approved, crashed, ...",
    "dev": "run the whole suite on this machine until Ctrl-C",
    "plan": "propose, inspect and commit plans; canonical bytes and digests",
    "approvals": "list, show, approve and reject approval tasks",
    "kill": "stop a scope: no new intents, credentials dead, in-flight drained",
    "lift": "lift a stopped scope (two people)",
    "explain": "tell a plan's whole story from the ledger",
    "login": "log a person in",
    "tool": "list and register tools",
    "policy": "publish and activate policy",
    "audit": "verify, export and prove the ledger",
    "vault": "set up and verify Vault",
    "rpc": "list the methods and who may call them",
}
"""Command -> help line. Each is the module of that name here, with `register(subparsers)`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; no exception leaves as a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parser(arguments).parse_args(arguments)
        return int(args.run(args))
    except SystemExit as stop:  # argparse: 0 after --help, 2 for bad usage
        return stop.code if isinstance(stop.code, int) else exits.USAGE
    except KeyboardInterrupt:
        complain("interrupted")
        return exits.INTERNAL
    except BrokenPipeError:
        # The reader went away (`| head`); point the descriptor elsewhere so that the exit flush is silent.
        sys.stdout = None
        return exits.OK
    except ServiceError as error:
        complain(describe(error))
        return exit_code(error)
    except TimeoutError:
        complain("UNAVAILABLE: it has not ended in the time given")
        return exits.UNAVAILABLE
    except OSError as error:
        complain(f"{error.filename or 'system'}: {error.strerror or 'failed'}")
        return exits.USAGE if error.filename else exits.INTERNAL
    except ConfigError as error:
        for problem in error.problems:
            complain(problem)
        return exits.USAGE
    except Exception as error:  # noqa: BLE001 (the last line of defence: a person never sees a traceback)
        complain(f"INTERNAL: {type(error).__name__}: {error}")
        return exits.INTERNAL


def exit_code(error: ServiceError) -> int:
    """Return the exit code that an error stands for."""
    if error.reason == "APPROVAL_REQUIRED":
        return exits.APPROVAL_PENDING
    if error.reason == "IN_DOUBT":
        return exits.IN_DOUBT
    if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        return exits.UNAVAILABLE
    if error.code in ("PERMISSION_DENIED", "UNAUTHENTICATED") or error.reason == "CONTAINED":
        return exits.DENIED
    return exits.INTERNAL if error.code == "INTERNAL" else exits.REFUSED


def describe(error: ServiceError) -> str:
    """Return one line: reason, message, values, and what to do next."""
    values = "".join(f" {key}={value}" for key, value in sorted(error.metadata.items()) if value)
    return f"{error.reason}: {error.message}{values} (next: {error.next_action})"


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="counterseal", description="Governed execution for AI agents.", epilog=_EPILOG
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    for name, line in COMMANDS.items():
        if name == wanted:
            importlib.import_module(f"counterseal.cli.{name}").register(subparsers)
        else:
            subparsers.add_parser(name, help=line)
    return parser


_DESCRIPTION = "Governed execution for AI agents."
_EPILOG = (
    "exit codes: 0 ok, 1 internal, 2 usage, 3 refused or findings, 4 tampered, 5 denied, "
    "6 approval pending, 7 in doubt, 8 unavailable"
)
