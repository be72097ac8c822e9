"""How commands reach the services: a profile, and the login that `counterseal login` left.

    <home>/profiles/<name>/profile.toml    who we are (mTLS) and where the services are
    <home>/sessions/<name>/<user>.jwt      a person's OIDC token, mode 0600; `current` names the last user

`home` is `--home`, else COUNTERSEAL_HOME, else `build/dev`, where `counterseal dev` puts everything.
"""

import argparse
import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from counterseal.cli.options import home
from counterseal.client import AgentRequest, Client, Person, Profile
from counterseal.errors import InputInvalid, TokenInvalid


def profile_file(args: argparse.Namespace, name: str | None = None) -> Path:
    """Return the profile file that was chosen; raises InputInvalid when there is none."""
    wanted = str(name or args.profile)
    file = Path(wanted) if wanted.endswith(".toml") else home(args) / "profiles" / wanted / "profile.toml"
    if not file.is_file():
        raise InputInvalid(f"there is no profile at {file}; is `counterseal dev` running?")
    return file


def load_profile(args: argparse.Namespace, name: str | None = None) -> Profile:
    """Return the chosen profile; raises InputInvalid, ConfigError."""
    return Profile.load(profile_file(args, name))


def sessions(args: argparse.Namespace, name: str | None = None) -> Path:
    """Return the directory of the profile's logins."""
    return home(args) / "sessions" / profile_file(args, name).parent.name


def keep_token(args: argparse.Namespace, user: str, token: str) -> None:
    """Store a login, readable by its owner only, and make it the current one."""
    folder = sessions(args)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in ((f"{user}.jwt", token), ("current", user)):
        file = folder / name
        file.touch(mode=0o600)
        file.write_text(text + "\n", encoding="utf-8")


def identity_token(args: argparse.Namespace) -> str:
    """Return the chosen person's OIDC token; raises TokenInvalid when nobody is logged in."""
    folder = sessions(args)
    try:
        user = args.user or (folder / "current").read_text(encoding="utf-8").strip()
        return (folder / f"{safe_user(user)}.jwt").read_text(encoding="utf-8").strip()
    except OSError:
        name = profile_file(args).parent.name
        raise TokenInvalid(f"nobody is logged in; run: counterseal login --profile {name} --user USER") from None


def safe_user(user: str) -> str:
    """Return a user name that is also a file name; raises InputInvalid."""
    if not user or not all(c.isalnum() or c in "._-@" for c in user) or user.startswith("."):
        raise InputInvalid("a user name has letters, digits and . _ - @ only")
    return user


def as_person(args: argparse.Namespace, work: Callable[[Person], Coroutine[Any, Any, int]]) -> int:
    """Run `work` with the person's calls and return its exit code."""
    token = identity_token(args)

    async def run() -> int:
        async with Client(load_profile(args)) as client:
            return await work(client.person(token, tenant=args.tenant))

    return asyncio.run(run())


def as_agent(args: argparse.Namespace, work: Callable[[AgentRequest], Coroutine[Any, Any, int]], **options: Any) -> int:
    """Run `work` with an agent's calls for the logged-in person and return its exit code."""
    token = identity_token(args)

    async def run() -> int:
        async with Client(load_profile(args)) as client:
            return await work(client.request(token, tenant=args.tenant, **options))

    return asyncio.run(run())
