"""Scene 2: a destructive action in production is denied, and the answer names the rule but shows no data."""

from counterseal.cli.demo import shop
from counterseal.cli.demo.stage import Stage, draft, expect, refused
from counterseal.client import Step

TITLE = "deleting a customer's orders in production is denied"
REASON = "DESTRUCTIVE_IN_PRODUCTION"


async def play(stage: Stage) -> list[str]:
    """Ask for the deletion of a customer's orders."""
    order = await stage.new_order(8000, customer="bob")
    request = stage.request()
    step = Step("s1", "shop.purge_orders@1.0.0", shop.ALIAS, {"customer": "bob"})
    proposal = await request.propose(draft("Clean up old customers", step))
    expect(proposal.outcome == "DENY", f"policy answered {proposal.outcome}")
    expect(REASON in proposal.reason_codes, f"the reasons are {proposal.reason_codes}")
    rules = list(proposal.plan.decision.rules)
    expect("purge/not-in-production" in rules, f"the rules are {rules}")
    expect(not proposal.body, "a denied proposal returned plan bytes")
    await refused(request.commit(proposal.plan_id, proposal.plan_digest), "WRONG_STATE")
    expect((await stage.order(order))["order_id"] == order, "the order is gone")
    index, _ = await stage.entry(proposal.plan_digest, "plan.decided")
    return [f"plan {proposal.plan_digest}", f"DENY {REASON} by {', '.join(rules)}; decision is leaf {index}"]
