"""Scene 5: the last of three steps fails at the target; the first two are taken back and read back."""

import secrets

from counterseal.cli.demo import shop
from counterseal.cli.demo.stage import Stage, draft, expect
from counterseal.client import Step, Undo

TITLE = "step 3 of 3 fails: steps 2 and 1 are compensated and read back"


async def play(stage: Stage) -> list[str]:
    """Reserve stock, pack, hand to a carrier that does not serve the zone."""
    order = await stage.new_order(8000)
    item = f"item-{secrets.token_hex(3)}"
    await stage.sql("INSERT INTO shop.stock (item, quantity) VALUES ($1, 10)", item)
    request = stage.request()
    proposal = await request.propose(draft("Send the order", *_steps(order, item)))
    expect(proposal.outcome == "ALLOW", f"policy answered {proposal.outcome} {proposal.reason_codes}")
    await request.commit(proposal.plan_id, proposal.plan_digest)
    plan = await request.wait(proposal.plan_id)
    expect(plan.state == "ROLLED_BACK", f"the plan ended {plan.state} {plan.reason_code}")
    states = {step.id: step.state for step in plan.steps}
    expect(states == {"s1": "COMPENSATED", "s2": "COMPENSATED", "s3": "NOT_APPLIED"}, f"the steps are {states}")
    failed = next(step for step in plan.steps if step.id == "s3")
    row = await stage.order(order)
    stock = (await stage.sql("SELECT quantity, version FROM shop.stock WHERE item = $1", item))[0]
    expect(row["state"] == "paid" and stock["quantity"] == 10, "the shop is not as it was")
    expect((row["version"], stock["version"]) == (2, 2), "not exactly one effect and one undo for each row")
    undone = [entry["step"] for _, entry in await stage.entries(proposal.plan_digest, "step.intent") if _undoes(entry)]
    expect(undone == ["s2", "s1"], f"undone in the order {undone}")
    ended, _ = await stage.entry(proposal.plan_digest, "compensation.ended")
    return [
        f"plan {proposal.plan_digest}",
        f"s3 {failed.reason_code} {failed.error_code}; s2, s1 undone and read back; ROLLED_BACK, leaf {ended}",
    ]


def _undoes(entry: dict[str, object]) -> bool:
    data = entry.get("data")
    return isinstance(data, dict) and bool(data.get("undoes"))


def _steps(order: str, item: str) -> tuple[Step, ...]:
    version = {"version": {"$before": "/0/version"}}
    stock = {"item": item, "quantity": {"$before": "/0/quantity"}, **version}
    packed = {"order_id": order, "state": {"$before": "/0/state"}, **version}
    return (
        Step(
            "s1",
            "shop.reserve_stock@1.0.0",
            shop.ALIAS,
            {"item": item, "quantity": 3},
            undo=Undo("shop.restore_stock@1.0.0", stock),
        ),
        Step(
            "s2",
            "shop.pack_order@1.0.0",
            shop.ALIAS,
            {"order_id": order},
            needs=["s1"],
            undo=Undo("shop.unpack_order@1.0.0", packed),
        ),
        Step(
            "s3",
            "shop.ship_order@1.0.0",
            shop.ALIAS,
            {"order_id": order, "zone": "MOON"},
            needs=["s2"],
            undo=Undo("shop.recall_shipment@1.0.0", {"order_id": order}, if_exists=True),
        ),
    )
