"""The workload's files: the shop's data, the tasks, and money as integer cents.

The files hold amounts as decimals (some, such as 6.9199999999999875, as binary fractions printed in full); here every
number of a row is an amount, read exactly and rounded to cents.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import NoneType
from typing import Any

from counterseal.canonical import JsonObject

KEPT = ("return_items", "exchange_items", "exchange_new_items")
OPTIONAL = ("cancel_reason", "return_payment_method_id", "exchange_payment_method_id", *KEPT)


@dataclass(frozen=True, slots=True)
class Action:
    """One tool call. `refused` is why it must be refused, or None when it must succeed.

    args: whatever the file holds; what is no object fits no tool.
    """

    tool: str
    args: Any
    write: bool
    refused: str | None


@dataclass(frozen=True, slots=True)
class Task:
    """Calls on behalf of one customer, and the whole rows that differ afterwards."""

    id: str
    user_id: str
    actions: tuple[Action, ...]
    expected: Mapping[str, Mapping[str, JsonObject]]


@dataclass(frozen=True, slots=True)
class Shop:
    """The data files, keyed by id."""

    users: Mapping[str, JsonObject]
    orders: Mapping[str, JsonObject]
    products: Mapping[str, JsonObject]


class WorkloadError(Exception):
    """The data is absent or not what the workload's README describes."""


def read_json(path: Path) -> Any:
    """Read a data file with exact decimals.

    Not `canonical.parse_strict`: these are bulk files, lists among them, larger than any document of the suite.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, parse_float=Decimal)
    except FileNotFoundError:
        raise WorkloadError(f"{path} does not exist") from None
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise WorkloadError(f"{path} is not JSON: {error}") from None
    except OSError as error:
        raise WorkloadError(f"{path} cannot be read: {error.strerror}") from None


def read_shop(directory: Path) -> Shop:
    """Read users, orders and products; every row must have the fields that its table keeps."""
    tables = [read_json(directory / f"{name}.json") for name in ("users", "orders", "products")]
    if not all(isinstance(table, dict) for table in tables):
        raise WorkloadError(f"{directory}: users, orders and products must be objects, keyed by id")
    shop = Shop(*tables)
    for name, table, record in (
        ("users", shop.users, lambda row: user_record("", row)),
        ("orders", shop.orders, order_record),
        ("products", shop.products, lambda row: variant_records([row])),
    ):
        for key, row in table.items():
            try:
                record(row)
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                raise WorkloadError(f"{directory / name}.json: {key}: not such a row ({_said(error)})") from None
    return shop


def tool_names(directory: Path) -> list[str]:
    """Return the names in `tools.json`: what must be registered."""
    tools = read_json(directory / "tools.json")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) and "name" in tool for tool in tools):
        raise WorkloadError(f"{directory / 'tools.json'}: must be a list of tools with names")
    return [str(tool["name"]) for tool in tools]


def read_tasks(path: Path) -> list[Task]:
    """Read one task file."""
    found = read_json(path)
    if not isinstance(found, list):
        raise WorkloadError(f"{path}: must be a list of tasks")
    return [_task(item, f"{path}: task {index}") for index, item in enumerate(found)]


def cents(amount: Decimal | int) -> int:
    """Return a decimal amount in cents, rounded to the nearest."""
    return int((Decimal(amount) * 100).to_integral_value())


def decimal_amount(amount_cents: int) -> int | float:
    """Return cents as the decimal number that the files would hold."""
    whole, rest = divmod(amount_cents, 100)
    return whole if rest == 0 else float(Decimal(amount_cents) / 100)


def in_cents(value: Any) -> Any:
    """Return a row with every number (each is an amount) in cents, to compare by."""
    if isinstance(value, dict):
        return {key: in_cents(item) for key, item in value.items()}
    if isinstance(value, list):
        return [in_cents(item) for item in value]
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        amount = Decimal(str(value))
        return cents(amount) if amount.is_finite() else str(amount)
    return value


def same_rows(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Tell whether two sets of changed rows are equal, amounts compared as cents."""
    return bool(in_cents(left) == in_cents(right))


def user_record(user_id: str, user: JsonObject) -> dict[str, Any]:
    """Return a user of the files as a row of `retail.users`."""
    return {
        "user_id": user_id,
        "first_name": user["name"]["first_name"],
        "last_name": user["name"]["last_name"],
        "email": user["email"],
        "address": user["address"],
        "payment_methods": {key: _renamed(m, "balance", "balance_cents") for key, m in user["payment_methods"].items()},
        "orders": user["orders"],
    }


def order_record(order: JsonObject) -> dict[str, Any]:
    """Return an order of the files as a row of `retail.orders`; what it does not have is null."""
    difference = order.get("exchange_price_difference")
    return {
        "order_id": order["order_id"],
        "user_id": order["user_id"],
        "address": order["address"],
        "items": [_renamed(item, "price", "price_cents") for item in order["items"]],
        "fulfillments": order["fulfillments"],
        "status": order["status"],
        "payment_history": [_renamed(entry, "amount", "amount_cents") for entry in order["payment_history"]],
        **{key: order.get(key) for key in OPTIONAL},
        "exchange_price_difference_cents": None if difference is None else cents(difference),
    }


def variant_records(products: Iterable[JsonObject]) -> list[dict[str, Any]]:
    """Return every variant of the files as a row of `retail.variants`."""
    return [
        {
            "item_id": variant["item_id"],
            "product_id": product["product_id"],
            "options": variant["options"],
            "available": variant["available"],
            "price_cents": cents(variant["price"]),
        }
        for product in products
        for variant in product["variants"].values()
    ]


def user_row(record: Mapping[str, Any]) -> JsonObject:
    """Return a row of `retail.users` as the files would hold it."""
    return {
        "name": {"first_name": record["first_name"], "last_name": record["last_name"]},
        "address": record["address"],
        "email": record["email"],
        "payment_methods": {key: _restored(m, "balance_cents") for key, m in record["payment_methods"].items()},
        "orders": record["orders"],
    }


def order_row(record: Mapping[str, Any]) -> JsonObject:
    """Return a row of `retail.orders` as the files would hold it; what was never set is left out."""
    row: JsonObject = {key: record[key] for key in ("order_id", "user_id", "address", "fulfillments", "status")}
    row["items"] = [_restored(item, "price_cents") for item in record["items"]]
    row["payment_history"] = [_restored(entry, "amount_cents") for entry in record["payment_history"]]
    row |= {key: record[key] for key in OPTIONAL if record[key] is not None}
    if record["exchange_price_difference_cents"] is not None:
        row["exchange_price_difference"] = decimal_amount(record["exchange_price_difference_cents"])
    return row


def _task(item: Any, where: str) -> Task:
    task_id, user_id = _field(item, "id", str, where), _field(item, "user_id", str, where)
    where += f" ({task_id})"
    expected = _field(item, "expected_changed_rows", dict, where)
    rows = {table: _field(expected, table, dict, f"{where}: expected_changed_rows") for table in ("orders", "users")}
    actions = enumerate(_field(item, "actions", list, where))
    return Task(task_id, user_id, tuple(_action(entry, f"{where}: action {n}") for n, entry in actions), rows)


def _action(item: Any, where: str) -> Action:
    refused = _field(item, "refused", (str, NoneType), where)
    tool, write = _field(item, "tool", str, where), _field(item, "write", bool, where)
    return Action(tool, _arguments(_field(item, "args", object, where)), write, refused)


def _field(item: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(item, dict):
        raise WorkloadError(f"{where}: must be an object")
    if name not in item:
        raise WorkloadError(f"{where}: lacks {name}")
    if not isinstance(item[name], kind):
        raise WorkloadError(f"{where}: {name} must not be {type(item[name]).__name__}")
    return item[name]


def _said(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"


def _arguments(value: Any) -> Any:
    """Return arguments as a client sends them: numbers as JSON has them, not as exact amounts."""
    if isinstance(value, dict):
        return {key: _arguments(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_arguments(item) for item in value]
    return float(value) if isinstance(value, Decimal) else value


def _renamed(value: JsonObject, old: str, new: str) -> JsonObject:
    return {new if key == old else key: cents(item) if key == old else item for key, item in value.items()}


def _restored(value: JsonObject, name: str) -> JsonObject:
    plain = name.removesuffix("_cents")
    return {plain if k == name else k: decimal_amount(v) if k == name else v for k, v in value.items()}
