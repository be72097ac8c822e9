"""The authorisation matrix on the running suite: every method of every service against every wrong caller.

Enumerated from the descriptors and held against what `counterseal rpc list --json` prints. Certificates come from the
suite's own authority and tokens are signed by its own key, so that what is refused is refused by the services' checks
and not by a broken signature. Nothing may change meanwhile, but for the ledger's own records of the refusals.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from counterseal.canonical import parse_canonical
from counterseal.clock import system_clock
from counterseal.rpc.interceptor import EXEMPT
from counterseal.rpc.method_table import AGENT, OPERATOR, PEOPLE, SERVICES
from support import bank
from support.certificates import Authority
from support.matrix import DOMAIN, ENVIRONMENT, METHODS, PATHS, Answer, Door, call, door, filled, served_by, spiffe
from support.requirements import requirement
from support.suite import Suite

Table = dict[str, tuple[tuple[str, ...], str]]

OWN_RECORDS = {"call.refused", "log.genesis", "log.heartbeat", "token.exchanged"}
"""What the ledger may take down while nothing happens."""

MAY_OMIT = {*SERVICES, OPERATOR}


@pytest_asyncio.fixture
async def gate(suite: Suite) -> AsyncIterator[Door]:
    async with door(suite) as opened:
        yield opened


@pytest.fixture(scope="module")
def table(suite: Suite) -> Table:
    """The method table as the command prints it: method -> (peers, token)."""
    printed = suite.command("rpc", "list", "--json")
    assert printed.returncode == 0
    rows = json.loads(printed.stdout)
    return {row["method"]: (tuple(row["peers"]), row["token"]) for row in rows if row["method"] not in EXEMPT}


@contextlib.asynccontextmanager
async def nothing_changes(suite: Suite) -> AsyncIterator[None]:
    """Compare all tables' row counts before and after; the ledger may record refusals and nothing else."""
    await suite.outboxes_drained()
    before, size = await _settled_counts(suite), await _ledger(suite)
    yield
    await suite.outboxes_drained()
    after = await _settled_counts(suite)
    assert {name: (before.get(name), count) for name, count in after.items() if before.get(name) != count} == {}
    entries = await suite.sql("counterseal_audit", "SELECT log_id, idx, entry FROM ledger_entry")
    fresh = [parse_canonical(bytes(row["entry"])) for row in entries if (row["log_id"], row["idx"]) not in size]
    assert {entry["type"] for entry in fresh} <= OWN_RECORDS


async def _settled_counts(suite: Suite) -> dict[str, int]:
    counts = await suite.row_counts()
    return {
        name: count
        for name, count in counts.items()
        if not name.startswith("counterseal_audit.") and not name.endswith((".outbox", ".signing_key"))
    }


async def _ledger(suite: Suite) -> set[tuple[int, int]]:
    rows = await suite.sql("counterseal_audit", "SELECT log_id, idx FROM ledger_entry")
    return {(row["log_id"], row["idx"]) for row in rows}


def clean(answer: Answer) -> bool:
    """Tell whether an answer shows nothing of the inside."""
    text = answer.text.lower()
    return not any(word in text for word in ("traceback", "exception", "postgres", "asyncpg", "select ", "password"))


@requirement("call:matrix", "call:table-complete")
async def test_the_running_services_serve_exactly_the_methods_that_the_command_prints(
    suite: Suite, table: Table, gate: Door
) -> None:
    assert table.keys() == METHODS.keys()
    for service in suite.running.addresses:
        channel = await gate.channel(service, spiffe("operator"))
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [item async for item in stub.ServerReflectionInfo(iter([asked]), timeout=10)]
        served = {item.name for item in answers[0].list_services_response.service}
        listed = {method.split("/")[1] for method in table if served_by(method) == service}
        assert {name for name in served if name.startswith("counterseal.")} == listed


@requirement("call:matrix")
async def test_no_certificate_or_one_of_another_authority_reaches_no_method(
    suite: Suite, table: Table, gate: Door
) -> None:
    stranger = Authority.create("not the suite's")
    async with nothing_changes(suite):
        for service in suite.running.addresses:
            ca_pem = (await gate.identity(spiffe("operator"))).ca_pem
            bare = gate.without_certificate(service, ca_pem)
            forged = stranger.issue(uris=[spiffe("svc/policy")], dns=[f"policy.{ENVIRONMENT}.internal"])
            foreign = gate.open(service, type(forged)(forged.cert_pem, forged.key_pem, ca_pem))
            for channel in (bare, foreign):
                mine = [method for method in table if served_by(method) == service]
                answers = await asyncio.gather(*(call(channel, method) for method in mine))
                assert {(answer.code, answer.reason) for answer in answers} == {("UNAVAILABLE", "")}, service
                await channel.close(None)


@requirement("call:matrix")
async def test_every_method_refuses_every_peer_kind_that_is_not_listed(suite: Suite, table: Table, gate: Door) -> None:
    async with nothing_changes(suite):
        for method, (peers, _) in table.items():
            for peer in PATHS.keys() - set(peers):
                answer = await gate.call(method, peer, await gate.token(peer))
                assert (answer.code, answer.reason) == ("PERMISSION_DENIED", "PEER_NOT_ALLOWED"), (method, peer)
                assert clean(answer), answer


@requirement("call:matrix")
async def test_every_method_refuses_certificates_of_another_environment_or_of_nobody(
    suite: Suite, table: Table, gate: Door
) -> None:
    async with nothing_changes(suite):
        for method, (peers, _) in table.items():
            peer = peers[0]
            good = spiffe(PATHS[peer])
            wrong = {
                "another environment": (spiffe(PATHS[peer], environment="staging"),),
                "another trust domain": (spiffe(PATHS[peer], domain="evil.example"),),
                "two names": (good, spiffe("svc/executor") if good != spiffe("svc/executor") else spiffe("cli")),
                "a name of no workload": (f"https://{DOMAIN}/{ENVIRONMENT}/operator",),
            }
            for what, uris in wrong.items():
                answer = await gate.call(method, peer, await gate.token(peer), uris=uris)
                assert (answer.code, answer.reason) == ("PERMISSION_DENIED", "PEER_NOT_ALLOWED"), (method, what)
                assert clean(answer), answer


@requirement("call:matrix")
async def test_every_method_that_reads_a_token_refuses_every_bad_one(suite: Suite, table: Table, gate: Door) -> None:
    now = system_clock() // 1000
    other_workload = {AGENT: spiffe(f"agent/{bank.SECOND_AGENT}"), "cli": spiffe("console"), "console": spiffe("cli")}
    async with nothing_changes(suite):
        for peer in PATHS:
            methods = [name for name, (peers, token) in table.items() if peer in peers and token != "none"]
            if not methods:
                continue
            good = await gate.token(peer)
            bad = {
                "garbage": ("not-a-token",),
                "two tokens": (good, good),
                "one changed byte": (good[:-1] + ("A" if good[-1] != "A" else "B"),),
                "forged": (await gate.token(peer, sign_with="forger"),),
                "signed by another of the suite's keys": (await gate.token(peer, sign_with="decision"),),
                "another key's name": (await gate.token(peer, sign_with="decision", kid=f"decision-{ENVIRONMENT}:1"),),
                "unknown key": (await gate.token(peer, kid=f"ctx-{ENVIRONMENT}:99"),),
                "expired": (await gate.token(peer, issue_time=now - 290, expire_time=now - 1),),
                "not yet": (await gate.token(peer, issue_time=now + 60, expire_time=now + 120),),
                "too long a life": (await gate.token(peer, expire_time=now + 3600),),
                "another audience": (await gate.token(peer, audience=f"{DOMAIN}/staging"),),
            }
            if peer in other_workload:
                bad["issued to another workload"] = (await gate.token(peer, requester=other_workload[peer]),)
            staging = await gate.token(peer, environment="staging")
            for method in methods:
                cases = dict(bad)
                if not (table[method][1] == "optional" and peer in MAY_OMIT):
                    cases["no token"] = ()
                for what, tokens in cases.items():
                    answer = await gate.call(method, peer, *tokens)
                    assert (answer.code, answer.reason) == ("UNAUTHENTICATED", "TOKEN_INVALID"), (method, peer, what)
                    assert clean(answer), answer
                    assert not any(token and token in answer.text for token in tokens), (method, what)
                answer = await gate.call(method, peer, staging)
                assert answer.reason == "ENVIRONMENT_MISMATCH", (method, peer)


@requirement("call:matrix", "tenant:isolated")
async def test_a_request_that_names_another_tenant_or_environment_than_its_token_is_refused(
    suite: Suite, table: Table, gate: Door
) -> None:
    async with nothing_changes(suite):
        for method, (peers, token) in table.items():
            fields = METHODS[method].input_type.fields_by_name
            for peer in peers:
                if token == "none":
                    continue
                good = await gate.token(peer)
                if "tenant" in fields:
                    foreign = filled(method, {"tenant": bank.OTHER_TENANT})
                    answer = await gate.call(method, peer, good, request=foreign)
                    assert answer.reason == "CONTEXT_MISMATCH", (method, peer)
                if "environment" in fields:
                    foreign = filled(method, {"environment": "staging"})
                    answer = await gate.call(method, peer, good, request=foreign)
                    assert answer.reason == "ENVIRONMENT_MISMATCH", (method, peer)


@requirement("call:matrix")
async def test_an_exchange_for_a_tenant_that_the_workload_does_not_serve_is_refused(suite: Suite, gate: Door) -> None:
    async with suite.agent(tenant=bank.OTHER_TENANT) as request, nothing_changes(suite):
        with pytest.raises(Exception, match="not registered for this tenant") as caught:
            await request.get("01890000-0000-7000-8000-000000000000")
    assert getattr(caught.value, "reason", "") == "PEER_NOT_ALLOWED"


def test_every_kind_of_peer_in_the_table_is_tried(table: Table) -> None:
    assert {peer for peers, _ in table.values() for peer in peers} == PATHS.keys()
    assert set(PEOPLE) <= PATHS.keys()
