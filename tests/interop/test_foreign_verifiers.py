"""Verifiers that were not written here accept our exports, and refuse one flipped byte in what they read."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from counterseal.ledger import tiles
from support.exports import KEY, files_of, log_of, write
from support.requirements import requirement

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("COUNTERSEAL_INTEROP_PYTHON") or ROOT / ".venv-interop/bin/python")
SCRIPT = Path(__file__).with_name("foreign_verifiers.py")

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no foreign verifiers here; run: make interop")


def verdicts(directory: Path, indexes: list[int]) -> dict[str, str]:
    argv = [str(PYTHON), str(SCRIPT), str(directory), KEY.vkey, ",".join(map(str, indexes))]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=100)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def sample(size: int) -> list[int]:
    return sorted(
        {
            i
            for i in (0, 1, 2, 254, 255, 256, 257, 511, 512, 65_535, 65_536, size // 2, size - 2, size - 1)
            if 0 <= i < size
        }
    )


@requirement("ledger:foreign-verifiers")
@requirement("ledger:foreign-verifiers")
@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 512, 600])
def test_exports_of_any_size_are_accepted(tmp_path: Path, size: int) -> None:
    export = write(files_of(log_of(size)), tmp_path / "ledger")
    assert set(verdicts(export, sample(size)).values()) == {"accepted"}


@pytest.mark.timeout(240)
def test_an_export_of_70000_entries_is_accepted(tmp_path: Path) -> None:
    size = 70_000
    logged = log_of(1) + [b"entry %d" % n for n in range(1, size)]  # foreign tools do not read what is inside
    export = write(files_of(logged), tmp_path / "ledger")
    assert len(list((export / "tile" / "0").rglob("*"))) >= 274
    assert set(verdicts(export, sample(size)).values()) == {"accepted"}


@requirement("ledger:foreign-verifiers")
@requirement("ledger:foreign-verifiers")
def test_one_flipped_byte_is_refused_by_every_tool_that_reads_it(tmp_path: Path) -> None:
    size, index = 600, 300
    files = files_of(log_of(size))
    bundle, tile = tiles.Tile(None, 1, 256).path, tiles.Tile(0, 1, 256).path
    good = write(files, tmp_path / "good")
    at_entry = tiles.bundle_offsets(tiles.parse_bundle(tiles.Tile(None, 1, 256), files[bundle]))[index - 256]
    for path, at in (("checkpoint", 40), ("checkpoint", 150), (bundle, at_entry + 5), (tile, 32 * 45 + 3)):
        copy = tmp_path / f"{Path(path).name}-{at}"
        shutil.copytree(good, copy)
        data = bytearray((copy / path).read_bytes())
        data[at] ^= 1
        (copy / path).write_bytes(data)
        found = verdicts(copy, [index])
        assert "accepted" not in found.values(), (path, at, found)
