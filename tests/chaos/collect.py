"""Puts a run's history together after it: the target's rows, the ledger's export, the plans' own words, leftovers."""

from collections.abc import Sequence
from pathlib import Path

from chaos.history import Effect, History, Leftovers, Logged, PlanEnd, StepEnd
from chaos.load import ClientLog, patiently
from counterseal.canonical import parse_canonical
from counterseal.cli.audit_verify import Directory
from counterseal.client import Person
from counterseal.client.export import write_export
from counterseal.errors import NotFound
from counterseal.ledger import tiles
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.tree import Frontier, leaf_hash
from counterseal.ledger.verify import verify_log
from counterseal.vault import Vault, VaultRefused
from support import bank
from support.suite import Suite

READING = {"bank.balance@1.0.0"}


async def history(
    suite: Suite, person: Person, log: ClientLog, opening: dict[str, int], directory: Path
) -> tuple[History, list[str]]:
    """Return the history as it stands now, and what the standard verifier finds in the export."""
    entries = await export(person, log, directory)
    key = VerifierKey.parse((directory / "vkey").read_text().strip())
    report = verify_log(Directory(directory), key)
    findings = [f"export: {finding.message} ({finding.where})" for finding in report.findings]
    made = History(
        receipts=sorted(log.receipts, key=lambda receipt: receipt.index),
        checkpoints=list(log.checkpoints.values()),
        plans=await plans(suite, person, log),
        effects=await effects(suite),
        entries=[logged(index, data) for index, data in enumerate(entries)],
        roots=roots(entries, [size for size in log.checkpoints if size <= len(entries)]),
        leftovers=await leftovers(suite),
        opening=opening,
        closing=await balances(suite),
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


async def plans(suite: Suite, person: Person, log: ClientLog) -> list[PlanEnd]:
    """Return every plan that the executor knows, as its API describes it."""
    rows = await suite.sql("counterseal_executor", "SELECT plan_id::text FROM plan WHERE tenant = $1", bank.TENANT)
    found: list[PlanEnd] = []
    for row in rows:
        plan_id = row["plan_id"]
        plan = (await patiently(lambda plan_id=plan_id: person.plan(plan_id), log)).plan  # type: ignore[misc]
        steps = tuple(StepEnd(step.id, step.state, step.tool not in READING) for step in plan.steps)
        told = plan.plan_digest in log.acknowledged
        found.append(PlanEnd(plan.plan_digest, plan.state, plan.reason_code, steps, told))
    missing = log.acknowledged - {plan.plan_digest for plan in found}
    found += [PlanEnd(digest, "LOST", "", (), acknowledged=True) for digest in missing]
    return found


async def effects(suite: Suite) -> list[Effect]:
    """Return the target's own list."""
    rows = await suite.sql(
        "bank",
        "SELECT effect_key, attempt_id, account, amount_cents, "
        "floor(extract(epoch FROM statement_time) * 1000)::bigint AS time_ms FROM effects",
    )
    return [
        Effect(row["effect_key"], row["attempt_id"], row["time_ms"], row["account"], row["amount_cents"])
        for row in rows
    ]


async def balances(suite: Suite) -> dict[str, int]:
    """Return account -> balance."""
    rows = await suite.sql("bank", "SELECT id, balance_cents FROM accounts")
    return {row["id"]: int(row["balance_cents"]) for row in rows}


async def leftovers(suite: Suite) -> Leftovers:
    """Return what lives at Vault and at the target."""
    vault = await suite.vault()
    try:
        leases = await _leases(vault, suite.running.environment)
    finally:
        vault.close()
    logins = await suite.sql("bank", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'g-%' AND rolcanlogin")
    sessions = await suite.sql("bank", "SELECT usename FROM pg_stat_activity WHERE usename LIKE 'g-%'")
    grants = await suite.sql(
        "counterseal_credentials", "SELECT grant_id::text, state FROM grants WHERE state NOT IN ('REVOKED', 'FAILED')"
    )
    return Leftovers(
        tuple(leases),
        tuple(row["rolname"] for row in logins),
        tuple(row["usename"] for row in sessions),
        tuple(f"{row['grant_id']} {row['state']}" for row in grants),
    )


async def _leases(vault: Vault, environment: str) -> list[str]:
    """List what Vault holds below the tenant's credential paths and its grants' tokens."""
    prefixes = [f"db/{environment}/{bank.TENANT}/creds/{bank.ROLE}--{mode}--{tier}" for mode in ("rw", "ro")
                for tier in (60, 300, 900)]  # fmt: skip
    prefixes.append(f"auth/token/create/grant--{environment}--{bank.TENANT}")
    found: list[str] = []
    for prefix in prefixes:
        try:
            keys = (await vault.call("LIST", f"sys/leases/lookup/{prefix}"))["data"]["keys"]
        except VaultRefused as refused:
            if refused.status != 404:
                raise
            continue
        found += [f"{prefix}/{key[:6]}.." for key in keys]
    return found


__all__ = ["NotFound", "balances", "history"]
