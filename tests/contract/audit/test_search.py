"""Search, traces and reindexing over the wire, on a log of recorded incidents."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc
from counterseal.canonical import parse_strict
from counterseal.cli.explain import from_answer
from counterseal.cli.story import SECTIONS
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import leaf_hash, verify_inclusion
from counterseal.rpc.status import from_rpc_error
from counterseal_audit.reader import search
from support import incidents
from support.audit import AuditServer, append, audit_server
from support.entries import changed, received
from support.postgres import FreshDatabase
from support.requirements import requirement


@asynccontextmanager
async def recorded(fresh_database: FreshDatabase, *, follow: bool = True) -> AsyncIterator[AuditServer]:
    """A server whose log of acme holds the recorded incidents, signed; indexed too, where followed."""
    async with audit_server(fresh_database("audit"), publish=False, follow=False) as server:
        for producer, group in itertools.groupby(incidents.requests(), key=lambda pair: pair[0]):
            await append(server.parts, [entry for _, entry in group], producer)
        await append(server.parts, [changed(tenant="globex"), received(tenant="globex")])
        await server.parts.publisher.publish_once()
        while follow and await server.parts.follower.step():
            pass
        yield server


async def call(server: AuditServer, method: str, request: Any, **claims: Any) -> Any:
    async with server.channel("cli") as channel:
        stub = reader_pb2_grpc.LedgerReaderServiceStub(channel)
        return await getattr(stub, method)(request, metadata=(("txn-token", server.token(**claims)),), timeout=60)


async def reason(server: AuditServer, method: str, request: Any, **claims: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(server, method, request, **claims)
    return from_rpc_error(caught.value).reason


async def found(server: AuditServer, **filters: Any) -> list[dict[str, Any]]:
    """Every entry that the filters mean, by pages of 50."""
    entries: list[dict[str, Any]] = []
    page = ""
    while True:
        request = reader_pb2.SearchEntriesRequest(page_size=50, page_token=page, **filters)
        answer = await call(server, "SearchEntries", request)
        entries += [parse_strict(entry.entry) for entry in answer.entries]
        assert (answer.indexed_size, answer.size) == (524, 524)
        page = answer.next_page_token
        if not page:
            return entries


@requirement("ledger:search-complete")
@pytest.mark.parametrize("follow", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_every_filter_finds_exactly_what_the_log_says(fresh_database: FreshDatabase, follow: bool) -> None:
    async with recorded(fresh_database, follow=follow) as server:
        log = [parse_strict(row.entry) for row in await server.parts.reader.page(1, 0, 1000)]
        plan, request = incidents.plans()[3], log[30]["request_id"]
        cut = log[200]["event_time_ms"]
        since = Timestamp()
        since.FromMilliseconds(cut)
        tools = [one for one in log if one["type"] in ("step.intent", "plan.proposed")]
        for filters, wanted in (
            ({"types": ["step.intent", "step.outcome"]}, lambda one: one["type"] in ("step.intent", "step.outcome")),
            ({"plan_digest": plan}, lambda one: one.get("plan_digest") == plan),
            ({"request_id": request}, lambda one: one.get("request_id") == request),
            ({"agent": "refund-bot", "step": "s2"}, lambda one: one.get("agent") and one.get("step") == "s2"),
            ({"reason_code": "TARGET_REFUSED"}, lambda one: one["data"].get("reason_code") == "TARGET_REFUSED"),
            ({"tool": "shop.pack_order@1.0.0"}, lambda one: one in tools and "shop.pack_order" in str(one["data"])),
            (
                {"types": ["plan.ended"], "since_time": since},
                lambda one: one["event_time_ms"] >= cut and one["type"] == "plan.ended",
            ),
            ({"until_time": since}, lambda one: one["event_time_ms"] < cut),
            ({}, lambda one: True),
            ({"agent": "nobody"}, lambda one: False),
        ):
            got = await found(server, **filters)
            if filters.get("tool"):
                got = [one for one in got if one in tools]
            expected = [one for one in log if wanted(one)]
            assert got == expected, filters
            assert expected or filters == {"agent": "nobody"}


@requirement("ledger:search-complete")
async def test_a_person_is_found_by_name_and_an_external_id_by_its_blind_token(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server:
        outcome = next(entry for _, entry in incidents.requests() if entry.event.HasField("step_outcome"))
        outcome.event.step_outcome.external_id = "re_42"
        await append(server.parts, [received(subject="user:ana"), received(subject="user:olga"), outcome])
        one = await call(server, "SearchEntries", reader_pb2.SearchEntriesRequest(subject="user:ana"))
        assert len(one.entries) == 1
        pseudonym = parse_strict(one.entries[0].entry)["subject"]
        again = await call(server, "SearchEntries", reader_pb2.SearchEntriesRequest(subject=pseudonym))
        assert again.entries == one.entries
        by_external = await call(server, "SearchEntries", reader_pb2.SearchEntriesRequest(external_id="re_42"))
        assert [parse_strict(entry.entry)["event_id"] for entry in by_external.entries] == [outcome.event_id]
        traced = await call(server, "GetTrace", reader_pb2.GetTraceRequest(external_id="re_42"))
        assert outcome.event_id in [parse_strict(one.entry.entry)["event_id"] for one in traced.entries]
        nobody = reader_pb2.SearchEntriesRequest(external_id="re_43")
        assert not (await call(server, "SearchEntries", nobody)).entries


@requirement("ledger:trace")
@pytest.mark.parametrize("follow", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_a_trace_is_proven_entry_by_entry_and_told(fresh_database: FreshDatabase, follow: bool) -> None:
    async with recorded(fresh_database, follow=follow) as server:
        for plan in incidents.plans():
            answer = await call(server, "GetTrace", reader_pb2.GetTraceRequest(plan_digest=plan))
            assert (answer.indexed_size, answer.size, answer.truncated) == (524, 524, False)
            key = VerifierKey.parse(answer.vkey)
            head = open_checkpoint(answer.checkpoint, [key])
            for one in answer.entries:
                leaf = leaf_hash(one.entry.entry)
                verify_inclusion(one.entry.index, head.size, leaf, list(one.path), head.root)
            lines = from_answer(answer, [key]).lines()
            assert [name for name in SECTIONS if any(line.startswith(name) for line in lines)] == list(SECTIONS)
            assert len(lines) <= 60
        # One event of a plan leads to the same, and a changed byte is no story.
        event_id = parse_strict(answer.entries[-1].entry.entry)["event_id"]
        again = await call(server, "GetTrace", reader_pb2.GetTraceRequest(event_id=event_id))
        assert again.entries == answer.entries
        answer.entries[3].entry.entry = answer.entries[3].entry.entry.replace(b"prod", b"proD", 1)
        with pytest.raises(VerificationError):
            from_answer(answer, [])


@requirement("ledger:trace")
async def test_what_is_newer_than_the_checkpoint_is_said_so(fresh_database: FreshDatabase) -> None:
    async with recorded(fresh_database) as server:
        late = changed(stream="", seq=0, request_id="r-late")
        late.plan_digest = incidents.plans()[0]
        await append(server.parts, [late])
        answer = await call(server, "GetTrace", reader_pb2.GetTraceRequest(plan_digest=late.plan_digest))
        assert answer.indexed_size == answer.size == 525
        assert (answer.entries[-1].entry.index, list(answer.entries[-1].path)) == (524, [])
        text = "\n".join(from_answer(answer, []).lines())
        assert "signed tree of 524 (1 are newer)" in text


@requirement("ledger:search-complete")
async def test_a_search_that_ends_before_the_log_says_how_far_it_is_complete(
    fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "TAIL", 100)
    monkeypatch.setattr(search, "TAIL_PAGE", 100)
    async with recorded(fresh_database, follow=False) as server:
        answer = await call(server, "SearchEntries", reader_pb2.SearchEntriesRequest(types=["plan.ended"]))
        assert (answer.indexed_size, answer.size) == (100, 524)
        traced = await call(server, "GetTrace", reader_pb2.GetTraceRequest(plan_digest=incidents.plans()[0]))
        assert traced.indexed_size == 100
        assert any("were not looked at yet" in line for line in from_answer(traced, []).lines())


@requirement("tenant:isolated")
async def test_another_tenant_finds_nothing(fresh_database: FreshDatabase) -> None:
    async with recorded(fresh_database) as server:
        event_id = incidents.documents()[5]["event_id"]
        for by in ({"plan_digest": incidents.plans()[0]}, {"event_id": event_id}, {"external_id": "re_42"}):
            assert await reason(server, "GetTrace", reader_pb2.GetTraceRequest(**by), tenant="globex") == "NOT_FOUND"
        answer = await call(server, "SearchEntries", reader_pb2.SearchEntriesRequest(), tenant="globex")
        assert {parse_strict(entry.entry)["tenant"] for entry in answer.entries} == {"globex"}
        assert (answer.size, answer.indexed_size) == (3, 3)
        named = reader_pb2.SearchEntriesRequest(tenant="acme")
        assert await reason(server, "SearchEntries", named, tenant="globex") == "CONTEXT_MISMATCH"
        assert await reason(server, "SearchEntries", reader_pb2.SearchEntriesRequest(), scope=()) == "ROLE_REQUIRED"


@pytest.mark.parametrize(
    ("filters", "word"),
    [
        ({"types": ["no.such"]}, "types"),
        ({"plan_digest": "sha256:zz"}, "plan_digest"),
        ({"agent": 'a"b'}, "agent"),
        ({"tool": "a b"}, "tool"),
        ({"reason_code": "lower"}, "reason_code"),
        ({"subject": "x" * 600}, "subject"),
        ({"page_token": "5"}, "page_token"),
        ({"page_size": -1}, "page_size"),
    ],
)
async def test_a_filter_that_can_mean_nothing_is_refused_by_name(
    fresh_database: FreshDatabase, filters: dict[str, Any], word: str
) -> None:
    async with audit_server(fresh_database("audit"), publish=False) as server:
        await append(server.parts, [changed()])
        with pytest.raises(grpc.aio.AioRpcError, match=word) as caught:
            await call(server, "SearchEntries", reader_pb2.SearchEntriesRequest(**filters))
        assert from_rpc_error(caught.value).reason == "INPUT_INVALID"
        assert await reason(server, "GetTrace", reader_pb2.GetTraceRequest()) == "INPUT_INVALID"


@pytest.mark.slow
@requirement("ledger:projection")
async def test_an_operator_makes_the_projection_again_and_sees_how_far_it_is(fresh_database: FreshDatabase) -> None:
    async with recorded(fresh_database) as server:
        before = await server.parts.searcher.projection.rows(1)
        follower = asyncio.create_task(server.parts.follower.run(server.stopping))
        async with server.channel("cli") as channel:
            stub = reader_pb2_grpc.LedgerReaderServiceStub(channel)
            plain = stub.ReindexLog(reader_pb2.ReindexLogRequest(), metadata=(("txn-token", server.token()),))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await anext(aiter(plain))
            assert from_rpc_error(caught.value).reason == "ROLE_REQUIRED"
            token = (("txn-token", server.token(roles=("operator",))),)
            answers = [one async for one in stub.ReindexLog(reader_pb2.ReindexLogRequest(), metadata=token, timeout=60)]
        assert answers[-1].indexed_size == answers[-1].size == 524
        assert [one.indexed_size for one in answers] == sorted(one.indexed_size for one in answers)
        assert await server.parts.searcher.projection.rows(1) == before
        server.stopping.set()
        await follower
