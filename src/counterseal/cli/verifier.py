"""The main of `verifier.pyz`: `verify ...` and `explain ... --from DIR`, on Python's standard library alone.

A bundle brings the key that it claims to be signed with. Without `--vkey` that key is used and it is said so: such a
verdict proves that the bundle is whole and consistent, not whose it is.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from counterseal import cli
from counterseal.cli import exits
from counterseal.cli.output import complain
from counterseal.ledger.tiles import VKEY

COMMANDS = ("verify", "explain")
MODULES = ("counterseal.cli.audit", "counterseal.cli.explain")
"""Loaded by name on use; named here so that the file holds them."""

USAGE = f"""usage: verifier.pyz verify log DIR [--vkey KEY] [--since NOTE]
       verifier.pyz explain ID --from DIR [--vkey KEY]
commands: {", ".join(COMMANDS)}; --help after a command tells the rest"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 verified, 2 usage, 3 incomplete, 4 tampered or forked."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in COMMANDS:
        print(USAGE, file=sys.stderr)
        return exits.USAGE
    for module in MODULES:
        importlib.import_module(module)
    given = {argument.partition("=")[0] for argument in arguments}
    if arguments[0] == "verify" and not given & {"--vkey", "--policy", "-h", "--help"}:
        directory = next((Path(argument) for argument in arguments[1:] if (Path(argument) / VKEY).is_file()), None)
        if directory is not None:
            arguments += ["--vkey", str(directory / VKEY)]
            complain(f"note: the key is the bundle's own; compare it with the one you pinned: {_key(directory)}")
    return cli.main(["audit", *arguments] if arguments[0] == "verify" else arguments)


def _key(directory: Path) -> str:
    return (directory / VKEY).read_text("ascii", "replace").strip()[:300]
