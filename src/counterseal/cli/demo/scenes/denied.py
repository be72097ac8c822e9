"""Scene 2: a destructive action in production is denied, and the answer names the rule but shows no data."""

from counterseal.canonical import parse_canonical
from counterseal.cli.demo import shop
from counterseal.cli.demo.stage import SceneFailed, Stage, draft, expect, refused
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
    await refused(request.commit(proposal.plan_id, proposal.plan_digest), "NOT_FOUND")
    expect((await stage.order(order))["order_id"] == order, "the order is gone")
    index = await _decision_leaf(stage, request.request_id)
    return [f"plan {proposal.plan_digest}", f"DENY {REASON} by {', '.join(rules)}; decision is leaf {index}"]


async def _decision_leaf(stage: Stage, request_id: str) -> int:
    """Return the leaf of the denial; it names the draft, since no plan was made of it."""
    for entry in await stage.person("omar").entries(request_id=request_id):
        content = parse_canonical(bytes(entry.entry))
        if content["type"] in ("plan.decided", "call.decided") and content["data"]["outcome"] == "DENY":
            return int(entry.index)
    raise SceneFailed("the ledger does not hold the denial")
