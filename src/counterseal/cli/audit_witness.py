"""`audit witness keygen|vkey|serve`: a witness for a second party to run (C2SP tlog-witness)."""

import argparse
import asyncio
import logging
import secrets
import signal
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from counterseal.cli import exits
from counterseal.cli.arguments import add_json
from counterseal.cli.output import complain, emit, say
from counterseal.clock import system_clock
from counterseal.ledger.errors import VerificationError

if TYPE_CHECKING:
    from counterseal.cli.arguments import Subparsers
    from counterseal.cli.witness_server import Witness


def register(commands: "Subparsers") -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser("witness", help="cosign the heads of somebody else's logs, and keep them honest")
    kinds: Subparsers = parser.add_subparsers(dest="witness_command", metavar="COMMAND", required=True)

    one = kinds.add_parser("keygen", help="make the witness's key and print its vkey")
    one.add_argument("key", type=Path, metavar="KEY_FILE", help="new; readable by its owner only")
    one.add_argument("--name", required=True, help="the witness's name, such as witness.example.com/w1")
    _finish(one, "keygen")

    one = kinds.add_parser("vkey", help="print the witness's vkey, for policies")
    one.add_argument("key", type=Path, metavar="KEY_FILE")
    _finish(one, "vkey")

    one = kinds.add_parser("serve", help="run the witness until it is told to stop")
    one.add_argument("key", type=Path, metavar="KEY_FILE")
    one.add_argument("--state", required=True, type=Path, metavar="DIR", help="the last heads; must never be lost")
    one.add_argument("--logs", required=True, type=Path, metavar="FILE", help="a log's vkey a line")
    one.add_argument("--listen", default="127.0.0.1:8384", metavar="HOST:PORT", help="default: 127.0.0.1:8384")
    one.add_argument("--prefix", default="", metavar="PATH", help="path below which it answers, such as /w1")
    one.add_argument("--cert", metavar="FILE", help="serve TLS with this certificate (PEM), with --tls-key")
    one.add_argument("--tls-key", metavar="FILE", help="the certificate's key (PEM)")
    _finish(one, "serve")


def _finish(parser: argparse.ArgumentParser, name: str) -> None:
    add_json(parser)
    parser.set_defaults(run=run, witness_run=name)


def run(args: argparse.Namespace) -> int:
    """Run one subcommand."""
    try:
        from counterseal.cli import witness_server
    except ModuleNotFoundError as error:
        complain(f"a witness needs {error.name}: pip install 'counterseal[witness]'")
        return exits.USAGE
    try:
        if args.witness_run == "serve":
            return _serve(args)
        if args.witness_run == "keygen":
            key = witness_server.WitnessKey.make(args.name, secrets.token_bytes(32))
            key.write(args.key)
        else:
            key = witness_server.WitnessKey.read(args.key)
    except (witness_server.WitnessError, VerificationError, FileExistsError) as error:
        complain(f"{args.key}: it exists already" if isinstance(error, FileExistsError) else str(error))
        return exits.USAGE
    if args.json:
        emit({"name": key.key.name, "vkey": key.key.vkey})
    else:
        say(key.key.vkey)
    return exits.OK


def _serve(args: argparse.Namespace) -> int:
    from counterseal.cli import witness_server

    host, _, port = args.listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        complain("--listen: expected HOST:PORT")
        return exits.USAGE
    if bool(args.cert) != bool(args.tls_key):
        complain("--cert and --tls-key go together")
        return exits.USAGE
    prefix = "/" + args.prefix.strip("/") if args.prefix.strip("/") else ""
    context = None
    if args.cert:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(args.cert, args.tls_key)
    key = witness_server.WitnessKey.read(args.key)
    logs = witness_server.read_logs(args.logs)
    state = witness_server.State(args.state, key.key, logs)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        one = witness_server.Witness(key, logs, state, system_clock)
        return asyncio.run(_until_stopped(args, one, host.strip("[]"), int(port), prefix, context))
    finally:
        state.close()


async def _until_stopped(
    args: argparse.Namespace,
    one: "Witness",
    host: str,
    port: int,
    prefix: str,
    context: ssl.SSLContext | None,
) -> int:
    from aiohttp import web

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    runner = web.AppRunner(one.application(prefix), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=context)
        await site.start()
        bound = runner.addresses[0]
        url = f"{'https' if context else 'http'}://{bound[0]}:{bound[1]}{prefix}"
        if args.json:
            emit({"url": url, "vkey": one.key.key.vkey, "logs": sorted(one.logs)})
        else:
            say(f"witness {one.key.key.vkey}")
            say(f"serves {url}, {len(one.logs)} logs")
        sys.stdout.flush()
        await stopping.wait()
    finally:
        await runner.cleanup()
    return exits.OK
