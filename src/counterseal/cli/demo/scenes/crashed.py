"""Scene 4: the executor is killed while the network holds the answer to COMMIT; recovery tells the truth."""

import asyncio

from counterseal.cli.demo.stage import Stage, draft, expect, refund

TITLE = "executor killed -9 with COMMIT unanswered: exactly one effect, truthfully told"
HELD_SECONDS = 30.0


async def play(stage: Stage) -> list[str]:
    """Refund 15.00; the database has committed, but the executor dies before it hears of it."""
    order = await stage.new_order(8000)
    request = stage.request()
    proposal = await request.propose(draft("Refund a late delivery", refund(order, 1500)))
    expect(proposal.outcome == "ALLOW", f"policy answered {proposal.outcome} {proposal.reason_codes}")
    held = stage.proxy.hold(b"COMMIT", after=b"UPDATE shop.orders")
    await request.commit(proposal.plan_id, proposal.plan_digest)
    async with asyncio.timeout(HELD_SECONDS):
        await held.answered.wait()
    before = stage.deployment.supervisor.pid("executor")
    await stage.deployment.supervisor.kill("executor")
    await stage.deployment.supervisor.ready("executor")
    after = stage.deployment.supervisor.pid("executor")

    plan = await request.wait(proposal.plan_id)
    expect(plan.state == "SUCCEEDED", f"the plan ended {plan.state} {plan.reason_code}")
    row = await stage.order(order)
    expect((row["refunded_cents"], row["version"]) == (1500, 1), f"the shop says {dict(row)}: not exactly one effect")
    intents = await stage.entries(proposal.plan_digest, "step.intent")
    expect(len(intents) == 1, f"{len(intents)} intents for one effect")
    revoked, entry = await stage.entry(proposal.plan_digest, "credential.revoked")
    resolved, verdict = await stage.entry(proposal.plan_digest, "step.resolved")
    # By their own times: two services wrote them, and each delivers its entries when it can.
    in_order = entry["event_time_ms"] <= verdict["event_time_ms"]
    expect(in_order, "the probe was asked before the old credential was dead")
    story = (
        f"intent leaf {intents[0][0]}; credential {_dead(entry['data'])} leaf {revoked}; "
        f"probe says {verdict['data']['verdict']} leaf {resolved}; the row was written once"
    )
    return [
        f"plan {proposal.plan_digest}; executor {before} killed, {after} recovered",
        story,
    ]


def _dead(data: dict[str, object]) -> str:
    expect(data.get("verified_dead"), "the old credential is not verified dead")
    return "verified dead"
