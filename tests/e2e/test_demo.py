"""`counterseal demo` on a fresh directory: seven scenes hold, and what it leaves is what the README says."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from counterseal.cli import main
from support.postgres import open_directory
from support.requirements import requirement

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]
COUNTERSEAL = Path(sys.executable).with_name("counterseal")


async def demo(home: Path, *argv: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        COUNTERSEAL,
        "demo",
        "--home",
        str(home),
        *argv,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COUNTERSEAL_HOME": ""},
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@requirement("run:demo")
async def test_seven_scenes_hold_cold_and_warm_and_the_ledger_left_behind_verifies(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_directory("counterseal-demo-") as home:
        for _ in ("cold", "warm"):
            code, out, err = await demo(home / "demo")
            assert code == 0, out + err
            assert re.findall(r"^\[(\d)/7\] .* \.\.\. ok", out, re.MULTILINE) == list("1234567")
            assert "Traceback" not in out + err
        ledger = home / "demo" / "ledger"
        assert {path.name for path in ledger.iterdir()} == {"checkpoint", "vkey", "tile"}
        assert (ledger / "vkey").read_text().count("\n") == 1
        assert main(["audit", "verify", str(ledger), "--vkey", str(ledger / "vkey")]) == 0
        capsys.readouterr()
