"""A service's life as a process, on real PostgreSQL and OpenBao: starts, proves its identity, drains, fails loudly."""

import asyncio
import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from counterseal.rpc.tls import Identity, RenewingChannel, open_channel, server_name
from support.openbao import Provisioned
from support.postgres import FreshDatabase

SCRIPT = Path(__file__).with_name("runtime_service.py")


@pytest.fixture
def config(provisioned: Provisioned, fresh_database: FreshDatabase, tmp_path: Path) -> Path:
    database = fresh_database(None)
    cluster, server = provisioned.cluster, provisioned.server
    path = tmp_path / "policy.toml"
    path.write_text(
        f"""
[common]
environment = "{provisioned.settings.environment}"
trust_domain = "{provisioned.settings.trust_domain}"
[server]
listen = "127.0.0.1:0"
drain_seconds = 1
[vault]
address = "{server.address}"
ca_file = "{server.ca_file}"
role_id_file = "{provisioned.secrets / "policy" / "role-id"}"
secret_id_file = "{provisioned.secrets / "policy" / "secret-id"}"
[database]
host = "{cluster.host}"
port = {cluster.port}
name = "{database.name}"
[peers]
audit = "127.0.0.1:1"
"""
    )
    return path


async def start(config: Path, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        "--config",
        str(config),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", **environ},
    )


async def until_serving(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    lines = []
    while line := await asyncio.wait_for(process.stderr.readline(), 30):
        lines.append(line.decode())
        record: dict[str, Any] = json.loads(line)
        if record["message"] == "serving":
            return int(record["port"])
    raise AssertionError("".join(lines))


async def issue(provisioned: Provisioned, role: str, path: str) -> Identity:
    vault = await provisioned.operator()
    try:
        made = await vault.issue_certificate("pki/prod", role, "", provisioned.settings.spiffe_id(path), "1h")
        return Identity(made.cert_pem.encode(), made.key_pem.encode(), made.ca_pem.encode())
    finally:
        vault.close()


async def test_a_service_starts_with_its_own_identity_and_ends_on_sigterm(
    config: Path, provisioned: Provisioned
) -> None:
    process = await start(config)
    port = await until_serving(process)
    assert process.stdout is not None
    said = (await process.stdout.readline()).decode()
    assert said == "database=counterseal_policy signature=64 kid=decision-prod:1 own={}\n"

    identity = await issue(provisioned, "cli", "cli")
    async with open_channel(f"127.0.0.1:{port}", identity, server_name("policy", "prod")) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        process.send_signal(signal.SIGUSR1)  # this service says that it is unfit: it runs, and tells balancers to go
        async with asyncio.timeout(10):
            while answer.status == health_pb2.HealthCheckResponse.SERVING:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        counts = re.fullmatch(rb"kept=(\d+) looked at=(\d+)\n", await process.stdout.readline())
        assert counts is not None
        assert int(counts[1]) > 20 * int(counts[2]), "what was loaded before it served is left out of collections"
    async with open_channel(f"127.0.0.1:{port}", identity, server_name("audit", "prod")) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)

    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_background_work_that_crashes_ends_the_process_without_saying_why_in_full(config: Path) -> None:
    process = await start(config, COUNTERSEAL_POLICY__CRASH="true")
    _, log = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert b"background work failed" in log
    assert b"RuntimeError" in log
    assert b"hunter2" not in log


async def test_every_problem_of_the_configuration_is_named_and_nothing_starts(config: Path) -> None:
    text = config.read_text().replace("drain_seconds", "drian_seconds").replace("[peers]", "[peers]\nbilling = 'x'")
    config.write_text(re.sub(r"port = \d+", 'port = "x"', text) + "[extra]\n")
    process = await start(config, "--check-config")
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert [line.split(": ", 1)[1] for line in errors.decode().splitlines()] == [
        "extra: unknown section",
        "server.drian_seconds: unknown key",
        "database.port: expected int, got str",
        "peers.billing: unknown service",
    ]


async def test_a_good_configuration_passes_its_check(config: Path) -> None:
    process = await start(config, "--check-config")
    assert (await process.communicate(), process.returncode) == ((b"", b""), 0)


async def test_a_wrong_secret_id_ends_the_start_and_is_not_logged(config: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("00000000-planted-secret-id")
    process = await start(config, COUNTERSEAL_VAULT__SECRET_ID_FILE=str(wrong))
    _, log = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert b"VaultRefused" in log
    assert b"planted-secret-id" not in log


async def test_stubs_made_before_a_renewal_use_the_new_certificate(config: Path, provisioned: Provisioned) -> None:
    process = await start(config)
    port = await until_serving(process)
    identity = await issue(provisioned, "cli", "cli")
    opened = []

    def open_now() -> grpc.aio.Channel:
        opened.append(identity)
        return open_channel(f"127.0.0.1:{port}", identity, server_name("policy", "prod"))

    channel = RenewingChannel(open_now)
    stub = health_pb2_grpc.HealthStub(channel)
    await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
    old = stub.Watch(health_pb2.HealthCheckRequest())
    await anext(aiter(old))
    identity = await issue(provisioned, "operator", "operator")
    channel.renew()
    await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert opened[-1] is identity
    assert not old.done()  # what was under way goes on
    await channel.close()
    process.terminate()
    await process.wait()
