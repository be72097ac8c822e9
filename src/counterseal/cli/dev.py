"""`counterseal dev`: the whole suite on this machine, in one data directory, until Ctrl-C."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from counterseal.cli import exits
from counterseal.cli.options import DEFAULT_HOME
from counterseal.cli.output import complain, say

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers
    from counterseal.embedded.layout import Running


def register(subparsers: "Subparsers") -> None:
    """Add the command."""
    parser = subparsers.add_parser("dev", help="run the whole suite on this machine until Ctrl-C")
    parser.add_argument(
        "--home", type=Path, default=Path(DEFAULT_HOME), help=f"data directory, default: {DEFAULT_HOME}"
    )
    parser.add_argument("--environment", default="dev", help="name of the environment, default: dev")
    parser.add_argument("--empty", action="store_true", help="without the demo's policy and tools")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Start everything, say how to use it, and stop it in order at Ctrl-C or SIGTERM."""
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    from counterseal.cli.demo import world
    from counterseal.embedded.deployment import AlreadyRunning, Deployment
    from counterseal.embedded.stack import StackFailed
    from counterseal.embedded.supervisor import ServiceFailed

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    deployment = Deployment(args.home, world.wanted(args.environment), lambda text: complain(f"  {text} ..."))
    starting = asyncio.create_task(deployment.start())

    def end() -> None:
        stop.set()
        if not starting.done():
            starting.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    try:
        running = await starting
    except asyncio.CancelledError:
        return exits.OK
    except (AlreadyRunning, StackFailed, ServiceFailed) as error:
        print(error, file=sys.stderr)
        return exits.INTERNAL
    try:
        if not args.empty:
            await _fill(running)
        _explain(running, args.home)
        await stop.wait()
        complain("  stopping ...")
    finally:
        await deployment.stop()
    return exits.OK


async def _fill(running: "Running") -> None:
    """Publish the demo's policy and register its tools, so that there is something to propose."""
    from counterseal.cli.demo.stage import publish
    from counterseal.cli.demo.stage import register as register_tools
    from counterseal.client import Client
    from counterseal.client.login import password_login

    async with Client.open(running.profile("cli")) as client:
        people = {user: client.person(password_login(client.profile, user)) for user in ("pat", "ida", "omar")}
        await publish(people["pat"], people["ida"])
        await register_tools(people["ida"], people["omar"])


def _explain(running: "Running", home: Path) -> None:
    say(f"counterseal is running: environment {running.environment}, data in {home}")
    for service, address in running.addresses.items():
        say(f"  {service:<12} {address}   log {running.logs / f'{service}.log'}")
    at = "" if home == Path(DEFAULT_HOME) else f" --home {home}"
    say("try, in another terminal:")
    say(f"  counterseal login{at} --profile agent-refund-bot --user ana")
    say(f"  counterseal plan propose examples/shop/refund.json{at}        # allowed")
    say(f"  counterseal plan propose examples/shop/large-refund.json{at}  # waits for a person")
    say(f"  counterseal login{at} --user olga && counterseal approvals list{at}")
    say(f"  counterseal kill --all-of-tenant{at}                          # stops everything of the tenant")
    say("Ctrl-C stops everything.")
