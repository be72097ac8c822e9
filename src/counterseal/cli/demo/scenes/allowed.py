"""Scene 1: an action of low risk runs at once, and the ledger holds its intent before its effect.

While the log is young, four more like it run side by side: so many entries fill a whole tile, and the export of scene 7
has a full one.
"""

import asyncio

from counterseal.cli.demo.stage import Stage, draft, expect, refund
from counterseal.ledger.tiles import WIDTH

TITLE = "small refunds are allowed and run at once"
MORE = 4


async def play(stage: Stage) -> list[str]:
    """Refund 20.00 of an order of 80.00; in a young log the same for four other orders at once."""
    digest, reasons, intent, outcome = await _refund(stage)
    lines = [f"plan {digest}", f"ALLOW {', '.join(reasons)}; intent is leaf {intent}, outcome leaf {outcome}"]
    if (await stage.person("omar").checkpoint()).log_size < WIDTH:
        others = await asyncio.gather(*(_refund(stage) for _ in range(MORE)))
        leaves = ", ".join(str(other[2]) for other in sorted(others, key=lambda other: other[2]))
        lines.append(f"and {MORE} more side by side; their intents are leaves {leaves}")
    return lines


async def _refund(stage: Stage) -> tuple[str, list[str], int, int]:
    """Refund 20.00 and return the plan's digest, the reasons, the leaf of the intent and that of the outcome."""
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
    return proposal.plan_digest, list(proposal.reason_codes), intent, outcome
