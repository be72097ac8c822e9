"""The life of an action on the running suite, and what somebody tries at each of its turns."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from counterseal.api.policy.v1 import approval_pb2
from counterseal.canonical import JsonObject, parse_canonical
from counterseal.client import AgentRequest, Person, Proposal
from counterseal.errors import ServiceError
from counterseal.ids import new_id
from support import bank
from support.requirements import requirement
from support.suite import Suite, reason_of

LARGE = bank.APPROVAL_ABOVE + 1


async def story(suite: Suite, plan_digest: str) -> list[JsonObject]:
    """Return a plan's ledger entries in order, once its producers have said everything."""
    await suite.outboxes_drained()
    async with suite.person("omar") as omar:
        return [parse_canonical(bytes(item.entry)) for item in await omar.entries(plan_digest=plan_digest)]


async def waiting(suite: Suite, request: AgentRequest, account: str) -> tuple[Proposal, Any]:
    """Propose a refund that needs an approval; return it with its task."""
    proposal = await request.propose(bank.draft(bank.refund(account, LARGE)))
    assert proposal.outcome == "REQUIRE_APPROVAL"
    async with suite.person("olga") as olga:
        task = next(task for task in await olga.approvals() if task.plan_digest == proposal.plan_digest)
    return proposal, task


async def vote(person: Person, task: Any, **changes: str) -> Any:
    return await person.approve(
        task.task_id, changes.get("plan", task.plan_digest), changes.get("card", task.card_digest)
    )


@requirement("effect:intent-first", "decision:durable-first")
async def test_an_allowed_action_leaves_its_whole_story_in_order(suite: Suite) -> None:
    opening = await suite.balance("a-10")
    async with suite.agent() as request:
        plan = await request.run(bank.draft(bank.refund("a-10", 700)))
    assert (plan.state, plan.steps[0].state) == ("SUCCEEDED", "KEPT")
    assert await suite.balance("a-10") == opening + 700
    entries = await story(suite, plan.plan_digest)
    types = [entry["type"] for entry in entries]
    once = ["plan.proposed", "plan.committed", "step.intent", "step.outcome", "step.verified", "plan.ended"]
    assert [types.count(name) for name in once] == [1] * len(once)
    assert [name for name in types if name in once] == once
    rows = await suite.sql("bank", "SELECT attempt_id, statement_time, login FROM effects WHERE account = 'a-10'")
    (intent,) = (entry for entry in entries if entry["type"] == "step.intent")
    assert rows[0]["attempt_id"] == intent["data"]["attempt_id"]
    assert intent["srv"]["receive_time_ms"] <= rows[0]["statement_time"].timestamp() * 1000
    written = [e for e in entries if e["type"] == "credential.granted" and e["data"]["purpose"] == "WRITE"]
    assert [e["data"]["attempt_id"] for e in written] == [intent["data"]["attempt_id"]]
    assert rows[0]["login"].startswith("g-" + written[0]["data"]["grant_id"].replace("-", ""))


@requirement("commit:one-accepted")
async def test_of_many_commits_at_once_one_is_accepted_and_the_effect_happens_once(suite: Suite) -> None:
    opening = await suite.balance("a-11")
    async with suite.agent() as request:
        proposal = await request.propose(bank.draft(bank.refund("a-11", 10)))
        key = new_id()
        same = [request.commit(proposal.plan_id, proposal.plan_digest, idempotency_key=key) for _ in range(6)]
        others = [reason_of(request.commit(proposal.plan_id, proposal.plan_digest)) for _ in range(6)]
        answers = await asyncio.gather(*same, *others, return_exceptions=True)
        plan = await request.wait(proposal.plan_id)
        again = await reason_of(request.commit(proposal.plan_id, proposal.plan_digest, idempotency_key=key))
        reused = await request.propose(bank.draft(bank.refund("a-11", 10)))
        stolen = await reason_of(request.commit(reused.plan_id, reused.plan_digest, idempotency_key=key))
    assert plan.state == "SUCCEEDED"
    assert stolen == "IDEMPOTENCY_KEY_REUSED"
    assert again in ("", "WRONG_STATE", "IDEMPOTENCY_KEY_REUSED")
    assert not [a for a in answers if isinstance(a, BaseException) and not isinstance(a, ServiceError)], answers
    reasons = {a if isinstance(a, str) else a.reason for a in answers if isinstance(a, (str, ServiceError))}
    assert "PLAN_INVALID" not in reasons, "the race was told as a fault of the plan"
    assert await suite.balance("a-11") == opening + 10
    entries = await story(suite, proposal.plan_digest)
    assert [entry["type"] for entry in entries].count("plan.committed") == 1


@requirement("commit:all-hold")
async def test_a_commit_of_another_digest_or_of_changed_bytes_runs_nothing(suite: Suite) -> None:
    opening = await suite.balance("a-12")
    async with suite.agent() as request:
        proposal = await request.propose(bank.draft(bank.refund("a-12", 10)))
        other = await request.propose(bank.draft(bank.refund("a-12", 11)))
        assert await reason_of(request.commit(proposal.plan_id, other.plan_digest)) == "PLAN_DIGEST_MISMATCH"
        assert await reason_of(request.commit(proposal.plan_id, "sha256:" + "0" * 64)) == "PLAN_DIGEST_MISMATCH"
        forged = proposal.body.replace(b'"amount_cents":10', b'"amount_cents":99')
        assert len(forged) == len(proposal.body)
        await suite.sql(
            "counterseal_executor", "UPDATE plan SET body = $1 WHERE plan_id = $2::uuid", forged, proposal.plan_id
        )
        assert await reason_of(request.commit(proposal.plan_id, proposal.plan_digest)) == "PLAN_DIGEST_MISMATCH"
    assert await suite.balance("a-12") == opening
    assert "step.intent" not in [entry["type"] for entry in await story(suite, proposal.plan_digest)]


@requirement("commit:all-hold", "effect:precondition-inside-the-write")
async def test_what_changed_between_proposal_and_commit_refuses_the_commit(suite: Suite) -> None:
    opening = await suite.balance("a-13")
    async with suite.agent() as request:
        proposal = await request.propose(bank.draft(bank.refund("a-13", 10)))
        await suite.sql("bank", "UPDATE accounts SET owner = 'user:eve' WHERE id = 'a-13'")
        try:
            reason = await reason_of(request.commit(proposal.plan_id, proposal.plan_digest))
            if not reason:  # the gate was passed before the change was seen: then the write itself refuses
                plan = await request.wait(proposal.plan_id)
                reason = plan.steps[0].error_code or plan.steps[0].reason_code
        finally:
            await suite.sql("bank", "UPDATE accounts SET owner = 'user:ana' WHERE id = 'a-13'")
    assert reason == "PRECONDITION_CHANGED"
    assert await suite.balance("a-13") == opening


@requirement("approval:once-for-seen-bytes")
async def test_an_approval_counts_for_the_bytes_and_the_card_that_were_seen_and_by_whom(suite: Suite) -> None:
    opening = await suite.balance("a-14")
    async with (
        suite.agent() as request,
        suite.person("olga") as olga,
        suite.person("ida") as owner,
        suite.person("ana") as requester,
        suite.person("pat") as outsider,
    ):
        proposal, task = await waiting(suite, request, "a-14")
        twin, twin_task = await waiting(suite, request, "a-14")
        assert await reason_of(request.commit(proposal.plan_id, proposal.plan_digest)) == "APPROVAL_REQUIRED"
        assert await reason_of(vote(olga, task, card=twin_task.card_digest)) == "CARD_DIGEST_MISMATCH"
        assert await reason_of(vote(olga, task, plan=twin.plan_digest)) == "PLAN_DIGEST_MISMATCH"
        for person in (owner, requester, outsider):
            assert await reason_of(vote(person, task)) in ("APPROVER_INELIGIBLE", "ROLE_REQUIRED")
        assert await reason_of(request.commit(proposal.plan_id, proposal.plan_digest)) == "APPROVAL_REQUIRED"
        await vote(olga, task)
        # The same refund, proposed twice, is two plans: one approval does not serve both.
        assert await reason_of(request.commit(twin.plan_id, twin.plan_digest)) == "APPROVAL_REQUIRED"
        await request.commit(proposal.plan_id, proposal.plan_digest)
        plan = await request.wait(proposal.plan_id)
        assert plan.state == "SUCCEEDED"
        assert await suite.balance("a-14") == opening + LARGE
        assert await reason_of(vote(olga, task)) in ("WRONG_STATE", "APPROVER_INELIGIBLE", "NOT_FOUND")
    recorded = [entry for entry in await story(suite, proposal.plan_digest) if entry["type"] == "approval.recorded"]
    assert len(recorded) == 1
    assert recorded[0]["data"]["card_digest"] == task.card_digest
    assert "olga" not in json.dumps(recorded)  # people are pseudonyms in the ledger


@requirement("effect:irreversible-checkpointed", "approval:used-or-withdrawn")
async def test_what_cannot_be_taken_back_runs_under_a_verified_checkpoint_and_its_approval_reads_used(
    suite: Suite,
) -> None:
    """The executor believes the log's key as credentials has it from Vault; people see what their votes were for."""
    opening = await suite.balance("a-48")
    async with suite.agent() as request, suite.person("olga") as olga:
        proposal = await request.propose(bank.draft(bank.payout("a-48", LARGE)))
        assert proposal.outcome == "REQUIRE_APPROVAL"
        task = next(task for task in await olga.approvals() if task.plan_digest == proposal.plan_digest)
        await vote(olga, task)
        await request.commit(proposal.plan_id, proposal.plan_digest)
        assert (await request.wait(proposal.plan_id)).state == "SUCCEEDED"
        async with asyncio.timeout(20):
            while (await olga.approval(task.task_id)).task.state != approval_pb2.APPROVAL_STATE_USED:
                await asyncio.sleep(0.2)
    assert await suite.balance("a-48") == opening - LARGE


@requirement("approval:once-for-seen-bytes")
async def test_a_rejection_ends_the_task_for_good(suite: Suite) -> None:
    async with suite.agent() as request, suite.person("olga") as olga:
        proposal, task = await waiting(suite, request, "a-15")
        await olga.reject(task.task_id, task.plan_digest, task.card_digest, "not this one")
        assert await reason_of(vote(olga, task)) == "WRONG_STATE"
        plan = await request.commit(proposal.plan_id, proposal.plan_digest)  # a denial is an answer
    assert (plan.state, plan.reason_code, plan.terminal) == ("REJECTED", "APPROVAL_REJECTED", True)
    assert "plan.committed" not in [entry["type"] for entry in await story(suite, proposal.plan_digest)]
    assert await suite.effects("a-15") == []


@requirement("plan:truthful-end")
async def test_a_failed_third_step_takes_the_first_two_back_and_reads_it_back(suite: Suite) -> None:
    before = {account: await suite.balance(account) for account in ("a-16", "a-17")}
    steps = (
        bank.refund("a-16", 40),
        bank.refund("a-17", 50, "s2", needs=("s1",)),
        bank.charge("empty", 1, "s3", needs=("s2",)),
    )
    async with suite.agent() as request:
        plan = await request.run(bank.draft(*steps))
    assert plan.state == "ROLLED_BACK"
    assert [step.state for step in plan.steps] == ["COMPENSATED", "COMPENSATED", "NOT_APPLIED"]
    assert {account: await suite.balance(account) for account in before} == before
    assert await suite.effects("a-16") == [40, -40]
    entries = await story(suite, plan.plan_digest)
    undone = [e["step"] for e in entries if e["type"] == "step.intent" and e["data"].get("undoes")]
    assert undone == ["s2", "s1"]
    read_back = [e["step"] for e in entries if e["type"] == "step.verified" and e["data"].get("undoes")]
    assert read_back == ["s2", "s1"]
    assert [e["data"]["state"] for e in entries if e["type"] == "compensation.ended"] == ["ROLLED_BACK"]


@pytest.mark.slow
@requirement("containment:stopped", "credential:verified-dead")
async def test_a_kill_under_load_lets_no_intent_follow_and_leaves_no_login(suite: Suite) -> None:
    stop = asyncio.Event()
    reasons: list[str] = []

    async def agent(number: int) -> None:
        async with suite.agent() as request:
            while not stop.is_set():
                try:
                    await request.run(bank.draft(bank.refund(f"a-{20 + number}", 1)), seconds=30)
                except ServiceError as error:
                    reasons.append(error.reason)
                    if error.reason in ("CONTAINED", "TOKEN_REVOKED"):
                        return
                except TimeoutError:
                    return

    agents = [asyncio.create_task(agent(number)) for number in range(4)]
    await asyncio.sleep(2.0)
    scope = f"tenant:{bank.TENANT}"
    async with suite.person("omar") as omar, suite.person("ida") as ida:
        moments = await omar.trip(scope, "OPERATOR_STOP", "a test of the switch")
        assert moments.HasField("stopped_time")
        assert moments.HasField("revoked_time")
        assert moments.HasField("quiesced_time")
        assert (moments.revoked_count, moments.open_intent_count) == (moments.credential_count, 0)
        logins = await suite.sql("bank", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'g-%' AND rolcanlogin")
        assert logins == []
        await asyncio.sleep(1.0)
        async with suite.agent() as request:
            assert await reason_of(request.propose(bank.draft(bank.refund("a-20", 1)))) == "CONTAINED"
        epoch = moments.state.epoch
        asked = await omar.lift(scope, epoch)
        digest = asked.second_person.request_digest
        assert await reason_of(omar.lift(scope, epoch, "", digest)) == "SECOND_PERSON_REQUIRED"
        await ida.lift(scope, epoch, "", digest)
    stop.set()
    await asyncio.gather(*agents)
    async with asyncio.timeout(20):
        while True:  # the lift travels by policy's stream
            async with suite.agent() as request:
                if not await reason_of(request.run(bank.draft(bank.refund("a-20", 1)))):
                    break
            await asyncio.sleep(0.3)
    await suite.outboxes_drained()
    async with suite.person("omar") as omar:
        entries = [(e.index, parse_canonical(bytes(e.entry))) for e in await omar.entries()]
    stopped = [i for i, e in entries if e["type"] == "containment.stopped" and e["data"]["scope"] == scope]
    lifted = [i for i, e in entries if e["type"] == "containment.lifted" and e["data"]["scope"] == scope]
    intents = [i for i, e in entries if e["type"] == "step.intent" and stopped[-1] < i < lifted[-1]]
    times = dict(entries)
    late = [
        i for i in intents if times[i]["event_time_ms"] > times[stopped[-1]]["event_time_ms"]
    ]  # an intent made durable before the stop may be relayed after it
    assert late == []
    assert set(reasons) <= {"CONTAINED", "TOKEN_REVOKED", "CONTAINMENT_STALE"}, reasons


@requirement("ledger:tamper-named")
async def test_the_exported_ledger_verifies_and_one_flipped_byte_is_exit_code_4(suite: Suite, tmp_path: Path) -> None:
    home = str(suite.running.data_dir)
    loop = asyncio.get_running_loop()

    async def command(*words: str) -> tuple[int, str]:
        done = await loop.run_in_executor(None, lambda: suite.command(*words))
        text = (done.stdout + done.stderr).decode()
        assert "Traceback" not in text
        return done.returncode, text

    good = tmp_path / "ledger"
    assert (await command("login", "--home", home, "--user", "omar"))[0] == 0
    assert (await command("audit", "export", str(good), "--home", home))[0] == 0
    key = ("--vkey", str(good / "vkey"))
    assert (await command("audit", "verify", str(good), *key))[0] == 0
    for name in ("flipped", "missing"):
        shutil.copytree(good, tmp_path / name)
    entries = next(path for path in (tmp_path / "flipped" / "tile" / "entries").rglob("*") if path.is_file())
    data = bytearray(entries.read_bytes())
    data[len(data) // 2] ^= 1
    entries.write_bytes(bytes(data))
    code, text = await command("audit", "verify", str(tmp_path / "flipped"), *key)
    assert (code, "tile/entries/" in text) == (4, True)
    next(path for path in (tmp_path / "missing" / "tile" / "entries").rglob("*") if path.is_file()).unlink()
    assert (await command("audit", "verify", str(tmp_path / "missing"), *key))[0] == 3


@pytest.mark.parametrize("service", ["executor", "audit"])
async def test_a_service_that_is_down_is_exit_code_8_and_one_line(suite: Suite, service: str) -> None:
    home = str(suite.running.data_dir)
    loop = asyncio.get_running_loop()
    words = {"executor": ("plan", "list"), "audit": ("audit", "proof", "0", "--vkey", "x")}[service]
    await loop.run_in_executor(None, lambda: suite.command("login", "--home", home, "--user", "omar"))
    if service == "audit":
        words = ("explain", "sha256:" + "0" * 64)
    await suite.kill(service, hold=True)
    try:
        done = await loop.run_in_executor(None, lambda: suite.command(*words, "--home", home))
    finally:
        await suite.ready(service)
    assert done.returncode == 8, done
    assert b"Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    if service == "executor":
        assert done.stderr.startswith(b"EXECUTOR_UNAVAILABLE: ")
        assert done.stderr.strip().endswith(b"(next: RETRY)")
