"""A newcomer's evening with `counterseal dev` and the commands, each a process of its own, with their exit codes."""

import asyncio
import json
import os
import signal
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from support.postgres import open_directory
from support.requirements import requirement

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
COUNTERSEAL = Path(sys.executable).with_name("counterseal")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "shop"
AGENT = ("--profile", "agent-refund-bot")


class Console:
    """Runs commands against one `counterseal dev`."""

    def __init__(self, home: Path) -> None:
        self.home = home

    async def run(self, *argv: str, code: int | None = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            COUNTERSEAL,
            *argv,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "COUNTERSEAL_HOME": str(self.home)},
        )
        out, err = await process.communicate()
        assert code in (None, process.returncode), f"{argv}: {process.returncode}\n{out.decode()}{err.decode()}"
        assert b"Traceback" not in out + err
        return out.decode() or err.decode()

    async def json(self, *argv: str, code: int | None = 0) -> Any:
        return json.loads(await self.run(*argv, "--json", code=code))


@pytest_asyncio.fixture
async def console() -> AsyncIterator[Console]:
    with open_directory("counterseal-dev-") as home:
        dev = await asyncio.create_subprocess_exec(
            COUNTERSEAL,
            "dev",
            "--home",
            str(home / "dev"),
            "--environment",
            "prod",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},  # as users have it
        )
        try:
            assert dev.stdout is not None
            first = await asyncio.wait_for(dev.stdout.readline(), 120)
            assert first.startswith(b"counterseal is running: environment prod"), first
            yield Console(home / "dev")
        finally:
            dev.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(dev.wait(), 60) == 0
        assert _processes_below(home) == []


def _processes_below(home: Path) -> list[str]:
    """Return the command lines that still name the data directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if str(home).encode() in line:
            found.append(line.decode(errors="replace"))
    return found


@pytest.mark.slow
@requirement("ledger:explain")
async def test_an_evening_with_the_commands(console: Console) -> None:
    assert "nobody is logged in" in await console.run("approvals", "list", code=5)
    await console.run("login", *AGENT, "--user", "ana")
    for user in ("ida", "ada", "omar", "olga"):
        await console.run("login", "--user", user)
    await console.run("login", "--user", "mallory", code=5)

    await _small_refund(console)
    denied = await console.json("plan", "propose", str(EXAMPLES / "purge.json"), code=5)
    assert denied["decision"]["reason_codes"] == ["DESTRUCTIVE_IN_PRODUCTION"]
    approved = await _large_refund(console)
    await _kill_and_lift(console)
    await _look_back(console, approved)
    await _carry_on_in_another_log(console, approved)


async def _small_refund(console: Console) -> None:
    plan = await console.json("plan", "propose", str(EXAMPLES / "refund.json"))
    assert plan["decision"]["outcome"] == "ALLOW"
    assert plan["canonical_plan"]["steps"][0]["args"] == {"amount_cents": 2000, "order_id": "o-1001"}
    wrong = "sha256:" + "0" * 64
    assert "PLAN_DIGEST_MISMATCH" in await console.run("plan", "commit", plan["plan_id"], "--digest", wrong, code=3)
    ended = await console.json("plan", "commit", plan["plan_id"], "--digest", plan["plan_digest"], "--wait", "60")
    assert ended["state"] == "SUCCEEDED"
    watched = await console.run("plan", "watch", plan["plan_id"])
    assert "plan.ended" in watched
    shown = await console.run("plan", "show", plan["plan_id"])
    assert plan["plan_digest"] in shown


async def _large_refund(console: Console) -> str:
    plan = await console.json("plan", "propose", str(EXAMPLES / "large-refund.json"), code=6)
    commit = ("plan", "commit", plan["plan_id"], "--digest", plan["plan_digest"])
    assert "APPROVAL_REQUIRED" in await console.run(*commit, code=6)
    (task,) = await console.json("approvals", "list")
    shown = await console.run("approvals", "show", task["task_id"])
    assert plan["plan_digest"] in shown
    vote = (task["task_id"], "--plan", task["plan_digest"], "--card", task["card_digest"])
    wrong = (task["task_id"], "--plan", task["plan_digest"], "--card", "sha256:" + "0" * 64)
    assert "CARD_DIGEST_MISMATCH" in await console.run("approvals", "approve", *wrong, code=3)
    await console.run("approvals", "approve", *vote, "--user", "ida", code=5)  # ida owns the agent
    await console.run("approvals", "approve", *vote)
    await console.run(*commit, "--wait", "60")
    return str(plan["plan_digest"])


async def _kill_and_lift(console: Console) -> None:
    moments = await console.json("kill", "--all-of-tenant")
    assert (moments["scope"], moments["policy"]) == ("tenant:acme", True)
    assert "CONTAINED" in await console.run("plan", "propose", str(EXAMPLES / "refund.json"), code=5)
    asked = await console.json("lift", "--all-of-tenant", "--user", "omar", code=6)
    digest = asked["second_person"]["request_digest"]
    again = ("lift", "--all-of-tenant", "--request-digest", digest)
    assert "SECOND_PERSON_REQUIRED" in await console.run(*again, "--user", "omar", code=3)
    await console.run(*again, "--user", "ida")
    for _ in range(50):  # the lift travels by policy's stream
        try:
            await console.json("plan", "propose", str(EXAMPLES / "refund.json"))
            break
        except AssertionError:
            await asyncio.sleep(0.2)
    else:
        pytest.fail("nothing can be proposed after the lift")


async def _look_back(console: Console, plan_digest: str) -> None:
    story = await console.json("explain", plan_digest)
    types = [entry["type"] for entry in story["entries"]]
    for wanted in ("plan.proposed", "plan.decided", "approval.recorded", "plan.committed", "step.intent"):
        assert wanted in types
    assert types.index("step.intent") < types.index("step.outcome")
    await _search(console, plan_digest, story)
    assert "shop.refund_order@1.0.0" in await console.run("tool", "list")
    assert len(await console.json("plan", "list")) >= 3
    export = console.home / "export"
    taken = await console.json("audit", "export", str(export), "--purpose", "case-4711")
    checked = await console.json("audit", "verify", str(export), "--vkey", str(export / "vkey"))
    assert (checked["verdict"], checked["manifest_digest"]) == ("verified", taken["manifest_digest"])
    recorded = await console.json("audit", "get", taken["disclosed_event_id"])
    assert recorded["entry"]["data"]["manifest_digest"] == taken["manifest_digest"]
    assert recorded["entry"]["data"]["purpose"] == "case-4711"
    await _without_operational_logs(console, plan_digest, export)
    await _take_home(console, export)


async def _without_operational_logs(console: Console, plan_digest: str, export: Path) -> None:
    """The story rests on the ledger alone: with every operational log deleted it is told as before, online and off."""
    before = await console.json("explain", plan_digest)
    logs = [path for path in console.home.rglob("*.log") if path.is_file()]
    assert len(logs) >= 6, "of four services, PostgreSQL and OpenBao"
    for path in logs:
        path.unlink()
    for words in (("explain", plan_digest), ("explain", plan_digest, "--from", str(export))):
        after = await console.json(*words)
        assert after["entries"][: len(before["entries"])] == before["entries"]
        assert list(after["sections"]) == list(before["sections"])
        assert after["sections"]["did"] == before["sections"]["did"]


async def _search(console: Console, plan_digest: str, story: dict[str, Any]) -> None:
    """The log by its index: filters, pages, one entry, a tail; the whole story by any id; the index made again."""
    found = await console.json("audit", "search", "--plan-digest", plan_digest, "--type", "step.intent")
    (intent,) = found["entries"]
    assert found["next_page_token"] == ""
    assert intent["entry"]["event_id"] == next(e["event_id"] for e in story["entries"] if e["type"] == "step.intent")
    first = await console.json("audit", "search", "--limit", "2")
    rest = await console.json("audit", "search", "--limit", "0", "--page", first["next_page_token"])
    assert [one["index"] for one in first["entries"]] == [0, 1]
    assert [one["index"] for one in rest["entries"]][:2] == [2, 3]
    assert "plan_digest: not a digest" in await console.run("audit", "search", "--plan-digest", "x", code=3)
    one = await console.json("audit", "get", intent["entry"]["event_id"])
    assert one["entry"] == intent["entry"]
    tailed = await console.run("audit", "tail", "--from", "0", "--count", "3", "--json")
    assert [json.loads(line)["index"] for line in tailed.splitlines()] == [0, 1, 2]
    told = await console.json("explain", intent["entry"]["event_id"])
    assert told["plan_digests"] == [plan_digest]
    lines = (await console.run("explain", plan_digest)).splitlines()
    assert lines[0].startswith("problems")
    assert len(lines) <= 60
    assert "ROLE_REQUIRED" in await console.run("audit", "reindex", "--user", "olga", code=5)
    again = await console.json("audit", "reindex", "--user", "omar")
    assert again["indexed_size"] >= again["size"] > 0
    bundle = console.home / "case.zip"
    made = await console.json("audit", "export", str(bundle), "--format", "bundle")
    assert made["manifest"]["count"] == made["manifest"]["size"] > 0
    recorded = (await console.json("audit", "get", made["disclosed_event_id"]))["entry"]
    assert recorded["data"]["manifest_digest"] == made["manifest_digest"]
    assert recorded["data"]["export"]["format"] == "bundle"
    taken = (await console.json("audit", "get", recorded["refs"][0]["event_id"]))["entry"]
    assert taken["data"]["export"] == {**recorded["data"]["export"], "format": "tiles"}
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(console.home / "case")
    verdict = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "verifier.pyz", "verify", "log", ".", cwd=console.home / "case"
    )
    assert await verdict.wait() == 0


async def _take_home(console: Console, export: Path) -> None:
    """A second export extends the first; a proof stands alone; another log cannot take the kept one's place."""
    kept = (export / "checkpoint").read_bytes()
    size = int(kept.split(b"\n")[1])
    for _ in range(20):  # each command's login is an entry; an outbox and a checkpoint later the log has grown
        again = await console.json("audit", "export", str(export))
        if again["size"] > size:
            break
    assert again["size"] > size
    chain: dict[str, Any] = {}
    for _ in range(120):  # the login that a proposal read with is kept for 45 s, and verified dead after that
        await asyncio.sleep(1)
        await console.run("audit", "export", str(export))
        chain = await console.json("audit", "chain", str(export), "--vkey", str(export / "vkey"), code=None)
        if chain["verdict"] == "verified":
            break
    assert chain["verdict"] == "verified", chain
    proof = console.home / "one.tlog-proof"
    await console.run("audit", "proof", "1", "--out", str(proof), "--vkey", str(export / "vkey"))
    assert proof.read_bytes().startswith(b"c2sp.org/tlog-proof@v1\n")
    assert json.loads((console.home / "one.entry.json").read_text())["tenant"] == "acme"
    assert "NOT_FOUND" in await console.run("audit", "proof", "999999", code=3)
    held = (export / "checkpoint").read_bytes()
    (export / "vkey").write_text("counterseal.dev/other+4b84ecd9+AW56HN0psLeP0Tr0xVmP7/TvKpcWbjym8uT7/M2AUFvx\n")
    await console.run("audit", "export", str(export), code=4)
    assert (export / "checkpoint").read_bytes() == held


async def _read_a_closed_log(console: Console, found: list[dict[str, Any]], size: int) -> None:
    """An entry is named as it is shown; by its id it is found in whichever log has it."""
    proposed = next(one for one in found if one["entry"]["type"] == "plan.proposed")
    index, event_id = proposed["index"], proposed["entry"]["event_id"]
    for name in (event_id, f"0/{index}"):
        one = await console.json("audit", "get", name)
        assert (one["shard"], one["index"], one["entry"]) == (0, index, proposed["entry"])
        proof = console.home / "closed.tlog-proof"
        told = await console.json("audit", "proof", name, "--out", str(proof))
        assert (told["shard"], told["index"]) == (0, index)
        words = ("audit", "disclose", name, "--name", "objective", "--purpose", "case-1")
        shown = await console.json(*words, "--user", "ada")
        assert (shown["shard"], shown["index"], list(shown["fields"])) == (0, index, ["objective"])
    assert (await console.json("audit", "get", "0"))["shard"] == 1
    assert (await console.json("audit", "get", "1/0"))["entry"]["type"] == "log.genesis"
    for wrong in ("1/", "/1", "a/1", "-1", "1/2/3"):
        assert "shard/index" in await console.run("audit", "get", "--", wrong, code=3)
    count = size - index + 2
    tailed = await console.run("audit", "tail", "--from", f"0/{index}", "--count", str(count), "--json")
    places = [(one["shard"], one["index"]) for one in map(json.loads, tailed.splitlines())]
    assert places == [*((0, at) for at in range(index, size)), (1, 0), (1, 1)]


async def _carry_on_in_another_log(console: Console, plan_digest: str) -> None:
    """The log is closed and the next begun; a closed log can be taken home, and what it holds is still found."""
    for words in (("audit", "freeze", "--reason-code", "DRILL_ENDED"), ("audit", "shard")):
        asked = await console.json(*words, "--user", "omar", code=6)
        digest = asked["second_person"]["request_digest"]
        await console.json(*words, "--user", "ida", "--request-digest", digest)
        export = console.home / words[1]
        taken = await console.json("audit", "export", str(export))
        assert taken["disclosed_event_id"]
        assert len(taken["shards"]) == (1 if words[1] == "shard" else 0)
    found = await console.json("audit", "search", "--plan-digest", plan_digest)
    assert [(one["shard"], one["indexed_size"] == one["size"]) for one in found["shards"]] == [(0, True), (1, True)]
    assert {one["shard"] for one in found["entries"]} == {0}
    assert "of shard 0]" in await console.run("explain", plan_digest)
    await _read_a_closed_log(console, found["entries"], found["shards"][0]["size"])
    online = await console.json("explain", plan_digest)
    offline = await console.json("explain", plan_digest, "--from", str(export))
    assert online["entries"] == offline["entries"]
    assert {one["shard"] for one in online["entries"]} == {0}
