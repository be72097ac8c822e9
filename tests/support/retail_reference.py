"""The shop a second time: the 16 tools and the rules on ownership in plain Python over the files' own form.

It is the judge of `examples/retail`: no SQL, no policy, no cents, nothing imported from there. Rows are dicts as in
`users.json`, `orders.json` and `products.json`, amounts are exact decimals. What is asked of the tools comes from
`tools.json`, the written policy and the expected rows of the task files; where those are silent, from what tau-bench's
public retail tools are known to do.
"""

import ast
import copy
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

Row = dict[str, Any]
Rows = Mapping[str, Row]

PENDING, DELIVERED = "pending", "delivered"
REASONS = ("no longer needed", "ordered by mistake")
PLACE = ("address1", "address2", "city", "state", "country", "zip")
PARAMETERS: Mapping[str, Mapping[str, type]] = {
    "calculate": {"expression": str},
    "cancel_pending_order": {"order_id": str, "reason": str},
    "exchange_delivered_order_items": {
        "order_id": str,
        "item_ids": list,
        "new_item_ids": list,
        "payment_method_id": str,
    },
    "find_user_id_by_email": {"email": str},
    "find_user_id_by_name_zip": {"first_name": str, "last_name": str, "zip": str},
    "get_order_details": {"order_id": str},
    "get_product_details": {"product_id": str},
    "get_user_details": {"user_id": str},
    "list_all_product_types": {},
    "modify_pending_order_address": {"order_id": str, **dict.fromkeys(PLACE, str)},
    "modify_pending_order_items": {"order_id": str, "item_ids": list, "new_item_ids": list, "payment_method_id": str},
    "modify_pending_order_payment": {"order_id": str, "payment_method_id": str},
    "modify_user_address": {"user_id": str, **dict.fromkeys(PLACE, str)},
    "return_delivered_order_items": {"order_id": str, "item_ids": list, "payment_method_id": str},
    "think": {"thought": str},
    "transfer_to_human_agents": {"summary": str},
}
"""Every parameter is required, is a text or a list of texts, and nothing else may be said."""
SIGNS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.UAdd, ast.USub)
CALCULATED = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, *SIGNS)


class Refused(Exception):
    """The call is refused. `code`: the reason in the words of the policy; ARGUMENTS: it does not fit the tool."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class ReferenceShop:
    """One shop whose rows change as calls are made.

    subject: the customer on whose behalf calls are made. None: nobody asks whose rows they are, as in tau-bench.
    """

    def __init__(self, users: Rows, orders: Rows, products: Rows, subject: str | None = None) -> None:
        self._start = (orders, users)
        self._touched: set[str] = set()
        self.users = dict(users)
        self.orders = dict(orders)
        self.products = products
        self.subject = subject

    def call(self, tool: str, args: Any) -> Any:
        """Make one call; returns a look-up's answer, in the files' form. Raises Refused, with nothing changed."""
        parameters = PARAMETERS.get(tool)
        if parameters is None:
            raise Refused("UNKNOWN_TOOL")
        if not isinstance(args, dict) or args.keys() != parameters.keys():
            raise Refused("ARGUMENTS")
        for name, kind in parameters.items():
            texts = args[name] if kind is list else [args[name]]
            if not isinstance(texts, list) or not all(map(_is_text, texts)):
                raise Refused("ARGUMENTS")
        run: Callable[..., Any] = getattr(self, f"_{tool}")
        return run(**args)

    def changed(self) -> dict[str, dict[str, Row]]:
        """The orders and users that are no longer as they were at the start, whole."""
        orders, users = self._start
        return {
            "orders": {key: row for key, row in self.orders.items() if row is not orders[key] and row != orders[key]},
            "users": {key: row for key, row in self.users.items() if row is not users[key] and row != users[key]},
        }

    # -- looking -----------------------------------------------------------------------------------------------------

    def _calculate(self, expression: str) -> Fraction:
        """The exact value. Python's grammar of numbers, + - * / and parentheses, as the tool's description has it."""
        if any(character not in "0123456789+-*/(). " for character in expression):
            raise Refused("EXPRESSION_INVALID")
        try:
            tree = ast.parse(expression.strip(" "), mode="eval")
            if not all(isinstance(node, CALCULATED) for node in ast.walk(tree)):
                raise Refused("EXPRESSION_INVALID")
            return _value(tree.body, expression.strip(" "))
        except (SyntaxError, ZeroDivisionError):
            raise Refused("EXPRESSION_INVALID") from None

    def _find_user_id_by_email(self, email: str) -> str:
        return self._found(lambda user: user["email"].lower() == email.lower())

    def _find_user_id_by_name_zip(self, first_name: str, last_name: str, zip: str) -> str:  # noqa: A002
        wanted = (first_name.lower(), last_name.lower(), zip)
        return self._found(
            lambda user: (*(part.lower() for part in _name(user)), user["address"]["zip"]) == wanted,
        )

    def _get_order_details(self, order_id: str) -> Row:
        return self._order(order_id)

    def _get_product_details(self, product_id: str) -> Row:
        if product_id not in self.products:
            raise Refused("PRODUCT_NOT_FOUND")
        return self.products[product_id]

    def _get_user_details(self, user_id: str) -> Row:
        return self._user(user_id)

    def _list_all_product_types(self) -> dict[str, str]:
        return {product["name"]: product["product_id"] for product in self.products.values()}

    def _think(self, thought: str) -> None:
        pass

    def _transfer_to_human_agents(self, summary: str) -> None:
        pass

    # -- writing -----------------------------------------------------------------------------------------------------

    def _modify_user_address(self, user_id: str, **place: str) -> None:
        self._user(user_id)["address"] = place

    def _modify_pending_order_address(self, order_id: str, **place: str) -> None:
        self._order(order_id, PENDING)["address"] = place

    def _cancel_pending_order(self, order_id: str, reason: str) -> None:
        order = self._order(order_id, PENDING)
        if reason not in REASONS:
            raise Refused("ARGUMENTS")
        refunds = [{**entry, "transaction_type": "refund"} for entry in order["payment_history"]]
        for refund in refunds:
            self._credit(order, refund["payment_method_id"], refund["amount"])
        order["payment_history"] += refunds
        order["status"] = "cancelled"
        order["cancel_reason"] = reason

    def _modify_pending_order_payment(self, order_id: str, payment_method_id: str) -> None:
        order = self._order(order_id, PENDING)
        method = self._method(order, payment_method_id)
        history = order["payment_history"]
        if len(history) != 1 or history[0]["transaction_type"] != "payment":
            raise Refused("PAYMENT_ALREADY_MODIFIED")
        old, amount = history[0]["payment_method_id"], history[0]["amount"]
        if old == payment_method_id:
            raise Refused("PAYMENT_METHOD_UNCHANGED")
        self._must_cover(method, amount)
        history.append({"transaction_type": "payment", "amount": amount, "payment_method_id": payment_method_id})
        history.append({"transaction_type": "refund", "amount": amount, "payment_method_id": old})
        self._credit(order, payment_method_id, -amount)
        self._credit(order, old, amount)

    def _modify_pending_order_items(
        self, order_id: str, item_ids: list[str], new_item_ids: list[str], payment_method_id: str
    ) -> None:
        order = self._order(order_id, PENDING)
        due = self._difference(order, item_ids, new_item_ids)
        self._must_cover(self._method(order, payment_method_id), due)
        for old, new in zip(item_ids, new_item_ids, strict=True):
            item = _first(order, old)  # as the items are at that moment
            variant = self.products[item["product_id"]]["variants"][new]
            item |= {"item_id": new, "price": variant["price"], "options": copy.deepcopy(variant["options"])}
        kind = "payment" if due > 0 else "refund"
        order["payment_history"].append(
            {"transaction_type": kind, "amount": abs(due), "payment_method_id": payment_method_id}
        )
        self._credit(order, payment_method_id, -due)
        order["status"] = "pending (item modified)"

    def _return_delivered_order_items(self, order_id: str, item_ids: list[str], payment_method_id: str) -> None:
        order = self._order(order_id, DELIVERED)
        method = self._method(order, payment_method_id)
        if method["source"] != "gift_card" and order["payment_history"][0]["payment_method_id"] != payment_method_id:
            raise Refused("REFUND_METHOD_NOT_ALLOWED")
        _must_hold(order, item_ids)
        order["status"] = "return requested"
        order["return_items"] = sorted(item_ids)
        order["return_payment_method_id"] = payment_method_id

    def _exchange_delivered_order_items(
        self, order_id: str, item_ids: list[str], new_item_ids: list[str], payment_method_id: str
    ) -> None:
        order = self._order(order_id, DELIVERED)
        due = self._difference(order, item_ids, new_item_ids)
        self._must_cover(self._method(order, payment_method_id), due)
        order["status"] = "exchange requested"
        order["exchange_items"] = sorted(item_ids)
        order["exchange_new_items"] = sorted(new_item_ids)
        order["exchange_payment_method_id"] = payment_method_id
        order["exchange_price_difference"] = due

    # -- what they share ---------------------------------------------------------------------------------------------

    def _row(self, rows: dict[str, Row], key: str) -> Row:
        """The row itself, copied once, so that what it was at the start is kept."""
        if key not in self._touched:
            self._touched.add(key)
            rows[key] = copy.deepcopy(rows[key])
        return rows[key]

    def _own(self, owner: str) -> None:
        if self.subject is not None and owner != self.subject:
            raise Refused("NOT_OWNER")

    def _order(self, order_id: str, status: str | None = None) -> Row:
        if order_id not in self.orders:
            raise Refused("ORDER_NOT_FOUND")
        order = self._row(self.orders, order_id)
        self._own(order["user_id"])
        if status is not None and order["status"] != status:
            raise Refused(f"ORDER_NOT_{status.upper()}")
        return order

    def _user(self, user_id: str) -> Row:
        if user_id not in self.users:
            raise Refused("USER_NOT_FOUND")
        self._own(user_id)
        return self._row(self.users, user_id)

    def _found(self, matches: Callable[[Row], bool]) -> str:
        for user_id, user in self.users.items():
            if matches(user):
                self._own(user_id)
                return user_id
        raise Refused("USER_NOT_FOUND")

    def _method(self, order: Row, payment_method_id: str) -> Row:
        methods: Rows = self._row(self.users, order["user_id"])["payment_methods"]
        if payment_method_id not in methods:
            raise Refused("PAYMENT_METHOD_INVALID")
        return methods[payment_method_id]

    def _must_cover(self, method: Row, amount: Decimal) -> None:
        if method["source"] == "gift_card" and method["balance"] < amount:
            raise Refused("INSUFFICIENT_BALANCE")

    def _credit(self, order: Row, payment_method_id: str, amount: Decimal) -> None:
        method = self._method(order, payment_method_id)
        if method["source"] == "gift_card":
            method["balance"] += amount

    def _difference(self, order: Row, item_ids: Sequence[str], new_item_ids: Sequence[str]) -> Decimal:
        """What the customer owes for the new items; negative: gets back."""
        _must_hold(order, item_ids)
        if len(item_ids) != len(new_item_ids):
            raise Refused("ITEM_COUNT_MISMATCH")
        due = Decimal(0)
        for old, new in zip(item_ids, new_item_ids, strict=True):
            item = _first(order, old)
            variants = self.products[item["product_id"]]["variants"]
            if new not in variants:
                known = any(new in product["variants"] for product in self.products.values())
                raise Refused("PRODUCT_MISMATCH" if known else "ITEM_UNAVAILABLE")
            if not variants[new]["available"]:
                raise Refused("ITEM_UNAVAILABLE")
            due += variants[new]["price"] - item["price"]
        return due


def _is_text(value: Any) -> bool:
    """Whether it is text. That it holds no U+0000 and no half of a surrogate pair is a limit of ours."""
    return isinstance(value, str) and not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value)


def _must_hold(order: Row, item_ids: Sequence[str]) -> None:
    held = [item["item_id"] for item in order["items"]]
    if any(item_ids.count(item_id) > held.count(item_id) for item_id in item_ids):
        raise Refused("ITEM_NOT_IN_ORDER")


def _first(order: Row, item_id: str) -> Row:
    found: Row = next(item for item in order["items"] if item["item_id"] == item_id)
    return found


def _name(user: Row) -> tuple[str, str]:
    return user["name"]["first_name"], user["name"]["last_name"]


def _value(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant():
            return Fraction(text[node.col_offset : node.end_col_offset])  # its digits, not the nearest binary number
        case ast.UnaryOp():
            value = _value(node.operand, text)
            return -value if isinstance(node.op, ast.USub) else value
        case ast.BinOp():
            left, right = _value(node.left, text), _value(node.right, text)
            match node.op:
                case ast.Add():
                    return left + right
                case ast.Sub():
                    return left - right
                case ast.Mult():
                    return left * right
            return left / right
    raise Refused("EXPRESSION_INVALID")
