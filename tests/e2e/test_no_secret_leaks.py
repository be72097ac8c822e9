"""No secret that was issued during the end-to-end run shows where an agent, a log reader or an auditor can look (I9).

Runs after all other tests of the running suite. Every answer of Vault came past a relay that kept what must not be
seen: database passwords, tokens, wrappers, accessors, leases, private keys, and the txn-tokens that Vault signed. To
them come the logins' identity tokens and the secrets in files. Everything that was written meanwhile is searched for
all of them, in every form of `support.canary`.
"""

from collections import Counter
from pathlib import Path

import pytest

from counterseal.client.export import write_export
from counterseal.embedded.layout import SERVICES
from support import bank
from support.behind import DATABASES
from support.canary import files_below, processes, scan, tables
from support.postgres import execute
from support.requirements import requirement
from support.suite import Suite

BROKERS_OWN = frozenset({"counterseal_credentials.grants.vault_accessor", "counterseal_credentials.grants.lease_id"})
"""By what the broker kills a grant: kept in its own database, and there alone."""

EXPECTED_KINDS = {
    "AppRole secret id",
    "Vault token",
    "accessor",
    "database password",
    "identity token",
    "lease id",
    "private key",
    "secret file",
    "txn-token",
    "wrapping token",
}


def issued(suite: Suite) -> dict[str, str]:
    """Return every secret that is known: secret -> kind."""
    assert suite.tap is not None
    secrets = dict(suite.tap.seen.secrets)
    secrets |= dict.fromkeys(suite.identity_tokens, "identity token")
    data = suite.running.data_dir
    folders = (data / "secrets", data / "openbao" / "operator-secret-id", data / "issuer" / "password")
    for path, content in files_below(*folders):
        if not path.endswith("role-id"):
            secrets.setdefault(content.decode().strip(), "secret file")
    # A key's lines, not its PEM: a log would fold them.
    for secret in [secret for secret, kind in secrets.items() if kind == "private key"]:
        del secrets[secret]
        secrets["".join(secret.strip().splitlines()[1:-1])[40:80]] = "private key"
    return secrets


async def work_through_every_path(suite: Suite) -> bytes:
    """Let a plan succeed, one be taken back, one be denied, one wait; return all that agent and person were shown."""
    shown: list[str] = []
    drafts = (
        bank.draft(bank.refund("a-30", 5)),
        bank.draft(bank.refund("a-31", 5), bank.charge("empty", 1, "s2", needs=("s1",))),
        bank.draft(bank.refund("ben-1", 5)),
        bank.draft(bank.refund("a-32", bank.APPROVAL_ABOVE + 1)),
        bank.draft(bank.tool_step("bank.balance@1.0.0", {"account": "a-30"})),
    )
    async with suite.agent() as request:
        for draft in drafts:
            proposal = await request.propose(draft)
            shown += [str(proposal.plan), proposal.body.decode()]
            if proposal.outcome == "ALLOW":
                await request.commit(proposal.plan_id, proposal.plan_digest)
                shown.append(str(await request.wait(proposal.plan_id)))
                shown += [str(event) async for event in request.watch(proposal.plan_id)]
            shown.append(str(await request.get(proposal.plan_id)))
    async with suite.person("omar") as omar:
        shown += [str(item) for item in await omar.grants()]
        shown += [str(item) for item in await omar.tools()]
        for task in await omar.approvals():
            shown.append(str(await omar.approval(task.task_id)))
        shown += [str(item) for item in await omar.plans()]
    return "\n".join(shown).encode()


@pytest.mark.slow
@requirement("secret:canary")
async def test_no_issued_secret_is_in_any_log_ledger_byte_database_or_answer(suite: Suite, tmp_path: Path) -> None:
    shown = await work_through_every_path(suite)
    await suite.outboxes_drained()
    async with suite.person("omar") as omar:
        await write_export(omar.export((await omar.checkpoint()).log_size), tmp_path / "ledger")
    secrets = issued(suite)
    assert set(secrets.values()) >= EXPECTED_KINDS, Counter(secrets.values())

    data = suite.running.data_dir
    places = [("what agents and people were shown", shown)]
    vaults_own = data / "openbao" / "audit.log"  # names leases in clear: a lease id opens nothing
    logs = (data / "logs", data / "openbao" / "server.log", vaults_own)
    clusters = tuple(data / "postgres" / name / "server.log" for name in ("control", "targets"))
    places += files_below(*logs, *clusters, data / "config", tmp_path / "ledger")
    places += processes(suite.deployment.supervisor.pid(service) for service in SERVICES)
    for database in DATABASES:
        places += await tables(suite.running.control.dsn(database), database, BROKERS_OWN)
    places += await tables(suite.running.targets[bank.ALIAS], "bank")
    names = [where for where, _ in places]
    assert len([name for name in names if name.endswith(".log")]) >= 8
    assert "counterseal_audit.ledger_entry.entry" in names
    assert "counterseal_executor.attempt.marker" in names
    found = scan(secrets, places)
    assert [hit for hit in found if not (hit.kind == "lease id" and hit.where == str(vaults_own))] == []


@requirement("secret:canary")
async def test_the_same_scan_finds_a_secret_planted_in_a_table_and_in_a_log(suite: Suite, tmp_path: Path) -> None:
    secrets = issued(suite)
    planted = next(secret for secret, kind in secrets.items() if kind == "database password")
    (tmp_path / "service.log").write_text(f'{{"message": "login with {planted}"}}')
    dsn = suite.running.targets[bank.ALIAS]
    await execute(
        dsn, "CREATE TABLE planted (body bytea)", f"INSERT INTO planted VALUES ('\\x{planted.encode().hex()}')"
    )
    try:
        found = scan(secrets, [*files_below(tmp_path), *await tables(dsn, "bank")])
    finally:
        await execute(dsn, "DROP TABLE planted")
    assert {(hit.kind, Path(hit.where).name) for hit in found} == {
        ("database password", "service.log"),
        ("database password", "bank.planted.body"),
    }
