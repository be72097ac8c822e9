"""Scene 3: an approval is for exact bytes: another amount does not run on it, and it serves once."""

from counterseal.canonical import digest
from counterseal.cli.demo.stage import Stage, draft, expect, refund, refused
from counterseal.client import AgentRequest, Proposal

TITLE = "approved for one amount, refused by digest for another"


async def play(stage: Stage) -> list[str]:
    """Olga approves a refund of 500.00; the agent tries to commit 900.00 on it."""
    order = await stage.new_order(100_000)
    request = stage.request()
    approved = await _propose(request, order, 50_000)
    await refused(request.commit(approved.plan_id, approved.plan_digest), "APPROVAL_REQUIRED")
    task_id = approved.plan.decision.task_id
    olga = stage.person("olga")
    card = await olga.approval(task_id)
    expect(card.task.plan_digest == approved.plan_digest, "the task names another plan")
    expect(digest("decision-card", bytes(card.decision_card)) == card.task.card_digest, "the card is another one")
    await olga.approve(task_id, card.task.plan_digest, card.task.card_digest, "agreed with the customer")

    larger = await _propose(request, order, 90_000)
    mismatch = await refused(request.commit(approved.plan_id, larger.plan_digest), "PLAN_DIGEST_MISMATCH")
    await refused(request.commit(larger.plan_id, larger.plan_digest), "APPROVAL_REQUIRED")
    tampered = digest("plan", approved.body.replace(b'"amount_cents":50000', b'"amount_cents":90000'))
    await refused(request.commit(approved.plan_id, tampered), "PLAN_DIGEST_MISMATCH")
    expect((await stage.order(order))["refunded_cents"] == 0, "something was refunded without an approval")

    await request.commit(approved.plan_id, approved.plan_digest)
    plan = await request.wait(approved.plan_id)
    expect(plan.state == "SUCCEEDED", f"the approved plan ended {plan.state} {plan.reason_code}")
    expect((await stage.order(order))["refunded_cents"] == 50_000, "not exactly the approved amount was refunded")
    vote, _ = await stage.entry(approved.plan_digest, "approval.recorded")
    return [
        f"approved {approved.plan_digest} (500.00), task {task_id}, vote is leaf {vote}",
        f"refused  {larger.plan_digest} (900.00): {mismatch.reason}, and APPROVAL_REQUIRED on its own",
    ]


async def _propose(request: AgentRequest, order: str, amount_cents: int) -> Proposal:
    proposal = await request.propose(draft("Refund a broken order", refund(order, amount_cents)))
    expect(proposal.outcome == "REQUIRE_APPROVAL", f"policy answered {proposal.outcome} {proposal.reason_codes}")
    return proposal
