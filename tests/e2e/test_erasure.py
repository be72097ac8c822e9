"""A person is erased from the running suite: ordered by two people on the command line, done by four services."""

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from counterseal.cli.audit_sources import Directory
from counterseal.client.export import write_export
from counterseal.ledger import disclosure
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.verify import verify_log
from support import bank
from support.behind import DATABASES
from support.canary import files_below, scan, tables
from support.requirements import requirement
from support.suite import Suite, reason_of

WHO = "quixotia"
SECRET = "Rosinante-4711"
MARKS = {SECRET: "what the person said", f"user:{WHO}": "the person"}


def command(suite: Suite, *words: str, code: int = 0) -> dict[str, Any]:
    """Run `counterseal WORDS --json` and return its document."""
    environ = {"COUNTERSEAL_HOME": str(suite.running.data_dir)}
    done = suite.command(*words, "--json", environ=environ)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout.decode()}{done.stderr.decode()}"
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return found


async def run(suite: Suite, *words: str, code: int = 0) -> dict[str, Any]:
    return await asyncio.get_running_loop().run_in_executor(None, lambda: command(suite, *words, code=code))


async def undeclared(suite: Suite, index: int) -> None:
    """A sealed field that goes without a declaration is tampering; put back, it is not."""
    where = "FROM ledger_payload p USING ledger_log l WHERE p.log_id = l.log_id AND l.tenant = $1 AND p.idx = $2"
    taken = await suite.sql("counterseal_audit", f"DELETE {where} AND ord = 0 RETURNING p.*", bank.TENANT, index)
    found = await run(suite, "audit", "verify", "payloads", "--user", "ida", code=4)
    assert found["verdict"] == "tampered"
    assert [one["index"] for one in found["findings"]] == [index]
    (row,) = taken
    places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await suite.sql("counterseal_audit", f"INSERT INTO ledger_payload VALUES ({places})", *row.values())
    assert (await run(suite, "audit", "verify", "payloads", "--user", "ida"))["verdict"] == "verified"


async def hits(suite: Suite, folder: Path) -> dict[str, set[str]]:
    """Return mark -> where it is, in every table of every service, the ledger's files and all logs."""
    data = suite.running.data_dir
    places = [*files_below(folder, data / "logs")]
    for database in DATABASES:
        places += await tables(suite.running.control.dsn(database), database)
    found: dict[str, set[str]] = {mark: set() for mark in MARKS.values()}
    for hit in scan(MARKS, places):
        found[hit.kind].add(hit.where)
    return found


@pytest.mark.timeout(900)
@requirement("erasure:complete", "erasure:two-people", "erasure:producers-follow", "disclosure:recorded-first")
@requirement("payload:undeclared-loss-is-found")
async def test_a_person_is_erased_everywhere_and_every_proof_still_holds(suite: Suite, tmp_path: Path) -> None:
    await suite.sql("bank", "INSERT INTO accounts VALUES ('q-1', $1, 1000)", f"user:{WHO}")
    async with suite.agent(WHO) as request:
        draft = bank.draft(bank.refund("q-1", 5), objective=f"Refund to Quixotia, who says {SECRET}")
        proposal = await request.propose(draft)
        await request.commit(proposal.plan_id, proposal.plan_digest)
        ended = await request.wait(proposal.plan_id)
    assert ended.state == "SUCCEEDED"
    await suite.outboxes_drained()
    async with suite.person("ida") as ida:
        mine = await ida.entries(plan_digest=proposal.plan_digest)
        await write_export(ida.export((await ida.checkpoint()).log_size), tmp_path / "before")
    before = await hits(suite, tmp_path / "before")
    assert not [place for place in before["what the person said"] if "counterseal_audit" in place]
    assert not [place for place in before["what the person said"] if "tile/" in place or place.endswith(".log")]
    assert "counterseal_executor.plan.body" in before["what the person said"], "the executor has it, as it must"

    (proposed,) = [one.index for one in mine if b'"plan.proposed"' in one.entry]
    async with suite.person("ida") as ida:
        shown = await ida.disclose(["objective"], "case-1", index=proposed)
        assert SECRET in disclosure.parse(shown.disclosures[0]).value
        assert [one async for one in ida.check_payloads()][-1].finding_count == 0

    for user in ("ida", "pat"):
        await run(suite, "login", "--user", user)
    await undeclared(suite, proposed)
    await suite.kill("policy", hold=True)  # one of those who have to report is away
    asked = await run(suite, "audit", "erase", f"user:{WHO}", "--user", "ida", code=6)
    digest = asked["second_person"]["request_digest"]
    done = await run(suite, "audit", "erase", f"user:{WHO}", "--user", "pat", "--request-digest", digest)
    job = done["erasure"]["job_id"]
    unfinished = await run(suite, "audit", "verify", "payloads", "--user", "ida", code=3)
    assert unfinished["verdict"] == "incomplete"
    await run(suite, "audit", "erasures", job, "--user", "ida", code=3)
    await suite.ready("policy")
    async with suite.person("ida") as ida, asyncio.timeout(120):
        while (state := (await ida.erasures(job))[0]).missing:
            await asyncio.sleep(0.2)
    assert list(state.reported) == ["audit", "credentials", "executor", "policy"]

    async with suite.person("ida") as ida:
        await write_export(ida.export((await ida.checkpoint()).log_size), tmp_path / "after")
        assert await reason_of(ida.disclose(["objective"], "case-1", index=proposed)) == "FACTS_ERASED"
    after = await hits(suite, tmp_path / "after")
    assert after == {"what the person said": set(), "the person": set()}
    checked = await run(suite, "audit", "verify", "payloads", "--user", "ida")
    assert (checked["verdict"], checked["findings"]) == ("verified", [])
    assert checked["declared_count"] > 0
    await monitored(suite, tmp_path)
    key = VerifierKey.parse((tmp_path / "after" / "vkey").read_text().strip())
    since = (tmp_path / "before" / "checkpoint").read_bytes()
    assert verify_log(Directory(tmp_path / "after"), key, since).verdict is None
    await applied_again(suite, tmp_path / "after", key)


async def monitored(suite: Suite, folder: Path) -> None:
    """The monitor asks too: the erased person's fields are no alarm, one field more that is missing is."""
    watch = ["audit", "monitor", str(folder / "after"), "--state", str(folder / "seen")]
    watch += ["--vkey", str(folder / "after" / "vkey"), "--payloads", "--user", "ida"]
    seen = await run(suite, *watch)
    assert (seen["verdict"], seen["payloads"]["verdict"]) == ("verified", "verified")
    assert seen["payloads"]["declared_count"] > 0
    database = await asyncpg.connect(suite.running.control.dsn("counterseal_audit"))
    try:
        row = "(SELECT ctid FROM ledger_payload WHERE NOT EXISTS (SELECT 1 FROM ledger_hold) LIMIT 1)"
        lost = await database.fetchrow(f"DELETE FROM ledger_payload WHERE ctid = {row} RETURNING *")
        assert lost is not None
        seen = await run(suite, *watch, code=4)
        assert seen["verdict"] == "verified", "the log itself is what it was"
        assert [one["kind"] for one in seen["payloads"]["findings"]] == ["tampered"]
        columns = ", ".join(f"${n}" for n in range(1, len(lost) + 1))
        await database.execute(f"INSERT INTO ledger_payload VALUES ({columns})", *lost.values())
    finally:
        await database.close()
    assert (await run(suite, *watch))["payloads"]["verdict"] == "verified"


async def applied_again(suite: Suite, export: Path, key: VerifierKey) -> None:
    """After a restore an operator has the export's erasures done again; here there is nothing left to do."""
    config = suite.running.configs["audit"]
    again = ["audit", "reapply-erasures", "--config", str(config), "--export", str(export), "--vkey"]
    done = await run(suite, *again, str(export / "vkey"))
    assert done["erasures"] >= 1
    assert (done["keys_destroyed"], done["rows_deleted"]) == (0, 0)
    assert await run(suite, *again, "no key", code=2) == {}
    damaged = next(path for path in (export / "tile" / "entries").rglob("*") if path.is_file())
    damaged.write_bytes(damaged.read_bytes().replace(b"acme", b"acmf", 1))
    assert await run(suite, *again, key.vkey, code=4) == {}
