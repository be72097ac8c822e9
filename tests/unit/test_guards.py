"""Every import contract and every banned call catches a violation planted for it.

A contract or a ban that is added without a plant here fails the two completeness tests: a guard nobody has seen
catching something is a hope.
"""

import json
import os
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest

from support.requirements import requirement

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))
RUFF = [str(SCRIPTS / "ruff"), "check", "--no-cache", "--output-format=json"]
CONFIG: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS = [contract["name"] for contract in CONFIG["tool"]["importlinter"]["contracts"]]
BANS = sorted(CONFIG["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"])
SERVICE_ROOTS = [ROOT / "services" / name for name in ("policy", "credentials", "audit", "executor")]

# contract -> plants, each {file: source appended to it}; every plant alone must break exactly that contract
PLANTS: dict[str, list[tuple[str, str]]] = {
    "services are independent and stand above the shared package": [
        ("services/policy/counterseal_policy/planted.py", "import counterseal_executor\n"),
        ("src/counterseal/client/planted.py", "import counterseal_audit\n"),
    ],
    "the shared package, layer by layer": [
        ("src/counterseal/documents/planted.py", "import counterseal.identity\n"),
        ("src/counterseal/rpc/planted.py", "import counterseal.client\n"),
        ("src/counterseal/utils.py", '"""A module nobody placed."""\n'),
    ],
    "the core is pure": [
        ("src/counterseal/documents/planted.py", "import grpc\n"),
        ("src/counterseal/ledger/planted.py", "def append() -> None:\n    import asyncio\n"),
        ("src/counterseal/errors.py", "\nimport grpc\n"),
    ],
    "the executor's engines are pure": [
        ("services/executor/counterseal_executor/work/engine.py", "\nimport counterseal_executor.plans.store\n"),
        ("services/executor/counterseal_executor/states.py", "\nimport asyncio\n"),
    ],
    "what decides about signing is pure": [
        ("services/audit/counterseal_audit/checkpoints/engine.py", "\nimport counterseal.vault\n"),
        ("services/audit/counterseal_audit/append/mac.py", "\nimport asyncio\n"),
    ],
    "one door to Vault": [
        ("services/credentials/counterseal_credentials/planted.py", "from hvac import Client\n"),
        ("src/counterseal/embedded/planted.py", "import hvac as vault\n"),
    ],
}

# ban -> sources that reach the banned thing by its name, by an alias and from its module
CALLS: dict[str, list[str]] = {
    "datetime.datetime.now": [
        "import datetime\nNOW = datetime.datetime.now(datetime.UTC)\n",
        "from datetime import UTC, datetime as d\nNOW = d.now(UTC)\n",
    ],
    "datetime.datetime.utcnow": ["from datetime import datetime\nNOW = datetime.utcnow()\n"],
    "time.time": ["import time as t\nNOW = t.time()\n", "from time import time\nNOW = time()\n"],
    "uuid.uuid4": ["import uuid\nID = uuid.uuid4()\n", "from uuid import uuid4 as fresh\nID = fresh()\n"],
    "uuid.uuid1": ["from uuid import uuid1\nID = uuid1()\n"],
    "random": ["import random\nX = random.random()\n", "from random import choice\nX = choice([1])\n"],
    "json.loads": ["import json as j\nX = j.loads('1')\n", "from json import loads\nX = loads('1')\n"],
    "asyncio.to_thread": ["import asyncio\nX = asyncio.to_thread\n", "from asyncio import to_thread\nX = to_thread\n"],
}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of our packages, so that a plant never touches the work tree."""
    root = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__", "migrations")
    shutil.copytree(ROOT / "src", root / "src", ignore=ignore)
    shutil.copytree(ROOT / "services", root / "services", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def _broken_contracts(tree: Path) -> set[str]:
    """Run import-linter on the tree and return the names of the contracts that it reports broken."""
    paths = [tree / "src", *(tree / root.relative_to(ROOT) for root in SERVICE_ROOTS)]
    result = subprocess.run(
        [str(SCRIPTS / "lint-imports"), "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "NO_COLOR": "1", "COLUMNS": "200"},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = [line.strip() for line in result.stdout.splitlines()]
    broken = {name for name in CONTRACTS if f"{name} BROKEN" in lines}
    kept = {name for name in CONTRACTS if f"{name} KEPT" in lines}
    assert broken | kept == set(CONTRACTS), f"not every contract was judged:\n{result.stdout}{result.stderr}"
    assert (result.returncode != 0) == bool(broken)
    return broken


def test_every_import_contract_has_a_plant() -> None:
    assert set(PLANTS) == set(CONTRACTS)


def test_every_banned_call_has_a_plant() -> None:
    assert sorted(CALLS) == BANS


def test_the_tree_itself_keeps_every_contract(tree: Path) -> None:
    assert _broken_contracts(tree) == set()


@requirement("imports:guarded")
@pytest.mark.parametrize(
    ("contract", "where", "source"),
    [(contract, where, source) for contract, plants in PLANTS.items() for where, source in plants],
)
def test_a_planted_import_breaks_its_contract(tree: Path, contract: str, where: str, source: str) -> None:
    file = tree / where
    original = file.read_text() if file.exists() else None
    file.write_text((original or '"""Planted."""\n') + source)
    try:
        assert contract in _broken_contracts(tree)
    finally:
        if original is None:
            file.unlink()
        else:
            file.write_text(original)


@requirement("imports:guarded")
@pytest.mark.parametrize("folder", ["src/counterseal/client", "services/policy/counterseal_policy"])
@pytest.mark.parametrize(("ban", "source"), [(ban, source) for ban, sources in CALLS.items() for source in sources])
def test_a_planted_call_is_caught_by_name_and_by_alias(ban: str, source: str, folder: str) -> None:
    result = subprocess.run(
        [*RUFF, f"--stdin-filename={folder}/planted.py", "-"],
        input=source,
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    caught = [finding["message"] for finding in json.loads(result.stdout) if finding["code"] == "TID251"]
    assert any(f"`{ban}" in message for message in caught), caught


def test_outside_the_tests_only_the_one_parser_is_exempt_from_the_bans() -> None:
    ignores: dict[str, list[str]] = CONFIG["tool"]["ruff"]["lint"]["per-file-ignores"]
    exempt = {path for path, codes in ignores.items() if {"TID251", "TID", "ALL"} & set(codes)}
    assert exempt - {"tests/**"} == {"src/counterseal/canonical.py"}
