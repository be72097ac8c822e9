"""The workload's target database: made, loaded, compared with what was loaded, and put back."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
from examples.retail.workload import Shop, order_record, order_row, user_record, user_row, variant_records

SCHEMA = Path(__file__).resolve().parent / "schema.sql"
_READ = ("USAGE ON SCHEMA retail", "SELECT ON ALL TABLES IN SCHEMA retail")
PRIVILEGES = {"ro": _READ, "rw": (*_READ, "UPDATE ON TABLE retail.users, retail.orders")}
"""What the tools' two credential roles may do: look, and update users and orders."""
USER_COLUMNS = ("user_id", "first_name", "last_name", "email", "address", "payment_methods", "orders")
VARIANT_COLUMNS = ("item_id", "product_id", "options", "available", "price_cents")
WRITTEN = {
    "users": ("address", "payment_methods"),
    "orders": (
        *("address", "items", "fulfillments", "status", "payment_history", "cancel_reason"),
        *("return_items", "return_payment_method_id", "exchange_items", "exchange_new_items"),
        *("exchange_payment_method_id", "exchange_price_difference_cents"),
    ),
}
ORDER_COLUMNS = ("order_id", "user_id", *WRITTEN["orders"])


class ShopDatabase:
    """One connection as the database's owner; agents never have it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    async def connect(cls, dsn: str) -> "ShopDatabase":
        """Connect as the owner of the target database."""
        connection = await asyncpg.connect(dsn)
        await connection.set_type_codec(
            "jsonb", encoder=_encode, decoder=_decode, schema="pg_catalog", format="binary"
        )  # COPY speaks binary only
        return cls(connection)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def create(self, writers: Sequence[str]) -> None:
        """Make the schema and grant it to login roles; a deployment's provisioning does this in the embedded stack."""
        await self._connection.execute(SCHEMA.read_text(encoding="utf-8"))
        for role in writers:
            for privilege in PRIVILEGES["rw"]:
                await self._connection.execute(f'GRANT {privilege} TO "{role}"')

    async def load(self, shop: Shop) -> None:
        """Replace whatever is there by the shop's data, in one transaction."""
        async with self._connection.transaction():
            await self._connection.execute(
                "TRUNCATE retail.products, retail.variants, retail.users, retail.orders, "
                "pristine.users, pristine.orders"
            )
            products = list(shop.products.values())
            await self._copy("products", ("product_id", "name"), products)
            await self._copy("variants", VARIANT_COLUMNS, variant_records(products))
            await self._copy("users", USER_COLUMNS, [user_record(key, user) for key, user in shop.users.items()])
            await self._copy("orders", ORDER_COLUMNS, [order_record(order) for order in shop.orders.values()])
            for table in WRITTEN:
                await self._connection.execute(f"INSERT INTO pristine.{table} SELECT * FROM retail.{table}")
        await self._connection.execute("ANALYZE")

    async def changed_rows(self) -> dict[str, dict[str, Any]]:
        """Return every order and user that differs from what was loaded, whole, in the files' form."""
        return {
            "orders": {row["order_id"]: order_row(row) for row in await self._changed("orders", "order_id")},
            "users": {row["user_id"]: user_row(row) for row in await self._changed("users", "user_id")},
        }

    async def reset(self) -> None:
        """Put back whatever was written since the load."""
        for table, key in (("orders", "order_id"), ("users", "user_id")):
            names = ", ".join((*WRITTEN[table], "version"))
            await self._connection.execute(
                f"""UPDATE retail.{table} live SET ({names}) = (SELECT {names} FROM pristine.{table} old
                WHERE old.{key} = live.{key})
                FROM pristine.{table} kept WHERE kept.{key} = live.{key} AND to_jsonb(kept) <> to_jsonb(live)"""
            )

    async def _changed(self, table: str, key: str) -> list[Mapping[str, Any]]:
        rows = await self._connection.fetch(
            f"""SELECT to_jsonb(live) AS row FROM retail.{table} live FULL JOIN pristine.{table} kept USING ({key})
            WHERE to_jsonb(live) - 'version' IS DISTINCT FROM to_jsonb(kept) - 'version' ORDER BY {key}"""
        )
        return [row["row"] for row in rows]

    async def _copy(self, table: str, columns: Sequence[str], records: Sequence[Mapping[str, Any]]) -> None:
        rows = [tuple(record[column] for column in columns) for record in records]
        await self._connection.copy_records_to_table(table, records=rows, columns=columns, schema_name="retail")


_JSONB_VERSION = b"\x01"


def _encode(value: Any) -> bytes:
    return _JSONB_VERSION + json.dumps(value).encode()


def _decode(data: bytes) -> Any:
    return json.loads(data.removeprefix(_JSONB_VERSION))  # noqa: TID251 (rows of any shape, from our own database)
