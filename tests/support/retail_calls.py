"""Made-up shops and tasks for the retail tools, drawn near every edge that they have. A seed gives the same again."""

import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from support.retail import ADDRESS, item, user, variant
from support.retail_reference import PARAMETERS, PLACE, REASONS, ReferenceShop, Row

Call = tuple[str, Any]
"""A tool's name and its arguments, which may be of any form."""

FAR = {**ADDRESS, "address1": "Üsküdar Cd. 7", "address2": "", "city": "İzmir", "zip": "00000"}
PRICES = ("10.00", "10.00", "9.99", "10.01", "29.90", "0.00", "1.00", "99.95")
BALANCES = (0, 1, 1, 99, 100, 1990, 2000, 8995, 8996, 50000)
STATUSES = ("pending", "pending", "pending", "delivered", "delivered", "delivered", "processed", "cancelled")
LATER = ("pending (item modified)", "return requested", "exchange requested")
WRITES = [name for name in PARAMETERS if "order" in name and not name.startswith("get")]
TOOLS = [*PARAMETERS, *WRITES, *WRITES, *WRITES]


def made_up_shop(rng: random.Random) -> tuple[dict[str, Row], dict[str, Row], dict[str, Row]]:
    """Users, orders and products in the files' form: few names, few prices, so that everything nearly collides."""
    products: dict[str, Row] = {}
    for number, name in enumerate(("cup", "shirt", "Öllampe", "nothing at all")):
        # Ids of different lengths sort as texts, not as numbers. The last product has no variants.
        ids = [str(10 ** rng.randrange(1, 4) + 50 * number + n) for n in range(0 if number == 3 else 7)]
        variants = {i: variant(i, rng.choice(PRICES), available=rng.random() < 0.7) for i in sorted(set(ids))}
        products[f"p{number}"] = {"name": name, "product_id": f"p{number}", "variants": variants}
    users: dict[str, Row] = {}
    orders: dict[str, Row] = {}
    for n, name in enumerate(("Ana", "Bob", "Zoë", "ana", "Ève")):
        user_id = f"{'abzne'[n]}_doe_{n}"  # ASCII, as the id of whoever signs in must be
        users[user_id] = user(name, rng.choice(BALANCES), [])
        users[user_id]["email"] = f"{name}.{n}@example.com"
        users[user_id]["address"] = {**ADDRESS, "zip": f"7546{n}"}
        second = {"source": "gift_card", "id": f"gift_card_{name}_2", "balance": Decimal(rng.choice(BALANCES)) / 100}
        users[user_id]["payment_methods"] |= {second["id"]: second} if rng.random() < 0.5 else {}
        for status in (*STATUSES, rng.choice(LATER)):
            order = _order(rng, f"#W{len(orders)}", user_id, status, products, list(users[user_id]["payment_methods"]))
            orders[order["order_id"]] = order
            users[user_id]["orders"].append(order["order_id"])
    return users, orders, products


def _order(
    rng: random.Random, order_id: str, user_id: str, status: str, products: dict[str, Row], methods: list[str]
) -> Row:
    items = []
    for _ in range(rng.choice((1, 2, 3, 5))):
        product = rng.choice([p for p in products.values() if p["variants"]])
        chosen = rng.choice([*product["variants"].values()])
        # Bought long ago, perhaps: today's price may be another one.
        price = chosen["price"] if rng.random() < 0.7 else Decimal(rng.choice(PRICES))
        items.append({**item(chosen["item_id"], product["name"], str(price)), "product_id": product["product_id"]})
    items += [dict(items[0])] if rng.random() < 0.4 else []
    paid = {
        "transaction_type": "payment",
        "amount": sum((i["price"] for i in items), Decimal(0)),
        "payment_method_id": rng.choice(methods),
    }
    history = [paid]
    if status == "cancelled":
        history.append({**paid, "transaction_type": "refund"})
    elif status == "pending" and rng.random() < 0.25:  # paid anew with another method before
        history.append({**paid, "payment_method_id": rng.choice(methods)})
        history.append({**paid, "transaction_type": "refund"})
    elif status == "pending" and rng.random() < 0.1:
        history[0] = {**paid, "transaction_type": "refund"}
    order: Row = {
        "order_id": order_id,
        "user_id": user_id,
        "address": {**ADDRESS, "address2": f"Apt {order_id}"},
        "items": items,
        "fulfillments": []
        if status == "pending"
        else [{"tracking_id": ["1"], "item_ids": [i["item_id"] for i in items]}],
        "status": status,
        "payment_history": history,
    }
    if status == "cancelled":
        order["cancel_reason"] = REASONS[0]
    if status == "return requested":
        order |= {"return_items": [items[0]["item_id"]], "return_payment_method_id": methods[0]}
    if status == "exchange requested":
        ids = [items[0]["item_id"]]
        order |= {"exchange_items": ids, "exchange_new_items": ids, "exchange_payment_method_id": methods[0]}
        order["exchange_price_difference"] = Decimal("-0.01")
    return order


class Caller:
    """Draws calls that suit a shop as it is now, and calls that nearly do."""

    def __init__(self, rng: random.Random, shop: ReferenceShop, subject: str) -> None:
        self._rng = rng
        self._shop = shop
        self._subject = subject

    def calls(self) -> Iterator[Call]:
        """Endlessly; each one is drawn when it is asked for, from the rows as they are then."""
        while True:
            name = self._rng.choice(TOOLS)
            args: Any = {key: self._argument(key) for key in PARAMETERS[name]}
            if "order_id" in args:
                args |= self._about_an_order(name, args)
            yield name, self._spoilt(args) if self._rng.random() < 0.06 else args

    def _about_an_order(self, name: str, args: Row) -> Row:
        rng, orders = self._rng, self._shop.orders
        own = [order for order in orders.values() if order["user_id"] == self._subject]
        fitting = [o for o in own if o["status"] == ("delivered" if "delivered" in name else "pending")]
        pool = rng.choices((fitting or own, own, list(orders.values())), (8, 2, 1))[0]
        order = rng.choice(pool or list(orders.values()))
        methods = self._shop.users[order["user_id"]]["payment_methods"]
        found: Row = {"order_id": self._near(order["order_id"])}
        if "payment_method_id" in args:
            anybodys = [m for u in self._shop.users.values() for m in u["payment_methods"]]
            paid_by = [entry["payment_method_id"] for entry in order["payment_history"]]
            gift_cards = [key for key, method in methods.items() if method["source"] == "gift_card"]
            pools = (gift_cards or paid_by, list(methods), paid_by, anybodys)
            found["payment_method_id"] = self._near(rng.choice(rng.choices(pools, (6, 6, 3, 1))[0]))
        if "item_ids" in args:
            found["item_ids"] = self._items(order)
        if "new_item_ids" in args:
            found["new_item_ids"] = self._new_items(order, found["item_ids"])
        return found

    def _items(self, order: Row) -> list[str]:
        rng, held = self._rng, [item["item_id"] for item in order["items"]]
        ids = rng.sample(held, rng.randint(1, len(held)))
        match rng.randrange(16):
            case 0:
                ids.append(rng.choice(held))  # perhaps one more than there are
            case 1:
                ids.append(rng.choice(self._variants())["item_id"])
            case 2:
                ids = []
            case 3:
                ids[0] = self._near(ids[0])
        return ids

    def _new_items(self, order: Row, ids: Sequence[str]) -> list[str]:
        rng, found = self._rng, []
        for item_id in ids:
            product = next((i["product_id"] for i in order["items"] if i["item_id"] == item_id), None)
            variants = list(self._shop.products[product]["variants"].values()) if product else self._variants()
            available = [v for v in variants if v["available"]] or variants
            also_held = [v for v in available if any(i["item_id"] == v["item_id"] for i in order["items"])]
            pools = (available, also_held or available, variants, self._variants())
            found.append(rng.choice(rng.choices(pools, (12, 4, 1, 1))[0])["item_id"])
        match rng.randrange(30):
            case 0:
                found.append(rng.choice(self._variants())["item_id"])
            case 1:
                found = found[:-1]
            case 2 if found:
                found[-1] = self._near(found[-1])
        return found

    def _variants(self) -> list[Row]:
        return [variant for product in self._shop.products.values() for variant in product["variants"].values()]

    def _argument(self, name: str) -> Any:
        rng, own = self._rng, self._shop.users.get(self._subject)
        someone = rng.choice(list(self._shop.users.values()))
        person = own if own is not None and rng.random() < 0.8 else someone
        match name:
            case "user_id":
                return self._near(self._subject if person is own else rng.choice(list(self._shop.users)))
            case "email":
                return self._near(person["email"])
            case "first_name" | "last_name":
                return self._near(person["name"][name])
            case "zip" if rng.random() < 0.9:
                return self._near(person["address"]["zip"])
            case "product_id":
                return rng.choice((*self._shop.products, self._near(rng.choice(self._variants())["item_id"])))
            case "reason":
                return rng.choice((*REASONS, *REASONS, *REASONS, "No longer needed", ""))
            case "expression":
                return expression(rng)
        return rng.choice((person["address"], FAR))[name] if name in PLACE else rng.choice(("", "Grüße", "x" * 30))

    def _near(self, text: str) -> str:
        """Mostly the text itself."""
        match self._rng.randrange(60):
            case 0:
                return text.removeprefix("#")
            case 1:
                return text.swapcase()
            case 2:
                return text + self._rng.choice((" ", "0", "'; --", "\u00e9"))
            case 3:
                return ""
            case 4 | 5 | 6:
                return text.upper()
        return text

    def _spoilt(self, args: Row) -> Any:
        """Arguments that do not fit the tool: one too many, one too few, one of another type, or no object."""
        rng, name = self._rng, self._rng.choice([*args, "order_id"])
        other = rng.choice(
            (None, 1, 2.5, True, [], {}, ["1", 2], [None], "text", {"$before": "/0/order"}, "a\0b", "\ud800")
        )
        match rng.randrange(4):
            case 0:
                return {key: value for key, value in args.items() if key != name}
            case 1:
                return {**args, rng.choice(("extra", "user_id", "", "$ref")): other}
            case 2 if rng.random() < 0.2:
                return rng.choice((None, [], [args], "args", 7))
        return {**args, name: other}


def expression(rng: random.Random) -> str:
    """Arithmetic, or nearly so."""
    text = _arithmetic(rng, rng.choice((0, 1, 2, 3, 3, 6)))
    if rng.random() < 0.1:
        text = "(" * 40 + text + ")" * 40
    for _ in range(rng.choice((0, 0, 0, 0, 1, 2)) if len(text) < 990 else 0):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice("0123456789+-*/(). ae,") + text[at + rng.randrange(2) :]
    return text


def _arithmetic(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.2:
        number = rng.choice((str(rng.randrange(100)), f"{rng.randrange(10**5) / 100:.2f}", "0", "0.1", ".5", "7."))
        return rng.choice(("", "", "", "", "-", "+", "--")) + number
    left, right = _arithmetic(rng, depth - 1), _arithmetic(rng, depth - 1)
    blank = rng.choice(("", " ", "  "))
    joined = f"{left}{blank}{rng.choice('+-*/')}{blank}{right}"
    return f"({joined})" if rng.random() < 0.5 else joined
