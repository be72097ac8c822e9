"""The Node client against the running suite: from the published protos alone, over mTLS, to a verified end."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from counterseal.canonical import canonical, digest, parse_canonical
from support import bank
from support.requirements import requirement
from support.suite import Suite

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="node and npm are not installed")


def plan(step: dict[str, Any]) -> dict[str, Any]:
    step = {"id": "s1", "target": bank.ALIAS, "timeout_seconds": 20, **step}
    model = {"provider": "test", "id": "scripted", "version": "1"}
    return {"v": 1, "objective": "Settle it", "confidence_ppm": 990_000, "model": model, "steps": [step]}


def refund(account: str, amount_cents: int) -> dict[str, Any]:
    undo = {"tool": "bank.reverse@1.0.0", "args": {"account": account, "amount_cents": amount_cents}}
    return plan({"tool": "bank.refund@1.0.0", "args": {"account": account, "amount_cents": amount_cents}, "undo": undo})


def command(suite: Suite, client: Path, file: Path, *more: str) -> list[str]:
    profile = suite.running.profile(f"agent-{bank.AGENT}")
    words = ["node", str(client / "bin" / "run.js"), "--profile", str(profile), "--agent-version", "1.0.0"]
    return [*words, "--user", "ana", *more, str(file)]


def run(suite: Suite, client: Path, tmp_path: Path, document: dict[str, Any]) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run the command and return its exit code and its events by name."""
    file = tmp_path / "plan.json"
    file.write_bytes(canonical(document))
    result = subprocess.run(command(suite, client, file), capture_output=True, text=True, check=False, timeout=120)
    assert result.stderr == ""
    events = [json.loads(line) for line in result.stdout.splitlines()]
    return result.returncode, {event["event"]: event for event in events}


@requirement("run:node-client")
async def test_it_proposes_verifies_the_echo_commits_and_sees_the_verified_end(
    suite: Suite, node_client: Path, tmp_path: Path
) -> None:
    before = await suite.balance("a-41")
    document = refund("a-41", 1_500)
    document["steps"][0]["post"] = [{"kind": "tool_state", "ref": "owner", "value": "user:ana"}]
    code, events = run(suite, node_client, tmp_path, document)
    assert code == 0, events
    assert events["proposed"]["echo"] == "verified"
    assert events["ended"]["state"] == "SUCCEEDED"
    assert await suite.balance("a-41") == before + 1_500
    assert await suite.effects("a-41") == [1_500]
    assert {"plan.committed", "step.intent", "step.outcome", "plan.ended"} <= set(events)


async def test_the_digest_that_it_verified_is_that_of_the_stored_bytes_and_of_the_ledger(
    suite: Suite, node_client: Path, tmp_path: Path
) -> None:
    code, events = run(suite, node_client, tmp_path, refund("a-42", 100))
    assert code == 0, events
    plan_digest = events["proposed"]["plan_digest"]
    async with suite.person("omar") as omar:
        stored = bytes((await omar.plan(plan_digest)).canonical_plan)
        assert digest("plan", stored) == plan_digest
        types = [parse_canonical(bytes(entry.entry))["type"] for entry in await omar.entries(plan_digest=plan_digest)]
    assert types.index("plan.decided") < types.index("plan.committed") < types.index("step.intent")


async def test_a_denial_is_an_answer_with_its_reason_and_without_bytes(
    suite: Suite, node_client: Path, tmp_path: Path
) -> None:
    document = plan({"tool": "bank.close@1.0.0", "args": {"account": "a-43"}})
    code, events = run(suite, node_client, tmp_path, document)
    assert code == 5
    assert events["proposed"]["echo"] == "withheld"
    assert events["proposed"]["reason_codes"] == ["DESTRUCTIVE_IN_PRODUCTION"]


async def test_a_refused_call_has_its_stable_reason(suite: Suite, node_client: Path, tmp_path: Path) -> None:
    code, events = run(suite, node_client, tmp_path, plan({"tool": "bank.nothing@1.0.0", "args": {}}))
    assert (code, events["failed"]["reason"]) == (3, "PLAN_INVALID")


async def test_it_waits_for_a_persons_approval_and_then_commits_the_same_bytes(
    suite: Suite, node_client: Path, tmp_path: Path
) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(canonical(refund("a-44", bank.APPROVAL_ABOVE + 1)))
    process = await asyncio.create_subprocess_exec(
        *command(suite, node_client, file, "--wait", "90"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    proposed = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
    assert proposed["outcome"] == "DECISION_OUTCOME_REQUIRE_APPROVAL"
    async with suite.person("olga") as olga:
        tasks = await olga.approvals()
        (task,) = [task for task in tasks if task.plan_digest == proposed["plan_digest"]]
        await olga.approve(task.task_id, task.plan_digest, task.card_digest, "agreed")
    rest, _ = await asyncio.wait_for(process.communicate(), 120)
    events = {line["event"]: line for line in map(json.loads, rest.splitlines())}
    assert process.returncode == 0, events
    assert events["ended"]["state"] == "SUCCEEDED"
    assert await suite.effects("a-44") == [bank.APPROVAL_ABOVE + 1]


async def test_without_a_token_for_its_user_nothing_is_proposed(
    suite: Suite, node_client: Path, tmp_path: Path
) -> None:
    jwt = tmp_path / "jwt"
    jwt.write_text("eyJhbGciOiJub25lIn0.e30.")
    file = tmp_path / "plan.json"
    file.write_bytes(canonical(refund("a-45", 100)))
    words = command(suite, node_client, file)
    at = words.index("--user")
    words[at : at + 2] = ["--jwt-file", str(jwt)]
    result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    event = json.loads(result.stdout)
    assert (result.returncode, event["reason"]) == (3, "TOKEN_INVALID")
    assert await suite.effects("a-45") == []
