"""The demo's own small shop: a PostgreSQL database and the tools an agent may propose on it.

Every write raises the row's `version`, so that an undo can tell whether somebody wrote after it, and is refused then.
"""

from typing import Any

from counterseal.canonical import JsonObject
from counterseal.documents.tool import ToolDescriptor, build_tool
from counterseal.embedded.layout import Target
from counterseal.vault.settings import Action

ALIAS = "shop"
ROLE = "shop"

SCHEMA = """
CREATE SCHEMA shop;
CREATE TABLE shop.orders (
  order_id text PRIMARY KEY,
  customer text NOT NULL,
  state text NOT NULL CHECK (state IN ('paid', 'packed', 'shipped')),
  total_cents bigint NOT NULL CHECK (total_cents >= 0),
  refunded_cents bigint NOT NULL DEFAULT 0 CHECK (refunded_cents BETWEEN 0 AND total_cents),
  version bigint NOT NULL DEFAULT 0
);
CREATE TABLE shop.stock (
  item text PRIMARY KEY,
  quantity bigint NOT NULL CHECK (quantity >= 0),
  version bigint NOT NULL DEFAULT 0
);
CREATE TABLE shop.zones (zone text PRIMARY KEY);
INSERT INTO shop.zones VALUES ('EU'), ('UK');
CREATE TABLE shop.shipments (
  order_id text PRIMARY KEY REFERENCES shop.orders,
  zone text NOT NULL REFERENCES shop.zones
);
INSERT INTO shop.orders (order_id, customer, state, total_cents)
  VALUES ('o-1001', 'ana', 'paid', 8000), ('o-1002', 'ana', 'paid', 100000);
INSERT INTO shop.stock (item, quantity) VALUES ('lamp', 10);
"""

_USE = "USAGE ON SCHEMA shop"
_READ = "SELECT ON ALL TABLES IN SCHEMA shop"


def target(tenant: str) -> Target:
    """Return the shop as a target of a tenant, with the one credential role that its tools use."""
    write = ("SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA shop", _USE)
    return Target(ALIAS, tenant, "shop", SCHEMA, {ROLE: Action(rw=write, ro=(_READ, _USE))})


def descriptors() -> list[ToolDescriptor]:
    """Return the shop's tools, sorted by name."""
    return sorted((build_tool(document) for document in _DOCUMENTS), key=lambda tool: tool.name)


_ORDER = "order_id = $1::jsonb ->> 'order_id'"
_ITEM = "item = $1::jsonb ->> 'item'"
_NEXT = "version = ($1::jsonb ->> 'version')::bigint + 1"


def _number(least: int = 0) -> JsonObject:
    return {"type": "integer", "minimum": least, "maximum": 1_000_000_000}


def _text() -> JsonObject:
    return {"type": "string", "minLength": 1, "maxLength": 64}


def _object(**properties: JsonObject) -> JsonObject:
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


def _rows(**columns: JsonObject) -> JsonObject:
    return _object(rows={"type": "array", "items": _object(**columns), "maxItems": 100})


def _tool(
    name: str,
    title: str,
    *,
    takes: JsonObject,
    gives: JsonObject,
    execute: str,
    verify: str | None = None,
    observe: str | None = None,
    before: str | None = None,
    effect: str = "E3",
    reversibility: str = "R2",
    records: int | None = 1,
    rows: tuple[int, int] = (1, 1),
) -> JsonObject:
    config: dict[str, Any] = {"execute": {"sql": execute, "rows_min": rows[0], "rows_max": rows[1]}}
    config |= {key: {"sql": sql} for key, sql in (("observe", observe), ("before", before), ("verify", verify)) if sql}
    return {
        "v": 1,
        "name": f"shop.{name}",
        "version": "1.0.0",
        "title": title,
        "description": f"{title}. Amounts are integer cents.",
        "connector": {"kind": "postgres", "config": config},
        "input_schema": takes,
        "output_schema": gives,
        "effect": effect,
        "reversibility": reversibility,
        "residual_effects": [],
        "blast": {"records": records},
        "preview": "none",
        "probe": effect != "E0",
        "idempotency": {"kind": "none", "window_seconds": 0},
        "pre_kinds": ["tool_state"] if observe else [],
        "sensitive": [],
        "targets": [ALIAS],
        "credential_role": ROLE,
        "max_concurrency": 4,
        "open_world": False,
    }


_DOCUMENTS: tuple[JsonObject, ...] = (
    _tool(
        "get_order",
        "Look at an order",
        takes=_object(order_id=_text()),
        gives=_rows(order_id=_text(), state=_text(), total_cents=_number(), refunded_cents=_number()),
        execute=f"SELECT order_id, state, total_cents, refunded_cents FROM shop.orders WHERE {_ORDER}",
        effect="E0",
        reversibility="R0",
        records=0,
        rows=(0, 1),
    ),
    _tool(
        "refund_order",
        "Refund part of an order",
        takes=_object(order_id=_text(), amount_cents=_number(1)),
        gives=_rows(order_id=_text(), refunded_cents=_number()),
        observe=f"SELECT state, total_cents - refunded_cents AS remaining_cents FROM shop.orders WHERE {_ORDER}",
        before=f"SELECT refunded_cents, version FROM shop.orders WHERE {_ORDER} FOR UPDATE",
        execute=(
            "UPDATE shop.orders SET refunded_cents = refunded_cents + ($1::jsonb ->> 'amount_cents')::bigint, "
            f"version = version + 1 WHERE {_ORDER} RETURNING order_id, refunded_cents"
        ),
        verify=(
            "SELECT refunded_cents = ($2::jsonb #>> '{result,rows,0,refunded_cents}')::bigint AS ok "
            f"FROM shop.orders WHERE {_ORDER}"
        ),
    ),
    _tool(
        "restore_refund",
        "Take a refund back",
        takes=_object(order_id=_text(), refunded_cents=_number(), version=_number()),
        gives=_rows(order_id=_text(), refunded_cents=_number()),
        execute=(
            "UPDATE shop.orders SET refunded_cents = ($1::jsonb ->> 'refunded_cents')::bigint, version = version + 1 "
            f"WHERE {_ORDER} AND {_NEXT} RETURNING order_id, refunded_cents"
        ),
        verify=(
            f"SELECT refunded_cents = ($1::jsonb ->> 'refunded_cents')::bigint AS ok FROM shop.orders WHERE {_ORDER}"
        ),
    ),
    _tool(
        "reserve_stock",
        "Reserve stock for an order",
        takes=_object(item=_text(), quantity=_number(1)),
        gives=_rows(item=_text(), quantity=_number()),
        observe=f"SELECT quantity AS in_stock FROM shop.stock WHERE {_ITEM}",
        before=f"SELECT quantity, version FROM shop.stock WHERE {_ITEM} FOR UPDATE",
        execute=(
            "UPDATE shop.stock SET quantity = quantity - ($1::jsonb ->> 'quantity')::bigint, version = version + 1 "
            f"WHERE {_ITEM} RETURNING item, quantity"
        ),
        verify=(
            "SELECT quantity = ($2::jsonb #>> '{result,rows,0,quantity}')::bigint AS ok "
            f"FROM shop.stock WHERE {_ITEM}"
        ),
    ),
    _tool(
        "restore_stock",
        "Put reserved stock back",
        takes=_object(item=_text(), quantity=_number(), version=_number()),
        gives=_rows(item=_text(), quantity=_number()),
        execute=(
            "UPDATE shop.stock SET quantity = ($1::jsonb ->> 'quantity')::bigint, version = version + 1 "
            f"WHERE {_ITEM} AND {_NEXT} RETURNING item, quantity"
        ),
        verify=f"SELECT quantity = ($1::jsonb ->> 'quantity')::bigint AS ok FROM shop.stock WHERE {_ITEM}",
    ),
    _tool(
        "pack_order",
        "Pack a paid order",
        takes=_object(order_id=_text()),
        gives=_rows(order_id=_text(), state=_text()),
        observe=f"SELECT state, total_cents - refunded_cents AS remaining_cents FROM shop.orders WHERE {_ORDER}",
        before=f"SELECT state, version FROM shop.orders WHERE {_ORDER} FOR UPDATE",
        execute=(
            f"UPDATE shop.orders SET state = 'packed', version = version + 1 WHERE {_ORDER} AND state = 'paid' "
            "RETURNING order_id, state"
        ),
        verify=f"SELECT state = 'packed' AS ok FROM shop.orders WHERE {_ORDER}",
    ),
    _tool(
        "unpack_order",
        "Unpack an order",
        takes=_object(order_id=_text(), state=_text(), version=_number()),
        gives=_rows(order_id=_text(), state=_text()),
        execute=(
            "UPDATE shop.orders SET state = $1::jsonb ->> 'state', version = version + 1 "
            f"WHERE {_ORDER} AND {_NEXT} RETURNING order_id, state"
        ),
        verify=f"SELECT state = $1::jsonb ->> 'state' AS ok FROM shop.orders WHERE {_ORDER}",
    ),
    _tool(
        "ship_order",
        "Hand a packed order to the carrier of a zone",
        takes=_object(order_id=_text(), zone=_text()),
        gives=_rows(order_id=_text(), zone=_text()),
        execute=(
            "INSERT INTO shop.shipments (order_id, zone) VALUES ($1::jsonb ->> 'order_id', $1::jsonb ->> 'zone') "
            "RETURNING order_id, zone"
        ),
        verify=f"SELECT EXISTS (SELECT FROM shop.shipments WHERE {_ORDER}) AS ok",
    ),
    _tool(
        "recall_shipment",
        "Take an order back from the carrier",
        takes=_object(order_id=_text()),
        gives=_rows(order_id=_text()),
        execute=f"DELETE FROM shop.shipments WHERE {_ORDER} RETURNING order_id",
        verify=f"SELECT NOT EXISTS (SELECT FROM shop.shipments WHERE {_ORDER}) AS ok",
    ),
    _tool(
        "purge_orders",
        "Delete all orders of a customer",
        takes=_object(customer=_text()),
        gives=_rows(order_id=_text()),
        observe="SELECT count(*)::bigint AS order_count FROM shop.orders WHERE customer = $1::jsonb ->> 'customer'",
        execute="DELETE FROM shop.orders WHERE customer = $1::jsonb ->> 'customer' RETURNING order_id",
        verify="SELECT count(*) = 0 AS ok FROM shop.orders WHERE customer = $1::jsonb ->> 'customer'",
        reversibility="R4",
        records=None,
        rows=(0, 100),
    ),
)
