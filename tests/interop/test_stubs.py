"""`make stubs`: every method of the contract arrives in every language, from the protos and nothing else.

Compiling takes the languages' own packages from their registries and most of a minute: COUNTERSEAL_COMPILE_STUBS=1.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from counterseal.rpc.method_table import METHODS
from support.requirements import requirement

ROOT = Path(__file__).resolve().parents[2]
GENERATOR = ROOT / "tools" / "stubs" / "generate.py"
BUF = Path(sysconfig.get_path("scripts")) / "buf"
OURS = sorted(name for name in METHODS if name.startswith("/counterseal."))

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("stubs")]


def _generate(out: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path} if path is not None else None
    command = [sys.executable, str(GENERATOR), "--buf", str(BUF), "--out", str(out), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=580, env=environment)


@requirement("contract:polyglot-stubs")
@pytest.mark.slow
@pytest.mark.parametrize("language", ["ts", "go", "java"])
def test_every_method_of_the_contract_is_in_the_stubs(language: str, tmp_path: Path) -> None:
    compile_too = ["--compile"] if os.environ.get("COUNTERSEAL_COMPILE_STUBS") else []
    result = _generate(tmp_path, *compile_too, language)
    assert result.returncode == 0, result.stdout + result.stderr
    if f"{language}: skipped" in result.stdout:
        pytest.skip(result.stdout.strip().splitlines()[-1])
    sources = [path for path in (tmp_path / language).rglob("*") if path.suffix in {".ts", ".go", ".java"}]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    for method in OURS:
        service, name = method[1:].split("/")
        # Java builds the full name from two constants, the others spell it out.
        assert method in text or (f'"{service}"' in text and f'"{name}"' in text), method


def test_the_descriptor_set_describes_every_service_with_its_comments(tmp_path: Path) -> None:
    assert _generate(tmp_path, "go", path="/nonexistent").returncode == 0
    files = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "descriptor.binpb").read_bytes())
    methods = {
        f"/{file.package}.{service.name}/{method.name}"
        for file in files.file
        for service in file.service
        for method in service.method
    }
    assert sorted(methods) == OURS
    assert any(location.leading_comments for file in files.file for location in file.source_code_info.location)


def test_a_language_without_its_toolchain_is_skipped_with_a_reason(tmp_path: Path) -> None:
    result = _generate(tmp_path, path="/nonexistent")
    assert result.returncode == 0
    for language, program in (("ts", "node"), ("go", "go"), ("java", "java")):
        assert f"{language}: skipped, not found on this machine: {program}" in result.stdout
        assert not (tmp_path / language).exists()
