"""A shop of a few rows, made for the corners of the retail tools, and a bench to run them on."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from examples.retail.catalogue import descriptors
from examples.retail.database import ShopDatabase
from examples.retail.workload import Shop

from counterseal.canonical import canonical
from counterseal.documents.plan import Condition
from counterseal.documents.schema import validate
from counterseal.documents.tool import ToolDescriptor
from counterseal_executor.connectors.base import Applied, Call, Credential, Target, context_of
from counterseal_executor.connectors.postgres import PostgresConnector
from counterseal_executor.connectors.postgres_config import read_tool
from counterseal_executor.connectors.postgres_values import first_row, rows_of
from support.connectors import RecordingFence
from support.postgres import FreshDatabase

ADDRESS = {
    "address1": "1 Main St",
    "address2": "",
    "city": "Paris",
    "country": "USA",
    "state": "TX",
    "zip": "75460",
}
CONNECTOR = PostgresConnector()
ROOT = Path(__file__).resolve().parents[2]


def retail_data() -> Path:
    """The workload's data folder; skips where it is absent."""
    shared = Path(os.environ.get("COUNTERSEAL_SHARED", ROOT.parent / "shared"))
    if not (shared / "data" / "tau-retail" / "orders.json").exists():
        pytest.skip(f"no retail data in {shared} (COUNTERSEAL_SHARED names its folder)")
    return shared / "data" / "tau-retail"


def item(item_id: str, product: str, price: str) -> dict[str, Any]:
    return {
        "name": product,
        "product_id": product,
        "item_id": item_id,
        "price": Decimal(price),
        "options": {"no": item_id},
    }


def variant(item_id: str, price: str, *, available: bool = True) -> dict[str, Any]:
    return {"item_id": item_id, "options": {"no": item_id}, "available": available, "price": Decimal(price)}


def order(order_id: str, user: str, status: str, items: list[dict[str, Any]], paid_by: str) -> dict[str, Any]:
    total = sum((i["price"] for i in items), Decimal(0))
    payment = {"transaction_type": "payment", "amount": total, "payment_method_id": paid_by}
    return {
        "order_id": order_id,
        "user_id": user,
        "address": ADDRESS,
        "items": items,
        "fulfillments": [],
        "status": status,
        "payment_history": [payment],
    }


def user(name: str, gift_cents: int, orders: list[str]) -> dict[str, Any]:
    return {
        "name": {"first_name": name, "last_name": "Doe"},
        "address": ADDRESS,
        "email": f"{name.lower()}@example.com",
        "payment_methods": {
            f"gift_card_{name}": {
                "source": "gift_card",
                "id": f"gift_card_{name}",
                "balance": Decimal(gift_cents) / 100,
            },
            f"paypal_{name}": {"source": "paypal", "id": f"paypal_{name}"},
            f"credit_card_{name}": {
                "source": "credit_card",
                "brand": "visa",
                "last_four": "1234",
                "id": f"credit_card_{name}",
            },
        },
        "orders": orders,
    }


def small_shop() -> Shop:
    """Two customers; ana has an order of each kind, bob one of his own."""
    a, a2, b = item("A", "cup", "10.00"), item("A", "cup", "10.00"), item("B", "cup", "12.50")
    orders = [
        order("#P1", "ana", "pending", [a, a2, b], "gift_card_Ana"),
        order("#P2", "ana", "pending", [a, item("S1", "shirt", "30.10")], "paypal_Ana"),
        order("#D1", "ana", "delivered", [a, a2, item("S1", "shirt", "30.10")], "credit_card_Ana"),
        order("#B1", "bob", "pending", [b], "paypal_Bob"),
    ]
    cups = [variant("A", "10.00"), variant("B", "12.50"), variant("C", "60.01"), variant("D", "9.00", available=False)]
    shirts = [variant("S1", "30.10"), variant("S2", "29.99")]
    return Shop(
        users={"ana": user("Ana", 5000, ["#P1", "#P2", "#D1"]), "bob": user("Bob", 1, ["#B1"])},
        orders={o["order_id"]: o for o in orders},
        products={
            name: {"name": name, "product_id": name, "variants": {v["item_id"]: v for v in variants}}
            for name, variants in (("cup", cups), ("shirt", shirts))
        },
    )


@dataclass
class Bench:
    """The tools on one loaded database, as the executor drives them: observe, write, read back."""

    database: ShopDatabase
    target: Target
    credential: Credential
    tools: Mapping[str, ToolDescriptor]

    def call(self, name: str, args: Mapping[str, Any], subject: str = "user:ana", **more: Any) -> Call:
        context = {"subject": subject, "tenant": "retail", "environment": "staging", "agent": "a", "request_id": "r"}
        return Call(
            "attempt", "key", self.tools[name], self.target, args, more.get("pre", ()), context, more.get("before"), 30
        )

    async def observe(self, name: str, args: Mapping[str, Any]) -> Mapping[str, Any]:
        return (await CONNECTOR.observe(self.call(name, args), self.credential)).values

    async def run(self, name: str, args: Mapping[str, Any]) -> Applied:
        """Run one call to its end; it must succeed, answer as its schema says and be read back."""
        validate(self.tools[name].input_schema, args)
        pre = tuple(Condition("tool_state", k, v) for k, v in (await self.observe(name, args)).items())
        answer = await CONNECTOR.execute(self.call(name, args, pre=pre), self.credential, RecordingFence())
        assert isinstance(answer, Applied), answer
        validate(self.tools[name].output_schema, answer.output)
        verdict = await CONNECTOR.verify(self.call(name, args, before=answer.before), answer.output, self.credential)
        assert verdict.ok
        return answer

    async def undo(self, forward: Applied) -> Any:
        return await CONNECTOR.execute(self.call("restore", dict(forward.before[0])), self.credential, RecordingFence())


async def open_bench(fresh_database: FreshDatabase, shop: Shop) -> Bench:
    fresh = fresh_database(None)
    role = f"agent_{fresh.name}"
    admin = await asyncpg.connect(fresh.admin_dsn)
    await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'tool'")
    await admin.close()
    database = await ShopDatabase.connect(fresh.admin_dsn)
    await database.create([role])
    await database.load(shop)
    place = urlsplit(fresh.admin_dsn)
    settings = {"host": place.hostname, "port": place.port, "database": fresh.name}
    tools = {tool.name.removeprefix("retail."): tool for tool in descriptors()}
    return Bench(database, Target("shop", "postgres", settings), Credential(role, "tool"), tools)


@dataclass
class Direct:
    """The tools' statements on one kept connection: no login, fence and marker per call, so thousands a minute."""

    bench: Bench
    connection: Any

    @classmethod
    async def open(cls, bench: Bench) -> "Direct":
        login = bench.credential
        return cls(bench, await asyncpg.connect(user=login.username, password=login.password, **bench.target.settings))

    async def observe(self, name: str, args: Mapping[str, Any]) -> Mapping[str, Any]:
        sql = read_tool(self.bench.tools[name]).observe
        return {} if sql is None else first_row(await self._rows(sql, self.bench.call(name, args)))

    async def run(self, name: str, args: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Run one call to its end, as `Bench.run` does; returns the rows of its answer."""
        tool, texts = self.bench.tools[name], read_tool(self.bench.tools[name])
        before: list[dict[str, Any]] | None = None
        async with self.connection.transaction(readonly=tool.reads_only):
            if texts.before is not None:
                before = await self._rows(texts.before, self.bench.call(name, args))
            rows = await self._rows(texts.execute.sql, self.bench.call(name, args), before)
            assert texts.execute.rows_min <= len(rows) <= texts.execute.rows_max, (name, args, rows)
        answer = {"rows": rows}
        validate(tool.output_schema, answer)
        if texts.verify is not None:
            assert await self._rows(texts.verify, self.bench.call(name, args), before, answer) == [{"ok": True}]
        return rows

    async def _rows(self, sql: str, call: Call, *context: Any) -> list[dict[str, Any]]:
        statement = await self.connection.prepare(sql)
        parameters = (canonical(dict(call.args)).decode(), canonical(context_of(call, *context)).decode())
        records = await statement.fetch(*parameters[: len(statement.get_parameters())])
        return rows_of(records, statement.get_attributes())
