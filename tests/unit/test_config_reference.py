"""The configuration's page is made from what reads it, and every service's example passes its own check."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("config_reference", ROOT / "tools" / "config_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_the_one_that_the_dataclasses_make() -> None:
    module = generator()
    assert module.FILE.read_text(encoding="utf-8") == module.page()


@pytest.mark.parametrize("service", ["policy", "credentials", "audit", "executor"])
def test_the_example_configuration_of_a_service_passes_its_check(service: str) -> None:
    example = ROOT / "services" / service / "config.example.toml"
    script = Path(sys.executable).with_name(f"counterseal-{service}")
    done = subprocess.run([script, "--check-config", "--config", example], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
