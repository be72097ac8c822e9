"""`python -m bench --quick`: a scenario runs on real servers, and leaves its JSON and its table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_the_interceptors_scenario_runs_and_writes_its_results(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--out", str(tmp_path), "interceptor"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "interceptor.json").read_text())
    assert [figure["goal"] for figure in document["figures"]] == [0.8, 0.8]
    assert all(one["calls"] > 0 for item in document["comparisons"] for one in item["floor"] + item["subject"])
    assert "interceptor against none, 64 callers" in (tmp_path / "table.md").read_text()
