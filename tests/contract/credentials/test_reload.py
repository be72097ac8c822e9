"""SIGHUP: registrations change while the service runs, as a process on real PostgreSQL and OpenBao."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from counterseal.api.credentials.v1 import token_pb2, token_pb2_grpc
from counterseal.rpc.status import from_rpc_error
from counterseal.rpc.tls import Identity, open_channel, server_name
from support.openbao import Provisioned
from support.postgres import FreshDatabase

BOT = "spiffe://{domain}/prod/agent/refund-bot"


def text_of(provisioned: Provisioned, database: str, *, enabled: str) -> str:
    cluster, server, settings = provisioned.cluster, provisioned.server, provisioned.settings
    return f"""
[common]
environment = "{settings.environment}"
trust_domain = "{settings.trust_domain}"
[server]
listen = "127.0.0.1:0"
drain_seconds = 1
[vault]
address = "{server.address}"
ca_file = "{server.ca_file}"
role_id_file = "{provisioned.secrets / "credentials" / "role-id"}"
secret_id_file = "{provisioned.secrets / "credentials" / "secret-id"}"
[database]
host = "{cluster.host}"
port = {cluster.port}
name = "{database}"
[peers]
audit = "127.0.0.1:1"
policy = "127.0.0.1:1"
[credentials]
vault_address = "{server.address}"
tenants = ["acme"]
[credentials.issuers.main]
issuer = "https://login.example.org"
audience = "counterseal"
jwks_url = "https://127.0.0.1:1/jwks"
primary = true
[credentials.workloads.refund-bot]
spiffe_id = "{BOT.format(domain=settings.trust_domain)}"
kind = "agent"
agent = "refund-bot"
owner = "user:olga"
versions = ["3.2.1"]
tenants = ["acme"]
scopes = ["plan.propose"]
enabled = {enabled}
"""


class Running:
    """The process, its log as it comes, and the agent's channel to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.exchange: Callable[[], Awaitable[str]]

    async def line(self, message: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        seen = []
        while line := await asyncio.wait_for(self.process.stderr.readline(), 60):
            seen.append(line.decode())
            record: dict[str, Any] = json.loads(line)
            if record["message"] == message:
                return record
        raise AssertionError("".join(seen))

    async def hang_up(self, message: str) -> dict[str, Any]:
        self.process.send_signal(signal.SIGHUP)
        return await self.line(message)


@pytest.fixture
def config(provisioned: Provisioned, fresh_database: FreshDatabase, tmp_path: Path) -> Callable[..., Path]:
    database, path = fresh_database("credentials"), tmp_path / "credentials.toml"

    def write(enabled: str = "true") -> Path:
        path.write_text(text_of(provisioned, database.name, enabled=enabled))
        return path

    return write


@pytest_asyncio.fixture
async def running(provisioned: Provisioned, config: Callable[..., Path]) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("counterseal-credentials")),
        "--config",
        str(config()),
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )
    made = Running(process)
    try:
        port = (await made.line("serving"))["port"]
        vault = await provisioned.operator()
        bot = provisioned.settings.spiffe_id("agent/refund-bot")
        issued = await vault.issue_certificate("pki/prod", "agent-refund-bot", "", bot, "1h")
        vault.close()
        identity = Identity(issued.cert_pem.encode(), issued.key_pem.encode(), issued.ca_pem.encode())
        async with open_channel(f"127.0.0.1:{port}", identity, server_name("credentials", "prod")) as channel:
            stub = token_pb2_grpc.TokenServiceStub(channel)

            async def exchange() -> str:
                """The reason for which a worthless login is refused: it is looked at for a registered workload only."""
                request = token_pb2.ExchangeTokenRequest(tenant="acme", oidc_jwt="a.b.c", agent_version="3.2.1")
                try:
                    await stub.ExchangeToken(request, timeout=20)
                except grpc.aio.AioRpcError as error:
                    return from_rpc_error(error, peer="credentials").reason
                return "taken"

            made.exchange = exchange
            yield made
    finally:
        process.terminate()
        await asyncio.wait_for(process.communicate(), 30)


async def test_a_workload_disabled_by_sighup_is_refused_at_once_and_a_bad_file_changes_nothing(
    running: Running, config: Callable[..., Path]
) -> None:
    assert await running.exchange() == "TOKEN_INVALID"
    config("false")
    reloaded = await running.hang_up("the registrations were reloaded")
    assert (reloaded["enabled"], reloaded["needs_restart"]) == (0, "")
    assert await running.exchange() == "PEER_NOT_ALLOWED"

    config('"perhaps"')
    kept = await running.hang_up("the registrations were not reloaded, the old ones stay")
    assert kept["problems"] == "credentials.workloads.refund-bot.enabled: expected bool, got str"
    assert await running.exchange() == "PEER_NOT_ALLOWED"

    path = config("true")
    path.write_text(path.read_text().replace('tenants = ["acme"]\n[', 'tenants = ["acme"]\nagent_limit = 3\n[', 1))
    reloaded = await running.hang_up("the registrations were reloaded")
    assert (reloaded["enabled"], reloaded["needs_restart"]) == (1, "agent_limit")
    assert await running.exchange() == "TOKEN_INVALID"
    assert running.process.returncode is None
