"""The Node client, installed from its lockfile into a copy, so that the work tree stays clean."""

import shutil
import subprocess
from pathlib import Path

import pytest

_NO_NETWORK = ("ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "ETIMEDOUT", "ENETUNREACH")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of examples/node-client beside a copy of protos, with its packages; skips without a registry."""
    root = tmp_path_factory.mktemp("node")
    shutil.copytree(ROOT / "protos", root / "protos")
    folder = root / "examples" / "node-client"
    shutil.copytree(ROOT / "examples" / "node-client", folder, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    if any(code in installed.stderr for code in _NO_NETWORK):
        pytest.skip("npm reaches no registry")
    assert installed.returncode == 0, installed.stderr
    return folder
