"""`counterseal explain` from an export: every section in its place, on recorded incidents and on what is missing."""

import json
import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from counterseal.canonical import parse_strict
from counterseal.cli import main, story
from counterseal.cli.audit_sources import Directory
from counterseal.cli.explain import Export, Part
from counterseal.cli.story import SECTIONS, Proof, Told
from counterseal.ledger import disclosure, tiles, trace
from counterseal.ledger.verify import Report
from support import incidents
from support.json_schema import problems
from support.requirements import requirement

SCHEMA = parse_strict(resources.files("counterseal.cli").joinpath("schemas/explain.schema.json").read_bytes())
PROOF = Proof("origin", 9, "ab" * 32, 9, "checked")


def explain(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    code = main(["explain", *argv, "--from", str(incidents.DIRECTORY)])
    return code, capsys.readouterr().out


def export_of(directory: Path, report: Report) -> Export:
    return Export([Part(0, Directory(directory), report)])


def sections(text: str) -> list[str]:
    """The names that lines begin with, in order: what a script finds."""
    names = "|".join(SECTIONS)
    return [found[1] for line in text.splitlines() if (found := re.match(rf"({names}) +\S", line))]


def entries_of(about: trace.About) -> list[Told]:
    """The entries of an action, gathered from the recorded log by the shortest way."""
    rows = list(enumerate(incidents.entries()))
    walk = trace.gather(about)
    try:
        ask = next(walk)
        while True:
            part = rows[ask.start : ask.end]
            wanted = [(n, e) for n, e in part if parse_strict(e).get(ask.field) in ask.values]
            ask = walk.send(wanted)
    except StopIteration as done:
        return [story.told(index, entry) for index, entry in done.value.items()]


@requirement("ledger:explain")
def test_every_recorded_incident_is_told_in_60_lines_with_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    plans = incidents.plans()
    assert len(plans) >= 20
    states = set()
    for plan in plans:
        code, text = explain(capsys, plan)
        assert code == 0
        assert sections(text) == list(SECTIONS)
        assert len(text.splitlines()) <= 60
        states.add(re.search(r"^final state +\S+ \S+ ([A-Z_]+)", text, re.MULTILINE)[1])  # type: ignore[index]
        code, document = explain(capsys, plan, "--json")
        assert code == 0
        assert problems(SCHEMA, json.loads(document)) == []
        assert json.loads(document)["plan_digest"] == plan
    assert states == {"SUCCEEDED", "REJECTED", "CANCELLED", "ROLLED_BACK", "HALTED", "RUNNING"}


@requirement("ledger:explain")
@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        ("SUCCEEDED", ["decided ", "COMMIT ALLOW: ", "did .*s1 shop.refund_order@1.0.0 on shop: applied read back ok"]),
        ("unknown", ["did .*s1 .*: unknown, then applied by probe read back ok"]),
        (
            "approved",
            ["approved by +asked for 1 of payments_lead", "approved by p_[a-z2-7]{26} .payments_lead., 1 of 1"],
        ),
        (
            "REJECTED",
            ["decided .* DENY: DESTRUCTIVE_IN_PRODUCTION", "did +no step was begun", "approved by +no approval"],
        ),
        (
            "ROLLED_BACK",
            ["undone +started: TARGET_REFUSED", "s2 shop.unpack_order.*applied", "ended ROLLED_BACK: 2 undone"],
        ),
        (
            "HALTED",
            ["problems +open: a committed plan", "containment.tripped tenant:acme: OPERATOR_STOP", "not ended: HALTED"],
        ),
    ],
)
def test_what_happened_is_said(capsys: pytest.CaptureFixture[str], state: str, wanted: list[str]) -> None:
    kinds: dict[str, Any] = {
        "unknown": lambda one: one["type"] == "step.outcome" and one["data"]["outcome"] == "unknown",
        "approved": lambda one: one["type"] == "approval.recorded",
        "HALTED": lambda one: one["type"] == "plan.changed" and one["data"]["to_state"] == "HALTED",
    }
    test = kinds.get(state, lambda one: one["type"] == "plan.ended" and one["data"]["state"] == state)
    plan = next(one["plan_digest"] for one in incidents.documents() if test(one))
    _, text = explain(capsys, plan)
    for pattern in wanted:
        assert re.search(pattern, text), (pattern, text)
    assert "credential" in text
    assert re.search(r"proof +\d+ of \d+ entries are in the signed tree of 524", text)


@requirement("ledger:explain")
def test_an_export_is_searched_as_if_each_entry_were_looked_at() -> None:
    report = Report("origin", incidents.size(), b"", "", "", ())
    export = export_of(incidents.DIRECTORY, report)
    rows = list(enumerate(incidents.entries()))
    ids = [one["event_id"] for one in incidents.documents()]
    for texts in ([ids[0]], [ids[255], ids[256]], [ids[-1]], ["plan.ended", "plan.proposed"], ["event_id"], ["absent"]):
        for start in (0, 1, 255, 256, 300, len(rows) - 1):
            wanted = [(n, e) for n, e in rows[start:] if any(f'"{text}"'.encode() in e for text in texts)]
            assert export._holding(texts, start) == wanted


@requirement("ledger:explain")
def test_a_hit_in_the_length_before_an_entry_belongs_to_some_entry(tmp_path: Path) -> None:
    """A length whose lower byte is a quote, before an entry that begins with a brace, looks like the string `{`."""
    entry = b'{"a":1}'.ljust(0x22)
    bundle = tmp_path / tiles.Tile(None, 0, 1).path
    bundle.parent.mkdir(parents=True)
    bundle.write_bytes(tiles.bundle([entry]))
    report = Report("origin", 1, b"", "", "", ())
    assert export_of(tmp_path, report)._holding(["{"]) == [(0, entry)]
    assert export_of(tmp_path, report).find("{") == {}


@requirement("ledger:explain", "ledger:trace")
def test_every_id_of_an_action_leads_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    for plan in incidents.plans()[:4]:
        _, by_plan = explain(capsys, plan, "--json")
        whole = json.loads(by_plan)
        for one in whole["entries"]:
            source = incidents.documents()[one["index"]]
            if source.get("plan_digest") == plan:
                _, by_event = explain(capsys, one["event_id"], "--json")
                assert json.loads(by_event) == whole
        (request,) = whole["request_ids"]
        _, by_request = explain(capsys, request, "--json")
        assert {one["index"] for one in whole["entries"]} <= {one["index"] for one in json.loads(by_request)["entries"]}


def test_an_unknown_id_and_a_broken_export_give_no_story(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert explain(capsys, "sha256:" + "0" * 64) == (3, "")
    copy = tmp_path / "ledger"
    shutil.copytree(incidents.DIRECTORY, copy)
    data = bytearray((copy / "tile/entries/000").read_bytes())
    data[5000] ^= 1
    (copy / "tile/entries/000").write_bytes(data)
    assert main(["explain", incidents.plans()[0], "--from", str(copy)]) == 4
    assert "problems" not in capsys.readouterr().out


def problems_of(entries: list[Told]) -> list[str]:
    return [fact.text for fact in story.tell(entries, PROOF).sections["problems"]]


@requirement("ledger:explain")
def test_each_lost_entry_of_a_chain_shows_as_a_problem() -> None:
    plan = next(one["plan_digest"] for one in incidents.documents() if one["type"] == "approval.recorded")
    entries = entries_of(trace.About(plans=[plan]))
    assert problems_of(entries) == ["none found"]
    for lost in entries:
        if lost.type in ("plan.committed", "step.intent", "step.outcome", "credential.revoked", "plan.ended"):
            found = problems_of([one for one in entries if one is not lost])
            assert found != ["none found"], lost.type
        if "stream" in lost.document and lost.type != "plan.ended":
            assert any("gap: " in text for text in problems_of([one for one in entries if one is not lost]))


@requirement("ledger:explain")
def test_a_chain_cut_anywhere_is_open_or_was_never_begun() -> None:
    plan = next(one["plan_digest"] for one in incidents.documents() if one["type"] == "compensation.ended")
    entries = entries_of(trace.About(plans=[plan]))
    for cut in range(1, len(entries)):
        part = entries[:cut]
        kinds = {one.type for one in part}
        if "step.intent" in kinds and "plan.ended" not in kinds:
            assert any(text.startswith("open: ") for text in problems_of(part))
        assert len(story.tell(part, PROOF).lines()) <= 60


@requirement("ledger:explain")
def test_what_is_sealed_is_said_sealed_and_what_was_disclosed_is_shown() -> None:
    strings = [disclosure.make("user_request", "give me\x1b[2J money " + "x" * 400, lambda n: b"s" * n)]
    document = {
        "type": "request.received",
        "event_time_ms": 1_795_760_016_870,
        "request_id": "r-1",
        "subject": "p_x",
        "agent": "bot",
        "agent_version": "1",
        "data": {},
        "_sd": disclosure.digests(strings),
    }
    data = json.dumps(document).encode()
    closed = story.tell([story.told(0, data)], PROOF).sections["asked"]
    assert closed[1].text == "request r-1: sealed"
    opened = story.tell([story.told(0, data, strings)], PROOF).sections["asked"][1].text
    assert opened.startswith("request r-1: give me")
    assert "more characters]" in opened
    other = disclosure.make("user_request", "something else", lambda n: b"s" * n)
    assert story.tell([story.told(0, data, [other, "junk"])], PROOF).sections["asked"][1].text == "request r-1: sealed"
    del document["_sd"]
    bare = story.tell([story.told(0, json.dumps(document).encode())], PROOF).sections
    assert bare["asked"][1].text == "request r-1: not recorded"
    assert bare["final state"][0].text == "not recorded"


def test_nothing_is_cut_without_a_count() -> None:
    attempts = [
        {
            "type": "step.intent",
            "step": f"s{n}",
            "data": {"attempt_id": f"a{n}", "tool": "t", "version": "1", "target": "x"},
        }
        for n in range(100)
    ]
    told = story.tell([story.told(n, json.dumps(one).encode()) for n, one in enumerate(attempts)], PROOF)
    assert len(told.lines()) <= 60
    assert any("... and 93 more" in line for line in told.lines())
    assert len(told.as_json()["sections"]["did"]) == 100
