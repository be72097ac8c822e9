"""Puts a run's history together after it: the target's rows, the ledger's export, the plans' own words, leftovers."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from chaos.history import History, Leftovers, Logged, PlanEnd, StepEnd, attributed
from chaos.load import ClientLog, patiently
from chaos.targets import Target
from counterseal.canonical import parse_canonical
from counterseal.cli.audit_sources import Directory
from counterseal.client import Person
from counterseal.client.export import write_export
from counterseal.ledger import tiles
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import Frontier, leaf_hash
from counterseal.ledger.verify import verify_log
from counterseal.vault import VaultUnavailable
from support.behind import Behind

LOOK_SECONDS = 1.0


async def history(
    behind: Behind, target: Target, person: Person, log: ClientLog, opening: Mapping[str, int], directory: Path
) -> tuple[History, list[str]]:
    """Return the history as it stands now, and what the standard verifier finds in the export."""
    left = await leftovers(behind, target)
    ends = await plans(behind, target, person, log)
    written = await target.effects(behind)
    entries = await export(person, log, directory)
    key = VerifierKey.parse((directory / "vkey").read_text().strip())
    report = verify_log(Directory(directory), key)
    findings = [f"export: {finding.message} ({finding.where})" for finding in report.findings]
    told = [logged(index, data) for index, data in enumerate(entries)]
    made = History(
        receipts=sorted(log.receipts, key=lambda receipt: receipt.index),
        checkpoints=list(log.checkpoints.values()),
        plans=ends,
        effects=attributed(written, told),
        entries=told,
        roots=roots(entries, [size for size in log.checkpoints if size <= len(entries)]),
        leftovers=left,
        seen_alive=log.alive,
        opening=opening,
        closing=await target.balances(behind),
    )
    return made, findings


async def export(person: Person, log: ClientLog, directory: Path) -> list[bytes]:
    """Export the tenant's log, all that is in it now, and return its entries."""
    size = (await patiently(person.checkpoint, log)).log_size
    size = await write_export(person.export(size), directory)
    found: list[bytes] = []
    for bundle in tiles.bundles_of(size):
        found += tiles.parse_bundle(bundle, (directory / bundle.path).read_bytes())
    return found


def logged(index: int, data: bytes) -> Logged:
    """Return an entry as rules see it."""
    entry = parse_canonical(data)
    return Logged(
        index,
        entry["type"],
        entry["event_id"],
        entry["srv"]["receive_time_ms"],
        entry.get("plan_digest", ""),
        entry.get("step", ""),
        entry["data"],
    )


def roots(entries: Sequence[bytes], sizes: Sequence[int]) -> dict[int, bytes]:
    """Return the root of the first `size` entries, for each size."""
    found: dict[int, bytes] = {}
    frontier, at = Frontier(), 0
    for size in sorted(sizes):
        frontier = frontier.extend(leaf_hash(data) for data in entries[at:size])
        found[size], at = frontier.root(), size
    return found


async def plans(behind: Behind, target: Target, person: Person, log: ClientLog) -> list[PlanEnd]:
    """Return every plan that the executor knows, as its API describes it."""
    rows = await behind.sql(
        "counterseal_executor", "SELECT plan_id::text FROM plan WHERE tenant = $1 ORDER BY plan_id", target.tenant
    )
    found: list[PlanEnd] = []
    for row in rows:
        plan_id = row["plan_id"]
        plan = (await patiently(lambda plan_id=plan_id: person.plan(plan_id), log)).plan  # type: ignore[misc]
        steps = tuple(StepEnd(step.id, step.state, step.tool not in target.reading) for step in plan.steps)
        digest = plan.plan_digest
        acknowledged, told = digest in log.acknowledged, log.ends.get(digest, "")
        found.append(PlanEnd(digest, plan.state, plan.reason_code, steps, acknowledged, told))
    missing = log.acknowledged - {plan.plan_digest for plan in found}
    found += [PlanEnd(digest, "LOST", "", (), acknowledged=True) for digest in missing]
    return found


async def leftovers(behind: Behind, target: Target) -> Leftovers:
    """Return what lives at Vault and at the target, and the grants that the broker does not call dead."""
    logins = await behind.sql(target.alias, "SELECT rolname FROM pg_roles WHERE rolname LIKE 'g-%' AND rolcanlogin")
    # A session outlives its dropped login, without a name.
    sessions = await behind.sql(
        target.alias,
        "SELECT coalesce(usename::text, 'of a dropped login') AS name FROM pg_stat_activity "
        "WHERE usename LIKE 'g-%' OR datid IS NOT NULL AND usesysid IS NOT NULL AND usename IS NULL",
    )
    grants = await behind.sql(
        "counterseal_credentials", "SELECT grant_id::text, state FROM grants WHERE state NOT IN ('REVOKED', 'FAILED')"
    )
    return Leftovers(
        tuple(await behind.leases([target.tenant])),
        tuple(row["rolname"] for row in logins),
        tuple(row["name"] for row in sessions),
        tuple(f"{row['grant_id']} {row['state']}" for row in grants),
    )


async def lookout(behind: Behind, target: Target, log: ClientLog, stop: asyncio.Event) -> None:
    """Keep an example of everything that is alive while the load runs: a look that never finds anything is none."""
    while not stop.is_set():
        with suppress(VaultUnavailable, OSError, TimeoutError):  # a machine too busy to answer: look again
            now, before = await leftovers(behind, target), log.alive
            log.alive = Leftovers(
                before.leases or now.leases,
                before.logins or now.logins,
                before.sessions or now.sessions,
                before.grants or now.grants,
            )
        await asyncio.sleep(LOOK_SECONDS)
