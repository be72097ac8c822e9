"""The demo's shop: its SQL is valid, its undo puts back, its policy lints; the network that holds an answer back."""

import asyncio
from typing import Any

import asyncpg
import pytest

from counterseal.canonical import canonical
from counterseal.cli.demo import shop, world
from counterseal.cli.demo.proxy import HoldingProxy
from counterseal_policy.rules.compile import compile_policy, parse_files
from counterseal_policy.rules.condition import ConditionEngine
from support.postgres import FreshDatabase

TOOLS = {tool.name.removeprefix("shop."): tool for tool in shop.descriptors()}


async def connect(fresh_database: FreshDatabase) -> Any:
    connection = await asyncpg.connect(fresh_database(None).dsn)
    await connection.execute(shop.SCHEMA)
    await connection.execute(
        "INSERT INTO shop.orders (order_id, customer, state, total_cents) VALUES ('o', 'c', 'paid', 900)"
    )
    await connection.execute("INSERT INTO shop.stock (item, quantity) VALUES ('i', 10)")
    return connection


async def run(connection: Any, tool: str, part: str, args: dict[str, Any], context: dict[str, Any]) -> list[Any]:
    sql = TOOLS[tool].connector.config[part]["sql"]
    statement = await connection.prepare(sql)
    values = (canonical(args).decode(), canonical(context).decode())
    return [dict(row) for row in await statement.fetch(*values[: len(statement.get_parameters())])]


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
async def test_every_statement_of_every_tool_is_valid(tool: Any, fresh_database: FreshDatabase) -> None:
    connection = await connect(fresh_database)
    for part in tool.connector.config.values():
        statement = await connection.prepare(part["sql"])
        assert all(parameter.name == "jsonb" for parameter in statement.get_parameters())
    await connection.close()


@pytest.mark.parametrize(
    ("do", "undo", "args"),
    [
        ("refund_order", "restore_refund", {"order_id": "o", "amount_cents": 200}),
        ("reserve_stock", "restore_stock", {"item": "i", "quantity": 4}),
        ("pack_order", "unpack_order", {"order_id": "o"}),
    ],
)
async def test_an_undo_puts_the_before_image_back_and_not_over_others_work(
    do: str, undo: str, args: dict[str, Any], fresh_database: FreshDatabase
) -> None:
    connection = await connect(fresh_database)
    before = (await run(connection, do, "before", args, {}))[0]
    rows = await run(connection, do, "execute", args, {})
    assert (await run(connection, do, "verify", args, {"result": {"rows": rows}})) == [{"ok": True}]
    key = {name: args[name] for name in ("order_id", "item") if name in args}
    back = {**key, **before}
    assert len(await run(connection, undo, "execute", back, {})) == 1
    assert (await run(connection, undo, "verify", back, {})) == [{"ok": True}]
    assert await run(connection, undo, "execute", back, {}) == []  # somebody wrote since: the undo itself
    await connection.close()


def test_the_policy_has_no_findings() -> None:
    policy = compile_policy(parse_files(sorted(world.policy_documents().items())), ConditionEngine())
    assert policy.findings == ()


async def test_the_network_can_hold_the_answer_to_a_commit_that_took_effect(fresh_database: FreshDatabase) -> None:
    database = fresh_database(None)
    direct = await asyncpg.connect(database.dsn)
    await direct.execute("CREATE TABLE t (n int)")
    proxy = HoldingProxy(0)
    await proxy.start()
    proxy.upstream = (direct._addr[0], direct._addr[1])
    connection = await asyncpg.connect(database.dsn, host="127.0.0.1", port=proxy.port)
    held = proxy.hold(b"COMMIT")
    await connection.execute("BEGIN")
    await connection.execute("INSERT INTO t VALUES (1)")
    commit = asyncio.create_task(connection.execute("COMMIT"))
    await asyncio.wait_for(held.answered.wait(), 5)
    assert await direct.fetchval("SELECT count(*) FROM t") == 1
    assert not commit.done()
    held.released.set()
    assert await commit == "COMMIT"
    held = proxy.hold(b"SELECT 7")
    ask = asyncio.create_task(connection.fetchval("SELECT 7"))
    await asyncio.wait_for(held.answered.wait(), 5)
    await direct.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)):
        await asyncio.wait_for(ask, 5)  # the end of the line is seen although the answer was held
    await proxy.stop()
    await direct.close()
