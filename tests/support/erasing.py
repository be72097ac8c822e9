"""Orders, steps and checks of erasures on one replica, as the service's own loops and people would make them."""

from counterseal.identity import Caller
from counterseal_audit.append.engine import pseudonymiser
from counterseal_audit.logs.keys import PseudonymKeys
from counterseal_audit.retention.database import transaction
from counterseal_audit.retention.job_store import Job, job
from support.audit import LocalSealer, Replica
from support.payloads import report

OLGA = Caller(peer="cli", peer_kind="cli", subject="user:olga", tenant="acme", environment="prod", request_id="r-9")


async def person(parts: Replica, name: str = "user:ana") -> str:
    return pseudonymiser(await PseudonymKeys(parts.engine, LocalSealer()).get("acme"))(name)


async def order(parts: Replica, name: str = "user:ana") -> Job:
    orders = parts.retention.servicer.orders
    return await orders.erase(OLGA, await person(parts, name), ("user:olga", "user:pat"), "asked for by letter")


async def state(parts: Replica, job_id: str) -> Job:
    async with transaction(parts.engine) as conn:
        found = await job(conn, job_id)
    assert found is not None
    return found


async def finish(parts: Replica, job_id: str) -> Job:
    await parts.retention.eraser.advance(job_id)
    await report(parts, job_id)
    await parts.retention.eraser.advance(job_id)
    return await state(parts, job_id)


async def checked(parts: Replica, tenant: str = "acme") -> tuple[int, int, list[tuple[str, int]]]:
    """Intact rows, declared rows, and (kind, index) of every finding."""
    logs = await parts.retention.servicer._logs(tenant)
    intact = declared = 0
    findings: list[tuple[str, int]] = []
    async for page in parts.retention.servicer.checker.check(logs):
        intact, declared = intact + page.intact, declared + page.declared
        findings += [(one.kind, one.index) for one in page.findings]
    return intact, declared, findings
