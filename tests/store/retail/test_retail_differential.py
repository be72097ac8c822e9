"""The tools' SQL and the rules against a second implementation, call by call, on shops and calls that are drawn.

Both must refuse the same calls, for the same reason, give the same answers and leave the same rows.
"""

import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from examples.retail.workload import Shop, in_cents, read_shop, read_tasks, same_rows

from counterseal.canonical import canonical
from counterseal.documents.plan import markers
from counterseal.documents.schema import validate
from counterseal.errors import InputInvalid, NotCanonical
from support.postgres import FreshDatabase
from support.requirements import requirement
from support.retail import Direct, open_bench, retail_data
from support.retail_calls import Call, Caller, made_up_shop
from support.retail_policy import ask, retail_policy
from support.retail_reference import PARAMETERS, ReferenceShop, Refused

TASKS = int(os.environ.get("RETAIL_TASKS", "60"))
"""More of them for a long hunt; every twenty have a shop of their own."""
CALLS = 6
REASONS = {
    *(
        "NOT_OWNER",
        "ORDER_NOT_FOUND",
        "ORDER_NOT_PENDING",
        "ORDER_NOT_DELIVERED",
        "USER_NOT_FOUND",
        "PRODUCT_NOT_FOUND",
    ),
    *("ITEM_NOT_IN_ORDER", "ITEM_COUNT_MISMATCH", "ITEM_UNAVAILABLE", "PRODUCT_MISMATCH", "INSUFFICIENT_BALANCE"),
    *("PAYMENT_METHOD_INVALID", "PAYMENT_METHOD_UNCHANGED", "PAYMENT_ALREADY_MODIFIED", "REFUND_METHOD_NOT_ALLOWED"),
    *("ORDER_NOT_DELIVERED", "EXPRESSION_INVALID", "ARGUMENTS"),
}
"""Every reason that the policy knows."""
TEXTS = {
    "Policy: not the requesting user's": "NOT_OWNER",
    "Error: insufficient gift card balance to pay for the order": "INSUFFICIENT_BALANCE",
    "Error: insufficient gift card balance to pay for the new item": "INSUFFICIENT_BALANCE",
    "Error: insufficient gift card balance to pay for the price difference": "INSUFFICIENT_BALANCE",
    "Error: product not found": "PRODUCT_NOT_FOUND",
    "Error: payment method should be either the original payment method or a gift card": "REFUND_METHOD_NOT_ALLOWED",
}
"""Why the task files say that a call must be refused."""


def reference(shop: Shop, subject: str) -> ReferenceShop:
    return ReferenceShop(shop.users, shop.orders, shop.products, subject)


def said(again: ReferenceShop, call: Call) -> tuple[str | None, Any]:
    """Why the reference refuses, or None and its answer."""
    try:
        return None, again.call(*call)
    except Refused as refused:
        return refused.code, None


@pytest.mark.parametrize("name", ["tasks-dev.json", "tasks-reads.json", "tasks-more.json", "tasks-foreign.json"])
def test_the_second_implementation_is_right_about_every_task_of_the_files(name: str) -> None:
    data = retail_data()
    shop = read_shop(data)
    for task in read_tasks(data / name):
        again = reference(shop, task.user_id)
        for action in task.actions:
            code, _ = said(again, (action.tool, action.args))
            assert code == (None if action.refused is None else TEXTS[action.refused]), (task.id, action)
        assert same_rows(again.changed(), task.expected), task.id


class Pair:
    """The shop twice: in the database, behind policy, and in the reference."""

    def __init__(self, direct: Direct, shop: Shop) -> None:
        self.direct = direct
        self.shop = shop
        self.policy = retail_policy()
        self.seen: Counter[tuple[str, str]] = Counter()

    async def task(self, rng: random.Random, subject: str, calls: int) -> None:
        """Some calls for one customer, and the rows that they leave."""
        again = reference(self.shop, subject)
        drawn = Caller(rng, again, subject).calls()
        done: list[Call] = []
        for _ in range(calls):
            call = next(drawn)
            done.append(call)
            expected = await self._call(call, again)
            self.seen[call[0], expected] += 1
        left = await self.direct.bench.database.changed_rows()
        assert same_rows(left, again.changed()), (subject, done)
        await self.direct.bench.database.reset()

    async def _call(self, call: Call, again: ReferenceShop) -> str:
        name, args = call
        subject = again.subject or ""
        codes, answer = await self._governed(name, args, subject)
        code, expected = said(again, call)
        assert bool(codes) == (code is not None), (subject, call, codes, code)
        if code is not None:
            assert code in codes or form_refused(args, codes), (subject, call, codes, code)
            return code
        assert looks_like(name, answer, expected), (subject, call, answer, expected)
        return "done"

    async def _governed(self, name: str, args: Any, subject: str) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
        """Why it is refused, or its answer's rows."""
        try:
            canonical(args)
            validate(self.direct.bench.tools[name].input_schema, args)
        except (InputInvalid, NotCanonical):
            return ("ARGUMENTS",), []
        if any(markers(args, "")):
            return ("ARGUMENTS",), []
        observed = await self.direct.observe(name, args)
        judged = ask(self.policy, self.direct.bench.tools, name, args, observed, subject)
        if judged.outcome != "ALLOW":
            assert judged.outcome == "DENY"
            return judged.reason_codes, []
        return (), await self.direct.run(name, args)


def form_refused(args: Any, codes: tuple[str, ...]) -> bool:
    """Whether the call's form was refused before anybody looked at the rows; ids that rules read must be ASCII."""
    return codes == ("ARGUMENTS",) or (codes == ("INPUT_INVALID",) and not str(args).isascii())


def looks_like(name: str, rows: list[dict[str, Any]], expected: Any) -> bool:
    """Compare an answer's rows with what the reference says, both in cents."""
    if name.startswith("find_user_id"):
        return rows == [{"user_exists": True, "owner": f"user:{expected}"}]
    if name == "calculate":
        value, exact = Decimal(rows[0]["result"]), Decimal(expected.numerator) / Decimal(expected.denominator)
        return bool(abs(value - exact) <= Decimal("0.006") + abs(exact) / 10**9)
    if name == "list_all_product_types":
        return bool({row["name"]: row["product_id"] for row in rows} == expected)
    if not name.startswith("get_"):
        return True
    said = {key: value for key, value in _as_in_files(rows[0]).items() if value is not None}
    if name == "get_product_details":
        said["variants"] = {variant["item_id"]: variant for variant in said["variants"]}
    if name == "get_user_details":
        said["name"] = {part: said.pop(part) for part in ("first_name", "last_name")}
        said["payment_methods"] = {method["id"]: method for method in said["payment_methods"]}
        expected = {"user_id": said["user_id"], **expected}
    return bool(said == in_cents(expected))


def _as_in_files(value: Any) -> Any:
    """An answer in the files' form but for its amounts, which stay in cents."""
    if isinstance(value, list):
        return [_as_in_files(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    found = {key.removesuffix("_cents"): _as_in_files(entry) for key, entry in value.items()}
    if "options" in found:
        found["options"] = {option["name"]: option["value"] for option in found["options"]}
    return found


@asynccontextmanager
async def pair_of(shop: Shop, fresh_database: FreshDatabase) -> AsyncIterator[Pair]:
    bench = await open_bench(fresh_database, shop)
    direct = await Direct.open(bench)
    try:
        yield Pair(direct, shop)
    finally:
        await direct.connection.close()
        await bench.database.close()


@pytest.mark.slow
@requirement("run:tau-any-task")
async def test_tools_and_rules_are_the_reference_on_made_up_shops(fresh_database: FreshDatabase) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for seed in range(TASKS // 20):
        rng = random.Random(seed)
        shop = Shop(*made_up_shop(rng))
        async with pair_of(shop, fresh_database) as pair:
            for _ in range(20):
                await pair.task(rng, rng.choice([*shop.users]), CALLS)
            seen += pair.seen
    assert {name for name, verdict in seen if verdict == "done"} == set(PARAMETERS)
    assert {verdict for _, verdict in seen} >= REASONS, "the calls no longer reach every edge"


async def test_tools_and_rules_are_the_reference_on_the_files(fresh_database: FreshDatabase) -> None:
    rng, shop = random.Random(7), read_shop(retail_data())
    buyers = [user_id for user_id, user in shop.users.items() if user["orders"]]
    async with pair_of(shop, fresh_database) as pair:
        for _ in range(TASKS // 2):
            await pair.task(rng, rng.choice(buyers), CALLS)
