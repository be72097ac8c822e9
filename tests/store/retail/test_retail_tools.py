"""The retail tools' own SQL on a real server, at the corners that the task files do not reach."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg
import pytest

from counterseal_executor.connectors.base import Applied, Refused
from support.connectors import RecordingFence
from support.postgres import FreshDatabase
from support.retail import ADDRESS, CONNECTOR, Bench, open_bench, small_shop

NEW_ADDRESS = {**ADDRESS, "address1": "2 Elm St"}
WRITES = [
    ("cancel_pending_order", {"order_id": "#P1", "reason": "no longer needed"}),
    ("modify_pending_order_address", {"order_id": "#P1", **NEW_ADDRESS}),
    ("modify_pending_order_payment", {"order_id": "#P1", "payment_method_id": "paypal_Ana"}),
    (
        "modify_pending_order_items",
        {"order_id": "#P1", "item_ids": ["A"], "new_item_ids": ["B"], "payment_method_id": "gift_card_Ana"},
    ),
    ("return_delivered_order_items", {"order_id": "#D1", "item_ids": ["A"], "payment_method_id": "gift_card_Ana"}),
    (
        "exchange_delivered_order_items",
        {"order_id": "#D1", "item_ids": ["A"], "new_item_ids": ["B"], "payment_method_id": "paypal_Ana"},
    ),
    ("modify_user_address", {"user_id": "ana", **NEW_ADDRESS}),
]


@pytest.fixture
async def bench(fresh_database: FreshDatabase) -> AsyncIterator[Bench]:
    bench = await open_bench(fresh_database, small_shop())
    yield bench
    await bench.database.close()


async def order(bench: Bench, order_id: str) -> Any:
    return (await bench.database.changed_rows())["orders"][order_id]


async def balance(bench: Bench, name: str = "Ana") -> Any:
    return (await bench.database.changed_rows())["users"][name.lower()]["payment_methods"][f"gift_card_{name}"][
        "balance"
    ]


async def test_a_cancelled_order_is_refunded_and_a_gift_card_at_once(bench: Bench) -> None:
    await bench.run("cancel_pending_order", {"order_id": "#P1", "reason": "ordered by mistake"})
    row = await order(bench, "#P1")
    assert (row["status"], row["cancel_reason"]) == ("cancelled", "ordered by mistake")
    assert [(e["transaction_type"], e["amount"]) for e in row["payment_history"]] == [
        ("payment", 32.5),
        ("refund", 32.5),
    ]
    assert await balance(bench) == 82.5


async def test_a_refund_to_another_method_leaves_the_profile_alone(bench: Bench) -> None:
    await bench.run("cancel_pending_order", {"order_id": "#P2", "reason": "no longer needed"})
    assert (await bench.database.changed_rows())["users"] == {}


async def test_a_new_payment_method_is_charged_and_the_old_one_credited(bench: Bench) -> None:
    await bench.run("modify_pending_order_payment", {"order_id": "#P2", "payment_method_id": "gift_card_Ana"})
    row = await order(bench, "#P2")
    assert row["status"] == "pending"
    assert [(e["transaction_type"], e["amount"], e["payment_method_id"]) for e in row["payment_history"]] == [
        ("payment", 40.1, "paypal_Ana"),
        ("payment", 40.1, "gift_card_Ana"),
        ("refund", 40.1, "paypal_Ana"),
    ]
    assert await balance(bench) == 9.9
    facts = await bench.observe(
        "modify_pending_order_payment", {"order_id": "#P2", "payment_method_id": "credit_card_Ana"}
    )
    assert facts["payment_count"] == 3


async def test_items_are_replaced_one_by_one_in_the_order_of_the_list(bench: Bench) -> None:
    args = {
        "order_id": "#P1",
        "item_ids": ["A", "B"],
        "new_item_ids": ["B", "C"],
        "payment_method_id": "gift_card_Ana",
    }
    assert (await bench.observe("modify_pending_order_items", args))["due_cents"] == 250 + 4751
    await bench.run("modify_pending_order_items", args | {"payment_method_id": "paypal_Ana"})
    row = await order(bench, "#P1")
    # The first pair makes the first A a B, which the second pair then finds first.
    assert [(i["item_id"], i["price"], i["options"]) for i in row["items"]] == [
        ("C", 60.01, {"no": "C"}),
        ("A", 10, {"no": "A"}),
        ("B", 12.5, {"no": "B"}),
    ]
    assert row["status"] == "pending (item modified)"
    assert row["payment_history"][-1] == {
        "transaction_type": "payment",
        "amount": 50.01,
        "payment_method_id": "paypal_Ana",
    }


@pytest.mark.parametrize(("new", "kind", "amount", "left"), [("B", "payment", 5, 45), ("A", "refund", 0, 50)])
async def test_a_gift_card_pays_the_difference_at_once(
    bench: Bench, new: str, kind: str, amount: float, left: float
) -> None:
    args = {"order_id": "#P1", "item_ids": ["A", "A"], "new_item_ids": [new, new], "payment_method_id": "gift_card_Ana"}
    await bench.run("modify_pending_order_items", args)
    last = (await order(bench, "#P1"))["payment_history"][-1]
    assert (last["transaction_type"], last["amount"]) == (kind, amount)
    if left != 50:
        assert await balance(bench) == left


async def test_an_exchange_is_recorded_sorted_and_moves_no_money(bench: Bench) -> None:
    args = {
        "order_id": "#D1",
        "item_ids": ["S1", "A", "A"],
        "new_item_ids": ["S2", "C", "B"],
        "payment_method_id": "gift_card_Ana",
    }
    await bench.run("exchange_delivered_order_items", args)
    changed = await bench.database.changed_rows()
    row = changed["orders"]["#D1"]
    assert row["exchange_items"] == ["A", "A", "S1"]
    assert row["exchange_new_items"] == ["B", "C", "S2"]
    assert row["exchange_price_difference"] == 52.4
    assert row["status"] == "exchange requested"
    assert changed["users"] == {}


async def test_the_facts_count_what_policy_refuses(bench: Bench) -> None:
    async def facts(name: str, **args: Any) -> Mapping[str, Any]:
        return await bench.observe(name, {"order_id": "#P1", "payment_method_id": "paypal_Ana", **args})

    modify = "modify_pending_order_items"
    seen = await facts(modify, item_ids=["A", "A", "A", "Z"], new_item_ids=["B"])
    assert (seen["missing_item_count"], seen["item_count"], seen["new_item_count"]) == (2, 4, 1)
    seen = await facts(modify, item_ids=["A", "A", "B"], new_item_ids=["D", "nothing", "S1"])
    assert (seen["unavailable_item_count"], seen["other_product_count"]) == (2, 1)
    seen = await facts(modify, item_ids=["A"], new_item_ids=["B"], payment_method_id="paypal_Bob")
    assert (seen["payment_exists"], seen["payment_source"]) == (False, "")
    seen = await facts(modify, item_ids=["A"], new_item_ids=["B"], order_id="#none")
    assert (seen["order_exists"], seen["owner"], seen["order_status"]) == (False, "", "")
    seen = await facts(
        "return_delivered_order_items", order_id="#D1", item_ids=["A"], payment_method_id="credit_card_Ana"
    )
    assert seen["payment_is_original"]
    seen = await facts("modify_pending_order_payment", order_id="#B1")
    assert seen["owner"] == "user:bob"
    assert all(value is not None for value in seen.values())


@pytest.mark.parametrize(("name", "args"), WRITES, ids=[name for name, _ in WRITES])
async def test_an_undo_puts_back_every_row_that_the_write_changed(
    bench: Bench, name: str, args: Mapping[str, Any]
) -> None:
    forward = await bench.run(name, args)
    assert await bench.database.changed_rows() != {"orders": {}, "users": {}}
    undone = await bench.undo(forward)
    assert isinstance(undone, Applied), undone
    assert await bench.database.changed_rows() == {"orders": {}, "users": {}}
    back = bench.call("restore", dict(forward.before[0]), before=undone.before)
    assert (await CONNECTOR.verify(back, undone.output, bench.credential)).ok


async def test_an_undo_never_overwrites_what_somebody_wrote_afterwards(bench: Bench) -> None:
    forward = await bench.run("modify_pending_order_address", {"order_id": "#P1", **NEW_ADDRESS})
    await bench.run("cancel_pending_order", {"order_id": "#P1", "reason": "no longer needed"})
    assert await bench.undo(forward) == Refused("ROWS_MISSING", "0 rows instead of at least 1; nothing was kept")
    assert (await order(bench, "#P1"))["status"] == "cancelled"


async def test_no_gift_card_goes_below_zero_even_without_policy(bench: Bench) -> None:
    args = {"order_id": "#P1", "item_ids": ["A"], "new_item_ids": ["C"], "payment_method_id": "gift_card_Ana"}
    answer = await CONNECTOR.execute(bench.call("modify_pending_order_items", args), bench.credential, RecordingFence())
    assert isinstance(answer, Refused)
    assert answer.error_code == "CHECK_VIOLATION"
    assert await bench.database.changed_rows() == {"orders": {}, "users": {}}


async def test_reads_answer_in_cents_and_as_their_schemas_say(bench: Bench) -> None:
    answer = await bench.run("get_order_details", {"order_id": "#P2"})
    assert [i["price_cents"] for i in answer.output["rows"][0]["items"]] == [1000, 3010]
    answer = await bench.run("get_user_details", {"user_id": "ana"})
    assert answer.output["rows"][0]["payment_methods"][1] == {
        "id": "gift_card_Ana",
        "source": "gift_card",
        "balance_cents": 5000,
    }
    answer = await bench.run("get_product_details", {"product_id": "cup"})
    assert len(answer.output["rows"][0]["variants"]) == 4
    answer = await bench.run("list_all_product_types", {})
    assert [row["name"] for row in answer.output["rows"]] == ["cup", "shirt"]
    answer = await bench.run("find_user_id_by_email", {"email": "ANA@example.com"})
    assert answer.output["rows"] == [{"user_exists": True, "owner": "user:ana"}]
    answer = await bench.run("find_user_id_by_name_zip", {"first_name": "ana", "last_name": "doe", "zip": "75460"})
    assert answer.output["rows"] == [{"user_exists": True, "owner": "user:ana"}]
    assert (await bench.run("think", {"thought": "hm"})).output == {"rows": [{"noted": True}]}
    assert (await bench.run("transfer_to_human_agents", {"summary": "s"})).output == {"rows": [{"transferred": True}]}


NO_ARITHMETIC = ["1/0", "1/(2-2)", "2**3", "7//2", "1 2", "((1", "(2)(3)", "2(3)", "1.5.2", "()", " ", "1;SELECT 1"]
NO_ARITHMETIC += ["pg_sleep(9)", "1e9", "~1", "#", "$", "007", "-", "3-", ".", "1..5", "1.(2)", "(1).5"]
NO_ARITHMETIC += ["2 /* 3 */ + 1", "2 /*", "(1).*", "(1).**", "1 .*", "1 .**", "1.5.**", "1. .**", "1 + x", "1\n+2"]
NO_ARITHMETIC += ["\u0661"]
ARITHMETIC = {"2 * (3.5 - 1)": "5.00", "9" * 20: "9" * 20 + ".00", "1+" * 400 + "1": "401.00", "--5": "5.00"}
ARITHMETIC |= {" 1.*2 ": "2.00", ".5": "0.50", "00": "0.00", "007.5": "7.50", "1/3*3": "1.00", "-2-(-3)*-4": "-14.00"}
"""What no draw of `support.retail_calls` may reach, and what tells a parser from another; the rest is drawn."""


async def test_what_is_no_arithmetic_is_not_calculated(bench: Bench) -> None:
    for text in NO_ARITHMETIC:
        assert await bench.observe("calculate", {"expression": text}) == {"expression_valid": False, "result": ""}, text
    for text, result in ARITHMETIC.items():
        assert await bench.observe("calculate", {"expression": text}) == {"expression_valid": True, "result": result}


async def test_the_tools_role_can_touch_nothing_but_what_they_write(bench: Bench) -> None:
    login = bench.credential
    connection = await asyncpg.connect(user=login.username, password=login.password, **bench.target.settings)
    try:
        beyond = ("DELETE FROM retail.orders", "UPDATE retail.variants SET price_cents = 0", "TABLE pristine.users")
        for sql in beyond:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(sql)
    finally:
        await connection.close()
