"""Verifiers that were not written here accept our exports, and refuse one flipped byte in what they read."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from counterseal.cli import main
from counterseal.ledger import tiles
from counterseal.ledger.note import VerifierKey
from counterseal.rpc.ledger_client import Appended
from counterseal_audit.tiles.config import HttpConfig, ReaderConfig
from counterseal_audit.tiles.http import TileServer
from support.audit import audit_server
from support.entries import changed as entry
from support.exports import KEY, ORIGIN, files_of, log_of, write
from support.postgres import Databases, off_loop
from support.requirements import requirement

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".venv-interop"
PYTHON = Path(os.environ.get("COUNTERSEAL_INTEROP_PYTHON") or HOME / "bin/python")
MODULES = Path(os.environ.get("COUNTERSEAL_INTEROP_NODE") or HOME / "node/node_modules")
DEMO = ROOT / "build" / "demo" / "ledger"
HERE = Path(__file__).parent


@pytest.fixture(params=["tlog_scales and sigstore", "sigstore_verify"])
def verifiers(request: pytest.FixtureRequest) -> list[str]:
    """The command line of one environment of foreign verifiers; skips where it is not installed."""
    if request.param != "sigstore_verify":
        if not PYTHON.exists():
            pytest.skip("no foreign verifiers in Python here; run: make interop")
        return [str(PYTHON), str(HERE / "foreign_verifiers.py")]
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: @sigstore/verify is not asked")
    if not (MODULES / "@sigstore" / "verify").exists():
        pytest.skip("no @sigstore/verify here; run: make interop (it needs npm)")
    return [node, str(HERE / "foreign_verifier.cjs"), str(MODULES)]


def verdicts(verifiers: list[str], directory: Path, indexes: list[int], vkey: str = KEY.vkey) -> dict[str, str]:
    argv = [*verifiers, str(directory), vkey, ",".join(map(str, indexes))]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=100)
    found: dict[str, str] = json.loads(done.stdout)
    assert found, "no verifier said anything"
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
@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 512, 600])
def test_exports_of_any_size_are_accepted(verifiers: list[str], tmp_path: Path, size: int) -> None:
    export = write(files_of(log_of(size)), tmp_path / "ledger")
    assert set(verdicts(verifiers, export, sample(size)).values()) == {"accepted"}


@pytest.mark.timeout(240)
def test_an_export_of_70000_entries_is_accepted(verifiers: list[str], tmp_path: Path) -> None:
    size = 70_000
    logged = log_of(1) + [b"entry %d" % n for n in range(1, size)]  # foreign tools do not read what is inside
    export = write(files_of(logged), tmp_path / "ledger")
    assert len(list((export / "tile" / "0").rglob("*"))) >= 274
    assert set(verdicts(verifiers, export, sample(size)).values()) == {"accepted"}


LARGE = 70_000


@pytest.fixture(scope="module")
def large(_databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a log of 70,000 entries, each written by a producer over gRPC and stored in PostgreSQL."""
    directory = tmp_path_factory.mktemp("large") / "ledger"

    async def make() -> None:
        async with audit_server(_databases.fresh("audit"), follow=False) as server, server.producer() as client:
            count = 1
            while count < LARGE:
                batches = [min(1000, LARGE - count - n * 1000) for n in range(4)]
                wanted = [[entry(stream="") for _ in range(size)] for size in batches if size > 0]
                for answers in await asyncio.gather(*(client.append(batch) for batch in wanted)):
                    assert all(isinstance(answer, Appended) for answer in answers)
                    count += len(answers)
            await server.export(directory, min_size=LARGE)

    off_loop(make)
    return directory


def ours(directory: Path) -> int:
    vkey = (directory / "vkey").read_text().strip()
    return main(["audit", "verify", "log", str(directory), "--vkey", vkey])


@requirement("ledger:foreign-verifiers")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_log_of_70000_entries_written_over_grpc_is_accepted_and_no_flipped_byte_in_it(
    verifiers: list[str], large: Path, tmp_path: Path
) -> None:
    vkey = (large / "vkey").read_text().removesuffix("\n")
    assert (large / "checkpoint").read_bytes().split(b"\n")[1] == b"%d" % LARGE
    assert len([path for path in (large / "tile" / "0").rglob("*") if path.is_file()]) == 274, "273 full ones, and 112"
    assert set(verdicts(verifiers, large, sample(LARGE), vkey).values()) == {"accepted"}
    assert ours(large) == 0
    index, bundle = 100 * 256 + 40, tiles.Tile(None, 100, 256)
    at_entry = tiles.bundle_offsets(tiles.parse_bundle(bundle, (large / bundle.path).read_bytes()))[40]
    for path, at in (
        ("checkpoint", 60),
        ("checkpoint", 150),
        (bundle.path, at_entry + 5),
        (tiles.Tile(0, 100, 256).path, 32 * 45 + 3),
        (tiles.Tile(1, 0, 256).path, 32 * 7 + 3),
    ):
        copy = tmp_path / f"{path.replace('/', '-')}-{at}"
        shutil.copytree(large, copy)
        data = bytearray((copy / path).read_bytes())
        data[at] ^= 1
        (copy / path).write_bytes(data)
        found = verdicts(verifiers, copy, [index], vkey)
        assert "accepted" not in found.values(), (path, at, found)
        assert ours(copy) == 4, (path, at)
        shutil.rmtree(copy)


@requirement("ledger:foreign-verifiers")
def test_one_flipped_byte_is_refused_by_every_tool_that_reads_it(verifiers: list[str], tmp_path: Path) -> None:
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
        found = verdicts(verifiers, copy, [index])
        assert "accepted" not in found.values(), (path, at, found)


@requirement("ledger:foreign-verifiers")
@pytest.mark.skipif(not (DEMO / "checkpoint").exists(), reason="no build/demo/ledger here; run: make demo")
def test_the_demos_ledger_is_accepted_and_refused_with_one_byte_flipped(verifiers: list[str], tmp_path: Path) -> None:
    ledger = Path(shutil.copytree(DEMO, tmp_path / "ledger"))  # a demo that runs meanwhile replaces its own
    vkey = (ledger / "vkey").read_text().removesuffix("\n")
    size = int((ledger / "checkpoint").read_text().split("\n")[1])
    assert set(verdicts(verifiers, ledger, sample(size), vkey).values()) == {"accepted"}
    bundle = ledger / tiles.Tile(None, 0, 256).path
    content = bytearray(bundle.read_bytes())
    content[tiles.bundle_offsets(tiles.parse_bundle(tiles.Tile(None, 0, 256), bytes(content)))[100] + 5] ^= 1
    bundle.write_bytes(content)
    assert "accepted" not in verdicts(verifiers, ledger, [100], vkey).values()


@requirement("ledger:foreign-verifiers")
def test_a_checkpoint_of_another_key_is_refused_by_every_tool(verifiers: list[str], tmp_path: Path) -> None:
    export = write(files_of(log_of(3)), tmp_path / "ledger")
    other = VerifierKey.make(KEY.name, bytes(SigningKey(b"\x08" * 32).verify_key))
    assert "accepted" not in verdicts(verifiers, export, [1], other.vkey).values()


@requirement("ledger:foreign-verifiers", "ledger:read-over-http")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_a_log_that_curl_fetched_over_http_is_accepted(verifiers: list[str], tmp_path: Path) -> None:
    size, name, token = 600, ORIGIN.rpartition("/")[2], "reader-" + "t" * 40
    write(files_of(log_of(size)), tmp_path / "export" / "acme" / name)
    (tmp_path / "tokens").write_text(f"sha256:{hashlib.sha256(token.encode()).hexdigest()}\n")
    config = HttpConfig(listen="127.0.0.1:0", readers={"acme": ReaderConfig(tmp_path / "tokens")})
    with ThreadPoolExecutor(2) as disk, ThreadPoolExecutor(1) as client:
        server = TileServer(config, tmp_path / "export", disk)
        runner = await server.start()
        try:
            base = f"http://127.0.0.1:{server.port}/{name}"
            await asyncio.get_running_loop().run_in_executor(client, mirror, base, token, tmp_path / "copy")
        finally:
            await runner.cleanup()
    assert set(verdicts(verifiers, tmp_path / "copy", sample(size)).values()) == {"accepted"}


def mirror(base: str, token: str, directory: Path) -> None:
    """Fetch what the checkpoint's size says that there is; nothing is listed and nothing guessed."""

    def fetch(path: str) -> None:
        target = ["--create-dirs", "--output", str(directory / path), f"{base}/{path}"]
        command = ["curl", "--fail", "--silent", "--compressed", "--header", f"Authorization: Bearer {token}", *target]
        subprocess.run(command, check=True, timeout=30)

    fetch("checkpoint")
    size = int((directory / "checkpoint").read_bytes().split(b"\n")[1])
    for tile in (*tiles.tiles_of(size), *tiles.bundles_of(size)):
        fetch(tile.path)
