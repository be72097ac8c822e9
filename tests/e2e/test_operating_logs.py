"""An operator on the running suite: receipts of all services hold, and one person is not two."""

import asyncio
import json
from pathlib import Path

import asyncpg

from support import bank
from support.behind import DATABASES
from support.requirements import requirement
from support.suite import Suite


def command(suite: Suite, *words: str) -> tuple[int, str]:
    """Run `counterseal WORDS` and return its exit code and output."""
    done = suite.command(*words, environ={"COUNTERSEAL_HOME": str(suite.running.data_dir)})
    return done.returncode, done.stdout.decode() + done.stderr.decode()


async def run(suite: Suite, *words: str) -> tuple[int, str]:
    return await asyncio.get_running_loop().run_in_executor(None, lambda: command(suite, *words))


async def receipts(suite: Suite, tenant: str) -> list[str]:
    """Return what every service holds against the ledger, as `audit reconcile` reads it."""
    lines = []
    for database in DATABASES:
        connection = await asyncpg.connect(suite.running.control.dsn(database))
        try:
            if not await connection.fetchval("SELECT to_regclass('outbox') IS NOT NULL"):
                continue
            rows = await connection.fetch(
                "SELECT json_build_object('event_id', event_id, 'index', log_index,"
                " 'leaf_hash', encode(leaf_hash, 'hex'))::text AS receipt FROM outbox"
                " WHERE tenant = $1 AND ack_time IS NOT NULL",
                tenant,
            )
        finally:
            await connection.close()
        lines += [row["receipt"] for row in rows]
    return lines


@requirement("ledger:receipts-reconciled")
async def test_the_log_bears_out_what_every_service_was_acknowledged(suite: Suite, tmp_path: Path) -> None:
    async with suite.agent() as request:
        proposal = await request.propose(bank.draft(bank.refund("a-34", 5)))
        await request.commit(proposal.plan_id, proposal.plan_digest)
        await request.wait(proposal.plan_id)
    await suite.outboxes_drained()
    await run(suite, "login", "--user", "omar")
    held = await receipts(suite, bank.TENANT)
    assert len(held) > 10
    file = tmp_path / "receipts.jsonl"
    file.write_text("\n".join(held) + "\n")
    code, output = await run(suite, "audit", "reconcile", str(file), "--user", "omar")
    assert (code, f"{len(held)} receipts match, 0 do not" in output) == (0, True), output
    belied = json.loads(held[0])
    belied["leaf_hash"] = "00" * 32
    file.write_text("\n".join([json.dumps(belied, separators=(",", ":")), *held[1:]]))
    code, output = await run(suite, "audit", "reconcile", str(file), "--user", "omar")
    assert code == 4, output
    assert "altered" in output
    assert belied["event_id"] in output
    file.write_text("not a receipt\n")
    code, output = await run(suite, "audit", "reconcile", str(file), "--user", "omar")
    assert code not in (0, 4), output
    assert "receipts.jsonl:1" in output


@requirement("ledger:operators-only")
async def test_one_person_closes_and_adopts_nothing(suite: Suite) -> None:
    await run(suite, "login", "--user", "omar")
    code, output = await run(suite, "audit", "freeze", "--reason-code", "DRILL", "--user", "omar", "--json")
    assert code == 6, output
    digest = json.loads(output)["second_person"]["request_digest"]
    again = ("audit", "freeze", "--reason-code", "DRILL", "--request-digest", digest, "--user", "omar")
    code, output = await run(suite, *again)
    assert code not in (0, 6), output
    assert "SECOND_PERSON_REQUIRED" in output
    for verb, why in (("shard", "freeze it first"), ("adopt", "nothing to adopt"), ("rotate", "already")):
        code, output = await run(suite, "audit", verb, "--user", "omar")
        assert code not in (0, 4, 6), output
        assert why in output
    async with suite.agent() as request:
        await request.propose(bank.draft(bank.refund("a-35", 5)))
