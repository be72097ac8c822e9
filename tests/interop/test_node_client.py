"""The Node client's own tests, in a clean install of its lockfile."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "examples" / "node-client"

pytestmark = [
    pytest.mark.skipif(shutil.which("npm") is None, reason="node and npm are not installed"),
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("node"),
]


def test_the_clients_own_tests_pass_in_a_clean_install(node_client: Path) -> None:
    result = subprocess.run(["npm", "test"], cwd=node_client, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_lockfile_names_no_registry() -> None:
    lock = (CLIENT / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert '"integrity"' in lock
