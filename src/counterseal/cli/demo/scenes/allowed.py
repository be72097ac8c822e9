"""Scene 1: an action of low risk runs at once, and the ledger holds its intent before its effect."""

from counterseal.cli.demo.stage import Stage, draft, expect, refund

TITLE = "a small refund is allowed and runs at once"


async def play(stage: Stage) -> list[str]:
    """Refund 20.00 of an order of 80.00."""
    order = await stage.new_order(8000)
    request = stage.request()
    proposal = await request.propose(draft("Refund a late delivery", refund(order, 2000)))
    expect(proposal.outcome == "ALLOW", f"policy answered {proposal.outcome} {proposal.reason_codes}")
    await request.commit(proposal.plan_id, proposal.plan_digest)
    plan = await request.wait(proposal.plan_id)
    expect(plan.state == "SUCCEEDED", f"the plan ended {plan.state} {plan.reason_code}")
    expect((await stage.order(order))["refunded_cents"] == 2000, "the shop was not refunded 20.00")
    intent, _ = await stage.entry(proposal.plan_digest, "step.intent")
    outcome, entry = await stage.entry(proposal.plan_digest, "step.outcome")
    said = entry["data"]["outcome"]
    expect(intent < outcome and said == "applied", f"the ledger says: intent leaf {intent}, {said} leaf {outcome}")
    await stage.entry(proposal.plan_digest, "plan.ended")
    return [
        f"plan {proposal.plan_digest}",
        f"ALLOW {', '.join(proposal.reason_codes)}; intent is leaf {intent}, outcome leaf {outcome}",
    ]
