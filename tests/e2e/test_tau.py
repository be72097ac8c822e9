"""The retail runner on a shop of a few rows: every tool, every kind of refusal, through a stack of its own."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from examples.retail.catalogue import descriptors
from examples.retail.run import main

from support.postgres import open_directory
from support.requirements import requirement
from support.retail import ADDRESS, small_shop

NEW_ADDRESS = {**ADDRESS, "address1": "2 Elm St"}
Row = dict[str, Any]


def call(tool: str, refused: str | None = None, *, write: bool = False, **args: Any) -> Row:
    return {"tool": tool, "args": args, "write": write, "refused": refused}


def task(task_id: str, user: str, actions: list[Row], orders: Row | None = None, users: Row | None = None) -> Row:
    expected = {"orders": orders or {}, "users": users or {}}
    return {"id": task_id, "user_id": user, "instruction": "", "actions": actions, "expected_changed_rows": expected}


def tasks() -> list[Row]:
    """What must come out, written down by hand."""
    shop = small_shop()
    entry = {"transaction_type": "payment", "amount": Decimal("32.5"), "payment_method_id": "gift_card_Ana"}
    cancelled = shop.orders["#P1"] | {
        "status": "cancelled",
        "cancel_reason": "no longer needed",
        "payment_history": [entry, entry | {"transaction_type": "refund"}],
    }
    methods = shop.users["ana"]["payment_methods"]
    richer = shop.users["ana"] | {
        "payment_methods": methods | {"gift_card_Ana": methods["gift_card_Ana"] | {"balance": Decimal("82.5")}}
    }
    cancel = {"order_id": "#P1", "reason": "no longer needed"}
    pay = {"order_id": "#P2", "payment_method_id": "gift_card_Ana"}
    swap = {"order_id": "#P2", "item_ids": ["A"], "new_item_ids": ["C"], "payment_method_id": "gift_card_Ana"}
    back = {"order_id": "#D1", "item_ids": ["A"], "payment_method_id": "credit_card_Ana"}
    moved = {"order_id": "#B1", **NEW_ADDRESS}
    return [
        task(
            "cancel", "ana", [call("cancel_pending_order", write=True, **cancel)], {"#P1": cancelled}, {"ana": richer}
        ),
        task(
            "twice",
            "ana",
            [
                call("cancel_pending_order", write=True, **cancel),
                call("cancel_pending_order", "already cancelled", write=True, **cancel),
                call("modify_pending_order_payment", "cancelled", write=True, **pay | {"order_id": "#P1"}),
            ],
            {"#P1": cancelled},
            {"ana": richer},
        ),
        task(
            "refusals",
            "ana",
            [
                call("cancel_pending_order", "bob's", write=True, order_id="#B1", reason="no longer needed"),
                call("cancel_pending_order", "no such reason", write=True, order_id="#P1", reason="a whim"),
                call("cancel_pending_order", "no such order", write=True, **cancel | {"order_id": "#none"}),
                call("modify_pending_order_items", "too dear", write=True, **swap),
                call("modify_pending_order_items", "sold out", write=True, **swap | {"new_item_ids": ["D"]}),
                call("modify_pending_order_items", "a shirt", write=True, **swap | {"new_item_ids": ["S1"]}),
                call(
                    "return_delivered_order_items",
                    "not paid so",
                    write=True,
                    **back | {"payment_method_id": "paypal_Ana"},
                ),
                call("return_delivered_order_items", "only two", write=True, **back | {"item_ids": ["A", "A", "A"]}),
                call("get_order_details", "bob's", order_id="#B1"),
                call("get_user_details", "bob", user_id="bob"),
                call("get_product_details", "no such product", product_id="hat"),
                call("find_user_id_by_email", "nobody", email="eve@example.com"),
                call("calculate", "no arithmetic", expression="2 +"),
                call("restore", "rows made up", write=True, order=None, customer='{"user_id": "bob"}'),
            ],
        ),
        task(
            "reads",
            "ana",
            [
                call("find_user_id_by_email", email="ana@example.com"),
                call("find_user_id_by_name_zip", first_name="Ana", last_name="Doe", zip="75460"),
                call("get_user_details", user_id="ana"),
                call("get_order_details", order_id="#D1"),
                call("get_product_details", product_id="cup"),
                call("list_all_product_types"),
                call("calculate", expression="2 * (3.5 - 1)"),
                call("think", thought="it is expensive"),
                call("transfer_to_human_agents", summary="wants a person"),
            ],
        ),
        task(
            "address",
            "bob",
            [
                call("modify_pending_order_address", write=True, **moved),
                call("modify_user_address", write=True, user_id="bob", **NEW_ADDRESS),
                call("modify_user_address", "ana's", write=True, user_id="ana", **NEW_ADDRESS),
            ],
            {"#B1": shop.orders["#B1"] | {"address": NEW_ADDRESS}},
            {"bob": shop.users["bob"] | {"address": NEW_ADDRESS}},
        ),
    ]


def oddities() -> list[Row]:
    """What no honest client sends: refused for a reason, or done exactly as it is said; and none stops the run."""
    cancel = {"order_id": "#P1", "reason": "no longer needed"}
    swap = {"order_id": "#P2", "item_ids": ["A"], "new_item_ids": ["B"], "payment_method_id": "paypal_Ana"}
    odd: list[Row] = [
        {},
        cancel | {"order_id": 1},
        cancel | {"reason": None},
        cancel | {"order_id": float("nan")},
        cancel | {"order_id": 1e300},
        cancel | {"order_id": "P1"},
        cancel | {"order_id": ""},
        cancel | {"order_id": "#P1\0"},
        cancel | {"order_id": "#P1\ud800"},
        cancel | {"order_id": "#" * 5000},
        cancel | {"order_id": {"$before": "/0/order"}},
        cancel | {"order_id": "Ünknown"},
    ]
    shapeless: list[Any] = [None, [], "x", 7]
    unknown = ("make_coffee", "", "Think", "think@1.0.0", "\ud800")
    spelled = {
        "address1": "Üsküdar Cd. 7\u202e",
        "address2": "",
        "city": "İzmir",
        "state": "—",
        "country": "🇹🇷",
        "zip": "0",
    }
    return [
        task("nothing", "ana", []),
        task(
            "forms",
            "ana",
            [
                *({"tool": "cancel_pending_order", "args": args, "write": True, "refused": "form"} for args in odd),
                *({"tool": "think", "args": other, "write": False, "refused": "form"} for other in shapeless),
                call("think", "one too many", thought="x", loudly=True),
                call("calculate", "a number", expression=2.5),
                call("modify_pending_order_items", "one item is no list", write=True, **swap | {"item_ids": "A"}),
                call("modify_pending_order_items", "a number", write=True, **swap | {"item_ids": ["A", 1]}),
                call(
                    "modify_pending_order_items",
                    "more than a list may hold",
                    write=True,
                    **swap | {"item_ids": ["A"] * 101},
                ),
                *(call(tool, "no such tool", sugar=2) for tool in unknown),
                call("think", thought="ü" * 20_000),
            ],
        ),
        task(
            "spelling",
            "ana",
            [call("modify_pending_order_address", write=True, order_id="#P2", **spelled)],
            {"#P2": small_shop().orders["#P2"] | {"address": spelled}},
        ),
        # An id that is a member of staff's, one that nobody has, and some that no token service accepts.
        *(
            task(
                f"stranger {stranger}",
                stranger,
                [
                    call("cancel_pending_order", "ana's", write=True, **cancel),
                    call("get_user_details", "nobody of that id", user_id=stranger),
                ],
            )
            for stranger in ("ida", "nobody_1234", "", "zoë doe", "\ud800", "a" * 5000)
        ),
    ]


def write_data(folder: Path, found: list[Row]) -> None:
    shop = small_shop()
    tools = [{"name": tool.name.removeprefix("retail.")} for tool in descriptors()]
    for name, content in (
        ("users", shop.users),
        ("orders", shop.orders),
        ("products", shop.products),
        ("tools", [tool for tool in tools if tool["name"] != "restore"]),
        ("tasks-small", found),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content, default=float))


@pytest.mark.slow
@pytest.mark.timeout(400)
@requirement("run:tau", "run:tau-any-input")
def test_a_small_workload_ends_in_the_reference_state_with_every_write_in_the_exported_ledger(tmp_path: Path) -> None:
    wanted = [*tasks(), *oddities()]
    wrong = task("wrong", "bob", [call("get_order_details", order_id="#B1")], {"#B1": {"order_id": "#B1"}})
    data = tmp_path / "données, à part"
    data.mkdir()
    write_data(data, [*wanted, wrong])
    again = tasks()[-1]  # in another file, under the same id
    (tmp_path / "more.json").write_text(json.dumps([again], default=float))
    out = tmp_path / "not there" / "out.json"
    files = f"tasks-small.json,{tmp_path / 'more.json'}"
    with open_directory("counterseal-tau-") as stack:
        code = main(["--data", str(data), "--tasks", files, "--out", str(out), "--stack", str(stack / "stack")])
    report = json.loads(out.read_text())
    found = [(t["id"], t["state_equal"], t["refused_as_reference"]) for t in report["tasks"]]
    assert found == [*((t["id"], True, True) for t in wanted), ("wrong", False, True), (again["id"], True, True)]
    assert code == 3, "a difference is never passed over"
    totals = report["totals"]
    assert (totals["ledger_verdict"], totals["writes"], totals["writes_in_ledger"]) == ("verified", 7, 7)
    assert (Path(report["ledger"]) / "checkpoint").exists()
    reasons = {r for t in report["tasks"] for c in t["calls"] if c["refused"] for r in c["reason_codes"]}
    assert reasons >= {"NOT_OWNER", "ORDER_NOT_FOUND", "ORDER_NOT_PENDING", "INSUFFICIENT_BALANCE", "ITEM_UNAVAILABLE"}
    assert reasons >= {"PRODUCT_MISMATCH", "REFUND_METHOD_NOT_ALLOWED", "ITEM_NOT_IN_ORDER", "USER_NOT_FOUND"}
    assert reasons >= {"PRODUCT_NOT_FOUND", "EXPRESSION_INVALID", "PLAN_INVALID", "INPUT_INVALID", "NOT_CANONICAL"}
    assert "TOKEN_INVALID" in reasons
    for entry in (c for t in report["tasks"] for c in t["calls"]):
        assert entry["refused"] == (entry["decision"] == "DENY")
        assert entry["refused"] or entry["intent_index"] is not None
        assert not entry["refused"] or entry["reason_codes"]
    assert (
        pytest.approx(82.5)
        == next(iter(report["tasks"][0]["changed_rows"]["users"].values()))["payment_methods"]["gift_card_Ana"][
            "balance"
        ]
    )
