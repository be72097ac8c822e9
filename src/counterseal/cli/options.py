"""The options of every command that calls the services, and where its files are. Standard library only."""

import argparse
import os
from pathlib import Path

DEFAULT_HOME = "build/dev"
HOME_VARIABLE = "COUNTERSEAL_HOME"


def add_options(parser: argparse.ArgumentParser, *, profile: str = "cli") -> None:
    """Add the options that choose a deployment, a workload identity and a person, and `--json`."""
    add_login(parser, profile=profile)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_login(parser: argparse._ActionsContainer, *, profile: str = "cli") -> None:
    """Add the options that choose a deployment, a workload identity and a person."""
    parser.add_argument("--home", type=Path, help=f"data directory, default: ${HOME_VARIABLE} or {DEFAULT_HOME}")
    parser.add_argument("--profile", default=profile, help=f"profile name or profile.toml, default: {profile}")
    parser.add_argument("--user", help="act as this logged-in user, default: the last one")
    parser.add_argument("--tenant", help="tenant, default: the profile's")


def home(args: argparse.Namespace) -> Path:
    """Return the data directory that the command works with."""
    return Path(args.home or os.environ.get(HOME_VARIABLE) or DEFAULT_HOME)
