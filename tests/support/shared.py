"""Where the public test vectors and the retail data are, when they are at hand; the project itself never needs them."""

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


def shared_path(relative: str) -> Path:
    """Return a file of the shared folder, or skip the test with a message that says what is missing."""
    base = Path(os.environ.get("COUNTERSEAL_SHARED") or _ROOT.parent / "shared")
    path = base / relative
    if not path.exists():
        pytest.skip(f"{relative} is not here; set COUNTERSEAL_SHARED to the folder that holds it")
    return path
