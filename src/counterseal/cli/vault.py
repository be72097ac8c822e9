"""`counterseal vault plan|setup|verify`: make Vault and its PostgreSQL targets what one TOML file says.

Runs under an operator's identity (AppRole files), never a service's. `verify` exits 3 when something differs.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from counterseal import config as configuration
from counterseal.cli import exits
from counterseal.cli.output import complain
from counterseal.config import ConfigError
from counterseal.vault import Vault, VaultRefused, provision
from counterseal.vault.resources import mounts, resources
from counterseal.vault.settings import Provision


def register(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("vault", help="provision Vault and its targets, or name the drift")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, run, line in (
        ("plan", _plan, "print what setup would make, and the SQL of each target; touches nothing"),
        ("setup", _setup, "make Vault and PostgreSQL what the file says; safe to repeat"),
        ("verify", _verify, "name every difference between the file and what is live; exit 3 if there is one"),
    ):
        action = actions.add_parser(name, help=line, description=line)
        action.add_argument("--config", type=Path, required=True, metavar="FILE.toml")
        action.add_argument("--json", action="store_true", help="machine-readable output")
        if name != "plan":
            action.add_argument("--address", required=True, metavar="URL", help="Vault's address")
            action.add_argument("--ca-file", type=Path, metavar="PEM")
            action.add_argument("--role-id-file", type=Path, required=True, metavar="FILE")
            action.add_argument("--secret-id-file", type=Path, required=True, metavar="FILE")
        action.set_defaults(run=run)


def _plan(args: argparse.Namespace) -> int:
    settings = _settings(args)
    if settings is None:
        return exits.USAGE
    sql = {tenant.name: provision.target_statements(tenant, chosen, None) for tenant, chosen in settings.tenant_names()}
    rows = [{"path": mount.path, "body": {"type": mount.engine}} for mount in mounts(settings)]
    rows += [{"path": item.path, "body": dict(item.body)} for item in resources(settings, {})]
    if args.json:
        print(json.dumps({"vault": rows, "sql": sql}, indent=1, sort_keys=True))
        return exits.OK
    for row in rows:
        print(row["path"])
    for tenant, statements in sql.items():
        if statements:
            print(f"\n-- {tenant}: as a superuser of its database")
            print(";\n".join(statements) + ";")
    return exits.OK


def _setup(args: argparse.Namespace) -> int:
    async def work(vault: Vault, settings: Provision) -> int:
        progress = (lambda _: None) if args.json else lambda text: print(text, file=sys.stderr)
        changed = await provision.setup(vault, settings, progress)
        print(json.dumps({"changed": changed}) if args.json else f"{changed} changed")
        return exits.OK

    return _with_vault(args, work)


def _verify(args: argparse.Namespace) -> int:
    async def work(vault: Vault, settings: Provision) -> int:
        drifts = await provision.verify(vault, settings)
        if args.json:
            rows = [{"where": drift.where, "wanted": drift.wanted, "found": drift.found} for drift in drifts]
            print(json.dumps({"drift": rows}, indent=1))
        else:
            _show(drifts)
        return exits.REFUSED if drifts else exits.OK

    return _with_vault(args, work)


def _show(drifts: Sequence[provision.Drift]) -> None:
    for drift in drifts:
        print(f"{drift.where}\n  wanted {drift.wanted}\n  found  {drift.found}")
    print(f"{len(drifts)} differences" if drifts else "no drift")


def _settings(args: argparse.Namespace) -> Provision | None:
    try:
        return configuration.bind(Provision, configuration.load(args.config, {}), "vault")
    except ConfigError as error:
        for problem in error.problems:
            complain(problem)
        return None


def _with_vault(args: argparse.Namespace, work: Callable[[Vault, Provision], Awaitable[int]]) -> int:
    settings = _settings(args)
    if settings is None:
        return exits.USAGE

    async def run() -> int:
        role_id, secret_id = (configuration.read_secret(file) for file in (args.role_id_file, args.secret_id_file))
        vault = await Vault.login_approle(args.address, role_id, secret_id, ca_file=args.ca_file)
        try:
            return await work(vault, settings)
        finally:
            vault.close()

    try:
        return asyncio.run(run())
    except ConfigError as error:
        complain(str(error))
        return exits.USAGE
    except (VaultRefused, provision.ProvisionFailed) as error:
        complain(str(error))
        return exits.REFUSED
