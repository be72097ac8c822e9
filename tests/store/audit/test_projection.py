"""The search projection on PostgreSQL: what the log says, made again the same, one log's rows for one log's readers."""

import asyncio
import random

import asyncpg
import pytest

from counterseal.ledger.registry import REGISTRY
from counterseal_audit.database import connection
from counterseal_audit.projection.engine import Field, Query, Terms, blinder, terms_of
from counterseal_audit.projection.store import FOLLOWER
from counterseal_audit.reader.store import RUNS
from support.audit import Replica, append, replica
from support.entries import changed, received
from support.postgres import FreshDatabase, ServiceDatabase
from support.requirements import requirement

DIGESTS = ["sha256:" + letter * 64 for letter in "abc"]


async def fill(parts: Replica, count: int = 60) -> list[Terms]:
    """Entries of several kinds; returns the terms of the whole log, read from its bytes."""
    dice = random.Random(7)
    requests = []
    for n in range(count):
        header = {"request_id": f"r-{dice.randrange(4)}", "agent": dice.choice(["bot-a", "bot-b"])}
        if dice.random() < 0.3:
            requests.append(received(subject=dice.choice(["user:ana", "user:olga"])))
        else:
            one = changed(stream="", seq=0, **header)
            one.plan_digest = dice.choice(DIGESTS)
            one.event_time_ms = 1_000 + n
            if dice.random() < 0.3:
                one.event.plan_changed.reason_code = dice.choice(["TIMEOUT", "HALTED"])
            requests.append(one)
    await append(parts, requests)
    return await log_terms(parts)


async def log_terms(parts: Replica, tenant: str = "acme") -> list[Terms]:
    one = await parts.log(tenant)
    blind = blinder(await parts.searcher.keys.get(tenant))
    return [terms_of(row.index, row.entry, blind) for row in await parts.reader.page(one.log_id, 0, 100_000)]


async def follow(parts: Replica) -> None:
    while await parts.follower.step():
        pass


def as_rows(terms: list[Terms]) -> list[tuple[int, str, int, int]]:
    return sorted(
        ((int(field), value, one.index, one.event_time_ms) for one in terms for field, value in one.values),
        key=lambda row: (row[2], row[0], row[1]),
    )


async def as_admin(database: ServiceDatabase, *statements: str) -> None:
    raw = await asyncpg.connect(database.admin_dsn)
    try:
        for statement in statements:
            await raw.execute(statement)
    finally:
        await raw.close()


@requirement("ledger:projection")
async def test_made_again_from_nothing_the_projection_is_the_same(fresh_database: FreshDatabase) -> None:
    async with replica(fresh_database("audit")) as parts:
        store, one = parts.searcher.projection, None
        for _ in range(3):  # live: grown in steps, read in steps
            await fill(parts, 40)
            await parts.follower.step()
        await follow(parts)
        one = await parts.log()
        live = await store.rows(one.log_id)
        assert live == as_rows(await log_terms(parts))
        await store.reindex(one.log_id)
        assert await store.rows(one.log_id) == []
        assert await store.indexed_size(one.log_id) == 0
        parts.follower.look_again()
        await follow(parts)
        assert await store.rows(one.log_id) == live
        assert await store.indexed_size(one.log_id) == 121


@requirement("ledger:projection")
@pytest.mark.parametrize(
    "harm",
    [
        "TRUNCATE ledger_search",
        "TRUNCATE ledger_search, ledger_follower",
        "DELETE FROM ledger_search WHERE idx = 5",
        "UPDATE ledger_follower SET next_idx = 3",
    ],
)
async def test_a_wiped_projection_is_noticed_and_rebuilt(fresh_database: FreshDatabase, harm: str) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await fill(parts)
        await follow(parts)
    await as_admin(database, harm)
    async with replica(database) as parts:
        await follow(parts)
        one = await parts.log()
        assert await parts.searcher.projection.rows(one.log_id) == as_rows(await log_terms(parts))


@requirement("ledger:projection")
async def test_two_followers_and_writers_leave_no_gap(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as left, replica(database) as right:
        await left.log()
        stopping = asyncio.Event()
        followers = [asyncio.create_task(parts.follower.run(stopping)) for parts in (left, right)]
        await asyncio.gather(*(fill(parts, 80) for parts in (left, right) for _ in range(3)))
        one, store = await left.log(), left.searcher.projection
        async with asyncio.timeout(60):
            while await store.indexed_size(one.log_id) < 481:
                await asyncio.sleep(0.05)
        stopping.set()
        await asyncio.gather(*followers)
        assert await store.rows(one.log_id) == as_rows(await log_terms(left))


@requirement("ledger:search-complete")
@pytest.mark.parametrize("indexed", [0, 25, 61])
async def test_a_search_finds_what_the_entries_say_wherever_the_projection_is(
    fresh_database: FreshDatabase, indexed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterseal_audit.projection.follower.BATCH", indexed or 1)
    async with replica(fresh_database("audit")) as parts:
        terms = await fill(parts)
        if indexed:
            await parts.follower.step()
        one = await parts.log()
        assert await parts.searcher.projection.indexed_size(one.log_id) == indexed
        known = sorted({value for term in terms for value in term.values if value[0] is not Field.ENTRY})
        dice = random.Random(3)
        queries = [Query({field: [value]}) for field, value in known]
        for _ in range(40):
            chosen: dict[Field, list[str]] = {}
            for field, value in dice.sample(known, 3):
                chosen.setdefault(field, []).append(value)
            times = sorted(dice.sample(range(990, 1070), 2))
            queries.append(Query(chosen, *(times if dice.random() < 0.5 else ())))
        queries += [Query({}), Query({}, since_ms=1010, until_ms=1020), Query({Field.TYPE: sorted(REGISTRY)})]
        for query in queries:
            wanted = [term.index for term in terms if query.matches(term)]
            found, start = [], 0
            while True:
                page = await parts.searcher.find(one, query, start, 7)
                found += [row.index for row in page.entries]
                if len(page.entries) < 7:
                    break
                start = found[-1] + 1
            assert found == wanted, query
            assert page.complete_size == 61


@requirement("ledger:projection-roles", "tenant:isolated")
async def test_only_the_follower_writes_and_only_the_log_it_named(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await fill(parts)
        await append(parts, [changed(tenant="globex")])
        await follow(parts)
        acme, globex = await parts.log("acme"), await parts.log("globex")
        store = parts.searcher.projection
        assert await store.rows(globex.log_id)
        async with connection(parts.engine) as raw:
            # The runtime role: reads one log at a time, none unless named, and writes none.
            assert await raw.fetchval("SELECT count(*) FROM ledger_search") == 0
            assert await raw.fetchval("SELECT count(*) FROM ledger_follower") == 0
            for statement in (
                "DELETE FROM ledger_search",
                "INSERT INTO ledger_search VALUES (1, 1, 'x', 1, 1)",
                "UPDATE ledger_search SET value = 'x'",
                "UPDATE ledger_follower SET next_idx = 0",
                "TRUNCATE ledger_search",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await raw.execute(statement)
        async with connection(parts.engine) as raw, raw.transaction():
            await raw.execute(f"SET LOCAL ROLE {FOLLOWER}")
            await raw.execute("SELECT set_config('counterseal.log_id', $1, true)", str(acme.log_id))
            seen = {row[0] for row in await raw.fetch("SELECT DISTINCT log_id FROM ledger_search")}
            assert seen == {acme.log_id}
            assert {row[0] for row in await raw.fetch("SELECT DISTINCT log_id FROM ledger_entry")} == {acme.log_id}
            await raw.execute("DELETE FROM ledger_search WHERE log_id = $1", globex.log_id)
            for statement in (
                f"INSERT INTO ledger_search VALUES ({globex.log_id}, 1, 'x', 1, 1)",
                "UPDATE ledger_head SET size = 0",
                "INSERT INTO ledger_entry SELECT * FROM ledger_entry",
                "DELETE FROM ledger_entry",
                "SELECT * FROM ledger_secret",
                "SELECT root FROM ledger_head",
                "UPDATE ledger_search SET idx = 0",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with raw.transaction():
                        await raw.execute(statement)
        assert await store.rows(globex.log_id)


@requirement("ledger:search-complete")
async def test_what_is_sealed_or_blinded_is_in_no_column(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with replica(database) as parts:
        await append(parts, [received(subject="user:ana", sealed={"user_request": "canary-9d1 for ana"})])
        await follow(parts)
        one = await parts.log()
        values = {row[1] for row in await parts.searcher.projection.rows(one.log_id)}
    assert not [value for value in values if "canary" in value or "ana" in value]
    assert any(value.startswith("p_") for value in values)


@requirement("ledger:trace")
async def test_a_proof_reads_the_hashes_that_it_needs_and_no_others(fresh_database: FreshDatabase) -> None:
    """Under row-level security a bound that is not leakproof would be a filter over the rest of the log."""
    async with replica(fresh_database("audit")) as parts:
        await fill(parts)
        one = await parts.log()
        async with connection(parts.engine) as raw, raw.transaction():
            await raw.execute("SELECT set_config('counterseal.log_id', $1, true)", str(one.log_id))
            await raw.execute("SET LOCAL enable_seqscan = off")
            await raw.execute("SET LOCAL enable_bitmapscan = off")
            plan = await raw.fetch(f"EXPLAIN {RUNS}", one.log_id, [0, 1], [0, 0], [256, 256])
        conditions = [row[0] for row in plan if "Index Cond:" in row[0]]
        assert len(conditions) == 2, plan
        for at, condition in zip(("idx", "n"), conditions, strict=True):
            assert f"{at} >= w.first" in condition, condition
            assert f"{at} < w.past" in condition, condition
