"""Search and traces over a tenant's log that was closed and continued: two shards are searched as one log would be."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc
from counterseal.canonical import parse_strict
from counterseal.cli import explain
from counterseal.cli.audit_sources import Directory
from counterseal.cli.explain import from_answer
from counterseal.ids import new_id
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.verify import verify_log
from counterseal.rpc import paging
from counterseal.rpc.status import from_rpc_error
from counterseal_audit.database import reading
from counterseal_audit.logs.store import Log
from counterseal_audit.reader import search
from support import incidents
from support.audit import AuditServer, append, audit_server
from support.entries import changed, received
from support.postgres import FreshDatabase
from support.requirements import requirement

PEOPLE = ("user:olga", "user:pat")
Json = dict[str, Any]


def cut() -> int:
    """Where the incidents are cut in two: behind the intent of a plan in their middle, which ends in the other half."""
    entries = incidents.documents()[1:]
    return next(n for n, one in enumerate(entries) if n > 250 and one["type"] == "step.intent") + 1


async def carry_on(server: AuditServer, tenant: str) -> None:
    """Close a tenant's log, have its end signed and begin the next."""
    operations = server.parts.operations
    old = await operations.newest(tenant)
    await operations.freeze(old, "OPERATOR", PEOPLE)
    await server.parts.publisher.publish_once()
    await operations.continue_behind(old, await operations.citation(old, b""), PEOPLE)


async def send(server: AuditServer, requests: Sequence[Any]) -> None:
    for producer, group in itertools.groupby(requests, key=lambda pair: pair[0]):
        await append(server.parts, [entry for _, entry in group], producer)


@asynccontextmanager
async def recorded(fresh_database: FreshDatabase, *, follow: bool = True) -> AsyncIterator[AuditServer]:
    """A server whose acme has the recorded incidents in two shards; globex has two shards, too."""
    async with audit_server(fresh_database("audit"), publish=False, follow=False) as server:
        requests = incidents.requests()
        await send(server, requests[: cut()])
        await append(server.parts, [changed(tenant="globex"), received(tenant="globex")])
        for tenant in ("acme", "globex"):
            await carry_on(server, tenant)
        await send(server, requests[cut() :])
        await append(server.parts, [changed(tenant="globex", stream="plan:new")])
        await server.parts.publisher.publish_once()
        while follow and await server.parts.follower.step():
            pass
        yield server


async def call(server: AuditServer, method: str, request: Any, **claims: Any) -> Any:
    async with server.channel("cli") as channel:
        stub = reader_pb2_grpc.LedgerReaderServiceStub(channel)
        return await getattr(stub, method)(request, metadata=(("txn-token", server.token(**claims)),), timeout=60)


async def logs_of(server: AuditServer, tenant: str = "acme") -> list[Log]:
    return await server.parts.logs.shards(tenant, "prod")


async def everything(server: AuditServer, tenant: str = "acme") -> list[tuple[int, int, Json]]:
    """Shard, index and document of every entry, read log by log."""
    return [
        (log.shard, row.index, parse_strict(row.entry))
        for log in await logs_of(server, tenant)
        for row in await server.parts.reader.page(log.log_id, 0, 1000)
    ]


async def found(
    server: AuditServer, size: int = 50, tenant: str = "acme", **filters: Any
) -> list[tuple[int, int, Json]]:
    """Every entry that the filters mean, page by page."""
    entries: list[tuple[int, int, Json]] = []
    page = ""
    while True:
        request = reader_pb2.SearchEntriesRequest(page_size=size, page_token=page, **filters)
        answer = await call(server, "SearchEntries", request, tenant=tenant)
        entries += [(one.shard, one.index, parse_strict(one.entry)) for one in answer.entries]
        assert answer.indexed_size == answer.size == sum(one.size for one in answer.shards)
        assert [one.indexed_size for one in answer.shards] == [one.size for one in answer.shards]
        page = answer.next_page_token
        if not page:
            return entries


@requirement("ledger:search-spans-shards")
@pytest.mark.parametrize("follow", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_every_shard_is_searched_in_order_and_pages_go_from_one_to_the_next(
    fresh_database: FreshDatabase, follow: bool
) -> None:
    async with recorded(fresh_database, follow=follow) as server:
        every = await everything(server)
        assert {shard for shard, _, _ in every} == {0, 1}
        types: dict[str, Any] = {"types": ["step.intent", "log.genesis", "log.frozen"]}
        for filters, wanted in (
            ({}, lambda one: True),
            (types, lambda one: one["type"] in types["types"]),
            ({"reason_code": "TARGET_REFUSED"}, lambda one: one["data"].get("reason_code") == "TARGET_REFUSED"),
            ({"agent": "nobody"}, lambda one: False),
        ):
            assert await found(server, **filters) == [one for one in every if wanted(one[2])], filters
        assert await found(server, size=1, **types) == await found(server, size=1000, **types)
        last = next(index for shard, index, _ in reversed(every) if shard == 0)
        edge = reader_pb2.SearchEntriesRequest(page_size=2)
        edge.page_token = paging.make(f"0/{last}", edge, "acme")
        answer = await call(server, "SearchEntries", edge)
        assert [(one.shard, one.index) for one in answer.entries] == [(0, last), (1, 0)]
        assert answer.next_page_token == paging.make("1/1", edge, "acme")


@requirement("ledger:search-spans-shards")
@pytest.mark.parametrize("follow", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_an_action_that_began_in_a_closed_log_is_told_whole_and_proven(
    fresh_database: FreshDatabase, tmp_path: Path, follow: bool
) -> None:
    async with recorded(fresh_database, follow=follow) as server:
        old, new = await logs_of(server)
        keys = [VerifierKey.parse(log.vkey) for log in (new, old)]
        every = await everything(server)
        spanning = 0
        for plan in incidents.plans():
            answer = await call(server, "GetTrace", reader_pb2.GetTraceRequest(plan_digest=plan))
            (before,) = answer.older
            assert (answer.shard, before.shard, before.vkey, answer.vkey) == (1, 0, old.vkey, new.vkey)
            got = [parse_strict(one.entry.entry) for part in (before, answer) for one in part.entries]
            own = {document["event_id"] for _, _, document in every if document.get("plan_digest") == plan}
            assert own <= {one["event_id"] for one in got}
            whole = trace_of_one_log(plan)
            assert [one["event_id"] for one in got] == [one["event_id"] for one in whole]
            told = from_answer(answer, keys)
            assert len(told.lines()) <= 60
            assert not [fact for fact in told.sections["problems"] if fact.text.startswith(("incomplete", "gap"))]
            one = next(document for document in reversed(got) if document.get("plan_digest") == plan)
            by_event = reader_pb2.GetTraceRequest(event_id=one["event_id"])
            assert (await call(server, "GetTrace", by_event)).older == answer.older
            if before.entries and answer.entries:
                spanning += 1
                assert any(" of shard 0]" in line for line in told.lines())
                proof = told.lines()[-2]
                assert f"{len(got)} of {len(got)} entries are in the signed trees of" in proof
                before.entries[0].entry.entry = before.entries[0].entry.entry.replace(b"prod", b"proD", 1)
                with pytest.raises(VerificationError):
                    from_answer(answer, keys)
        assert spanning


def trace_of_one_log(plan: str) -> list[Json]:
    """The entries of a plan as the export of the one log has them in which the incidents were recorded."""
    report = verify_log(
        Directory(incidents.DIRECTORY), VerifierKey.parse((incidents.DIRECTORY / "vkey").read_text().strip())
    )
    parts = explain._parts(incidents.DIRECTORY, report)
    return [parse_strict(entry) for entry in explain.Export(parts).find(plan).values()]


@requirement("ledger:search-spans-shards")
async def test_an_export_of_both_shards_tells_the_same_story_offline(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with recorded(fresh_database) as server:
        answers = {
            plan: await call(server, "GetTrace", reader_pb2.GetTraceRequest(plan_digest=plan))
            for plan in incidents.plans()
        }
        directory = await server.export(tmp_path / "both")
    report = verify_log(Directory(directory), VerifierKey.parse((directory / "vkey").read_text().strip()))
    assert report.verdict is None
    parts = explain._parts(directory, report)
    assert [part.shard for part in parts] == [0, 1]
    for plan, answer in answers.items():
        online = from_answer(answer, [])
        offline = explain.Export(parts).find(plan)
        assert list(offline) == [told.index for told in online.entries]


@requirement("ledger:search-complete", "ledger:search-spans-shards")
async def test_an_older_shard_that_is_behind_is_said_to_be(
    fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "TAIL", 100)
    monkeypatch.setattr(search, "TAIL_PAGE", 100)
    async with recorded(fresh_database, follow=False) as server:
        old, new = await logs_of(server)
        sizes = [await server.parts.reader.size(log.log_id) for log in (old, new)]
        answer = await call(server, "SearchEntries", reader_pb2.SearchEntriesRequest(types=["plan.ended"]))
        assert [(one.origin, one.indexed_size, one.size) for one in answer.shards] == [
            (old.origin, 100, sizes[0]),
            (new.origin, 100, sizes[1]),
        ]
        assert (answer.indexed_size, answer.size) == (100, sum(sizes)), "complete up to the first gap, and no further"
        plan = incidents.plans()[0]
        told = from_answer(await call(server, "GetTrace", reader_pb2.GetTraceRequest(plan_digest=plan)), [])
        problems = [fact.text for fact in told.sections["problems"]]
        assert f"incomplete: entries 100 to {sizes[0] - 1} of shard 0 were not looked at yet" in problems


@requirement("tenant:isolated", "ledger:search-spans-shards")
async def test_nothing_of_one_tenants_shards_is_found_or_counted_by_another(fresh_database: FreshDatabase) -> None:
    async with recorded(fresh_database) as server:
        every = await everything(server, "globex")
        assert await found(server, tenant="globex") == every
        assert {document["tenant"] for _, _, document in every} == {"globex"}
        for at in ("0/0", "1/0", "2/0", "999999/0", "0/99999999999999"):
            request = reader_pb2.SearchEntriesRequest()
            request.page_token = token = paging.make(at, request, "globex")
            answer = await call(server, "SearchEntries", request, tenant="globex")
            assert all(parse_strict(one.entry)["tenant"] == "globex" for one in answer.entries), token
            assert {one.origin for one in answer.shards} == {log.origin for log in await logs_of(server, "globex")}
            assert answer.size == len(every)
        for at in ("5", "-1/0", "1/", "0/0;1/0", "0/1e3", "0/999999999999999", "٠/٠"):  # noqa: RUF001
            request = reader_pb2.SearchEntriesRequest()
            request.page_token = paging.make(at, request, "globex")
            assert await reason(server, "SearchEntries", request, tenant="globex") == "INPUT_INVALID", at
        request.page_token = paging.make("0/0", request, "acme")
        assert await reason(server, "SearchEntries", request, tenant="globex") == "INPUT_INVALID", "another tenant's"
        event_ids = [document["event_id"] for _, _, document in await everything(server)]
        for by in (
            {"plan_digest": incidents.plans()[0]},
            {"event_id": event_ids[5]},
            {"event_id": event_ids[-1]},
            {"event_id": new_id()},
        ):
            assert await reason(server, "GetTrace", reader_pb2.GetTraceRequest(**by), tenant="globex") == "NOT_FOUND"


@requirement("tenant:isolated", "ledger:search-spans-shards")
async def test_one_transaction_reads_one_shard_whatever_it_asks_for(fresh_database: FreshDatabase) -> None:
    """Row-level security: also the shards of one tenant are bound one at a time."""
    async with recorded(fresh_database) as server:
        logs = [*await logs_of(server), *await logs_of(server, "globex")]
        assert len({log.log_id for log in logs}) == 4
        for log in logs:
            async with reading(server.parts.engine, log.log_id) as raw:
                for table in ("ledger_entry", "ledger_search", "ledger_node", "ledger_payload"):
                    rows = await raw.fetch(f"SELECT DISTINCT log_id FROM {table}")
                    assert {row["log_id"] for row in rows} <= {log.log_id}, table
                assert await raw.fetchval("SELECT count(*) FROM ledger_search") > 0


async def reason(server: AuditServer, method: str, request: Any, **claims: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(server, method, request, **claims)
    return from_rpc_error(caught.value).reason
