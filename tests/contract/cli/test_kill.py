"""`counterseal kill` tells executor and credentials itself when policy is silent, and says what it could not do."""
# ruff: noqa: N802 (the names are the methods of the protos)

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from counterseal.api.common.v1.containment_pb2 import ContainmentState
from counterseal.api.credentials.v1 import grant_admin_pb2, grant_admin_pb2_grpc, token_pb2, token_pb2_grpc
from counterseal.api.executor.v1 import operator_pb2, operator_pb2_grpc
from counterseal.cli import main
from counterseal.clock import system_clock
from counterseal.errors import InputInvalid, TokenInvalid
from counterseal.rpc.interceptor import Interceptor
from counterseal.rpc.method_table import METHODS
from counterseal.rpc.server import Registration, Server, ServerConfig
from counterseal.rpc.tls import ServerIdentity, server_name
from counterseal.rpc.txn_token import TokenClaims
from support.certificates import Authority
from support.shapes import DOMAIN, ENVIRONMENT, spiffe

NOW = Timestamp(seconds=1_795_330_000)


class Executor(operator_pb2_grpc.OperatorServiceServicer):
    """Stops whatever it is told to."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, str]] = []

    async def HaltScope(self, request: Any, context: Any) -> Any:
        if request.scope.startswith("nonsense"):
            raise InputInvalid("not a scope")
        self.told.append((request.scope, request.epoch, request.reason_code))
        state = ContainmentState(scope=request.scope, epoch=4, stopped=True)
        return operator_pb2.HaltScopeResponse(state=state, stopped_time=NOW, quiesced_time=NOW)

    async def GetBarrier(self, request: Any, context: Any) -> Any:
        return operator_pb2.GetBarrierResponse()

    async def ResumePlan(self, request: Any, context: Any) -> Any:
        return operator_pb2.ResumePlanResponse()

    async def ListInDoubt(self, request: Any, context: Any) -> Any:
        return operator_pb2.ListInDoubtResponse()

    async def ResolveStep(self, request: Any, context: Any) -> Any:
        return operator_pb2.ResolveStepResponse()


class Credentials(grant_admin_pb2_grpc.GrantAdminServiceServicer):
    """Has three credentials in every scope."""

    async def RevokeScope(self, request: Any, context: Any) -> Any:
        state = ContainmentState(scope=request.scope, epoch=5, stopped=True)
        return grant_admin_pb2.RevokeScopeResponse(state=state, credential_count=3, revoked_count=3, revoked_time=NOW)

    async def GetBarrier(self, request: Any, context: Any) -> Any:
        return grant_admin_pb2.GetBarrierResponse()

    async def ListGrants(self, request: Any, context: Any) -> Any:
        return grant_admin_pb2.ListGrantsResponse()


class Tokens(token_pb2_grpc.TokenServiceServicer):
    """Takes every person's token."""

    async def ExchangeToken(self, request: Any, context: Any) -> Any:
        return token_pb2.ExchangeTokenResponse(txn_token="t", expire_time=Timestamp(seconds=NOW.seconds * 2))

    async def GetKeys(self, request: Any, context: Any) -> Any:
        return token_pb2.GetKeysResponse()


@dataclass
class World:
    executor: Executor
    servers: dict[str, Server]
    profile: Path
    person: Path

    async def kill(self, *argv: str) -> int:
        arguments = ["kill", "--profile", str(self.profile), "--json", "--seconds", "5", *argv]
        return await asyncio.get_running_loop().run_in_executor(None, main, arguments)


def profile_of(authority: Authority, kind: str, folder: Path, servers: dict[str, Server]) -> Path:
    """Write the profile of a peer kind; nobody listens where policy and audit should be."""
    mine = authority.issue(uris=[spiffe(kind)])
    folder.mkdir()
    for file, text in (("cert.pem", mine.cert_pem), ("key.pem", mine.key_pem), ("ca.pem", mine.ca_pem)):
        (folder / file).write_bytes(text)
    profile = folder / "profile.toml"
    profile.write_text(
        f'environment = "{ENVIRONMENT}"\ntrust_domain = "{DOMAIN}"\nspiffe_id = "{spiffe(kind)}"\n'
        'tenant = "acme"\nclient_id = "x"\ncert_file = "cert.pem"\nkey_file = "key.pem"\nca_file = "ca.pem"\n'
        '[services]\npolicy = "127.0.0.1:1"\naudit = "127.0.0.1:1"\n'
        f'executor = "127.0.0.1:{servers["executor"].port}"\n'
        f'credentials = "127.0.0.1:{servers["credentials"].port}"\n'
    )
    return profile


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    authority, executor = Authority.create("kill"), Executor()

    async def nobody(token: str) -> TokenClaims:
        raise TokenInvalid

    add_operator = operator_pb2_grpc.add_OperatorServiceServicer_to_server
    add_grants = grant_admin_pb2_grpc.add_GrantAdminServiceServicer_to_server
    add_tokens = token_pb2_grpc.add_TokenServiceServicer_to_server
    offered: dict[str, list[Registration]] = {
        "executor": [(add_operator, executor)],
        "credentials": [(add_grants, Credentials()), (add_tokens, Tokens())],
    }
    servers = {}
    for name, registrations in offered.items():
        own = authority.issue(uris=[spiffe(f"svc/{name}")], dns=[server_name(name, ENVIRONMENT)])
        interceptor = Interceptor(DOMAIN, ENVIRONMENT, nobody, system_clock)
        config = ServerConfig(listen="127.0.0.1:0", drain_seconds=1)
        servers[name] = Server(config, interceptor, ServerIdentity(own).credentials(), registrations, METHODS)
        await servers[name].start()
    profiles = {kind: profile_of(authority, kind, tmp_path / kind, servers) for kind in ("operator", "cli")}
    yield World(executor, servers, profiles["operator"], profiles["cli"])
    for server in servers.values():
        await server.stop(asyncio.Event())


async def test_without_policy_both_barriers_are_told_directly(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert await world.kill("--all-of-tenant") == 0
    said = json.loads(capsys.readouterr().out)
    assert world.executor.told == [("tenant:acme", 0, "OPERATOR_STOP")]
    assert (said["scope"], said["epoch"], said["policy"]) == ("tenant:acme", 5, False)
    assert (said["revoked_count"], said["credential_count"]) == (3, 3)
    assert "not yet" not in (said["stopped"], said["revoked"], said["quiesced"])


@pytest.mark.parametrize(
    ("argv", "scope"),
    [
        (["--environment"], "environment:prod"),
        (["--agent", "refund-bot"], "agent:acme/refund-bot"),
        (["--tool", "shop.refund"], "tool:acme/shop.refund"),
        (["--request", "r-1"], "request:acme/r-1"),
        (["--plan", "sha256:ab"], "plan:sha256:ab"),
        (["--scope", "tenant:globex"], "tenant:globex"),
    ],
)
async def test_each_scope_has_its_option(world: World, argv: list[str], scope: str) -> None:
    assert await world.kill(*argv) == 0
    assert world.executor.told[0][0] == scope


async def test_one_that_is_away_is_named_and_the_exit_code_says_incomplete(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.servers["credentials"].stop(asyncio.Event())
    assert await world.kill("--all-of-tenant") == 3
    said = json.loads(capsys.readouterr().out)
    assert said["stopped"] != "not yet"
    assert said["revoked"] == "not yet"
    assert any(problem.startswith("credentials: CREDENTIALS_UNAVAILABLE") for problem in said["problems"])


async def test_a_stopped_executor_is_named_with_what_to_do_next(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.servers["executor"].stop(asyncio.Event())
    assert await world.kill("--all-of-tenant") == 3
    said = json.loads(capsys.readouterr().out)
    assert said["stopped"] == "not yet"
    assert said["revoked"] != "not yet"
    (problem,) = [text for text in said["problems"] if text.startswith("executor: ")]
    assert problem.startswith("executor: EXECUTOR_UNAVAILABLE: The executor did not answer")
    assert problem.endswith("(next: RETRY)")


async def test_when_nobody_answers_the_exit_code_is_unavailable(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for server in world.servers.values():
        await server.stop(asyncio.Event())
    assert await world.kill("--all-of-tenant") == 8
    said = capsys.readouterr().err
    assert said.startswith("EXECUTOR_UNAVAILABLE: The executor did not answer")
    assert said.endswith("(next: RETRY)\n")


async def test_a_plan_command_says_that_the_executor_is_away_and_what_to_do(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.servers["executor"].stop(asyncio.Event())
    logins = tmp_path / "sessions" / "cli"
    logins.mkdir(parents=True)
    (logins / "ana.jwt").write_text("a person's token")
    argv = ["plan", "list", "--home", str(tmp_path), "--profile", str(world.person), "--user", "ana"]
    assert await asyncio.get_running_loop().run_in_executor(None, main, argv) == 8
    said = capsys.readouterr().err
    assert said.startswith("EXECUTOR_UNAVAILABLE: The executor did not answer")
    assert said.endswith("(next: RETRY)\n")
