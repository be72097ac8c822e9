"""Scene 6: one command stops a tenant: no new intent, credentials verified dead, what was in flight drained."""

import asyncio

import asyncpg

from counterseal.cli.demo import shop, world
from counterseal.cli.demo.stage import Stage, draft, expect, lift, refund, refused
from counterseal.cli.kill import kill
from counterseal.vault import Vault

TITLE = "kill switch: no new intent, credentials verified dead, login refused, in-flight drained"
HELD_SECONDS = 30.0
KILL_SECONDS = 30.0


async def play(stage: Stage) -> list[str]:
    """Stop the tenant while a step is in flight, with a database login in hand that worked a moment before."""
    order = await stage.new_order(8000)
    request = stage.request()
    waiting = await request.propose(draft("Refund later", refund(order, 700)))
    flying = await request.propose(draft("Refund now", refund(order, 900)))
    for proposal in (waiting, flying):
        expect(proposal.outcome == "ALLOW", f"policy answered {proposal.outcome} {proposal.reason_codes}")
    held = stage.proxy.hold(b"UPDATE shop.orders")
    await request.commit(flying.plan_id, flying.plan_digest)
    async with asyncio.timeout(HELD_SECONDS):
        await held.answered.wait()
    lent = await _live_logins(stage)
    expect(lent, "no credential was lent to the step in flight")
    user, password = await _borrow(stage)
    expect(await _can_log_in(stage, user, password), "the login that is to be killed never worked")

    scope = f"tenant:{world.TENANT}"
    moments = await kill(stage.operator, scope, "OPERATOR_STOP", "the demo's sixth scene", KILL_SECONDS)
    for name, moment in (("STOPPED", moments.stopped), ("REVOKED", moments.revoked), ("QUIESCED", moments.quiesced)):
        expect(moment != "not yet", f"{name} was not reached: {moments.problems}")
    expect(moments.credential_count > 0, "no credential was in scope")
    expect(moments.revoked_count == moments.credential_count, "not every credential is verified dead")
    expect(not await _can_log_in(stage, user, password), "a killed login still works")
    expect(not await _live_logins(stage), "a lent login is still alive")
    await refused(request.commit(waiting.plan_id, waiting.plan_digest), "TOKEN_REVOKED")  # older than the stop
    await refused(stage.request().propose(draft("Refund in spite of it", refund(order, 100))), "CONTAINED")
    row = await stage.order(order)
    expect(row["version"] == 0, "the stopped step took effect")

    epoch = await lift(stage, scope, moments.epoch)
    plan = await _settled(stage, flying.plan_id)
    fresh = stage.request()
    again = await fresh.propose(draft("Refund after the lift", refund(order, 100)))
    await fresh.commit(again.plan_id, again.plan_digest)
    ended = await fresh.wait(again.plan_id)
    expect(ended.state == "SUCCEEDED", f"after the lift a plan ended {ended.state}")
    counts = f"{moments.revoked_count} of {moments.credential_count}"
    return [
        f"{scope} epoch {moments.epoch}: STOPPED, REVOKED {counts}, QUIESCED; in flight: {flying.plan_digest} {plan}",
        f"login {user} refused; new request refused: CONTAINED; lifted by two people to epoch {epoch}, work goes on",
    ]


async def _settled(stage: Stage, plan_id: str) -> str:
    """Return the state of the plan that was in flight."""
    plan = (await stage.person("omar").plan(plan_id)).plan
    expect(plan.state != "SUCCEEDED", "the stopped plan succeeded")
    return f"{plan.state} {plan.reason_code}".strip()


async def _live_logins(stage: Stage) -> list[str]:
    """Return the lent roles of the shop that can log in now."""
    rows = await stage.sql(
        "SELECT rolname FROM pg_roles WHERE rolname LIKE 'g-%' AND rolcanlogin "
        "AND (rolvaliduntil IS NULL OR rolvaliduntil > now())"
    )
    return [row["rolname"] for row in rows]


async def _borrow(stage: Stage) -> tuple[str, str]:
    """Read a database login of the tenant from Vault, as an operator's drill: a kill must reach it as well."""
    bao = stage.running.openbao
    vault = await Vault.login_approle(bao.address, bao.operator_role_id, bao.operator_secret_id, ca_file=bao.ca_file)
    try:
        path = f"db/{stage.running.environment}/{world.TENANT}/creds/{shop.ROLE}--ro--300"
        data = (await vault.call("GET", path))["data"]
    finally:
        vault.close()
    return str(data["username"]), str(data["password"])


async def _can_log_in(stage: Stage, user: str, password: str) -> bool:
    cluster = stage.running.target_cluster
    try:
        connection = await asyncpg.connect(
            host=cluster.host, port=cluster.port, user=user, password=password, database="shop"
        )
    except asyncpg.PostgresError:
        return False
    await connection.close()
    return True
