"""The chain of evidence: a good story is accepted, every story with a promise broken is named, open ends are open."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from counterseal.cli import main
from counterseal.ledger import entry as entries
from counterseal.ledger.chain import Chain, _effective
from counterseal.ledger.registry import REGISTRY
from support.exports import DIGEST, KEY, files_of, genesis, uuid, write

ATTEMPT, DECISION, GRANT, TASK = uuid(901), uuid(902), uuid(903), uuid(904)
SNAPSHOT, PLATFORM = "sha256:" + "5a" * 32, "sha256:" + "9b" * 32
EFFECTIVE = _effective("", SNAPSHOT)
ANA, BEN = "p_" + "a" * 26, "p_" + "b" * 26
DEFAULTS: dict[str, dict[str, Any]] = {
    "policy.activated": {"to_snapshot_id": SNAPSHOT, "bootstrap": True},
    "plan.decided": {
        "decision_id": DECISION,
        "purpose": "COMMIT",
        "outcome": "ALLOW",
        "class_level": 2,
        "approvals_needed": 1,
        "card_digest": DIGEST,
        "snapshot_id": EFFECTIVE,
        "taint": False,
    },
    "approval.requested": {"task_id": TASK, "card_digest": DIGEST, "need": 1, "expire_time_ms": 9},
    "approval.recorded": {
        "task_id": TASK,
        "verdict": "approve",
        "approver": ANA,
        "card_digest": DIGEST,
        "approval_digest": DIGEST,
        "count": 1,
        "need": 1,
        "expire_time_ms": 9,
        "signed": False,
    },
    "plan.committed": {"decision_id": DECISION, "snapshot_id": EFFECTIVE, "approvals": [DIGEST]},
    "step.intent": {
        "attempt_id": ATTEMPT,
        "tool": "shop.refund",
        "version": "1.0.0",
        "tool_digest": DIGEST,
        "effect": "E1",
        "target": "shop",
        "deadline_time_ms": 9,
    },
    "credential.granted": {
        "grant_id": GRANT,
        "attempt_id": ATTEMPT,
        "purpose": "WRITE",
        "role": "shop",
        "ttl_seconds": 60,
    },
    "step.outcome": {"attempt_id": ATTEMPT, "outcome": "applied", "cost_minor": 0, "tainted": False},
    "step.resolved": {"attempt_id": ATTEMPT, "verdict": "applied", "method": "probe"},
    "step.verified": {"attempt_id": ATTEMPT, "verdict": "ok"},
    "credential.revoked": {
        "grant_id": GRANT,
        "attempt_id": ATTEMPT,
        "purpose": "WRITE",
        "role": "shop",
        "never_redeemed": False,
        "verified_dead": True,
        "reason_code": "DONE",
    },
    "approval.withdrawn": {"task_id": TASK, "approver": ANA},
    "compensation.started": {"cause": "TARGET_REFUSED", "step_count": 1},
    "compensation.ended": {"state": "ROLLED_BACK", "compensated_count": 1, "failed_count": 0},
    "plan.ended": {
        "state": "SUCCEEDED",
        "step_count": 1,
        "applied_count": 1,
        "compensated_count": 0,
        "intent_count": 1,
        "cost_minor": 0,
    },
}
Event = tuple[str, dict[str, Any]]


def event(kind: str, **data: Any) -> Event:
    return kind, data


LATER = ("step.resolved", "approval.withdrawn", "compensation.started", "compensation.ended")
STORY: tuple[Event, ...] = tuple(event(kind) for kind in DEFAULTS if kind not in LATER)


UNDO, UNDO_GRANT = uuid(911), uuid(913)
UNDONE: tuple[Event, ...] = (
    *STORY[:-1],
    event("compensation.started"),
    event("step.intent", attempt_id=UNDO, undoes=ATTEMPT),
    event("credential.granted", attempt_id=UNDO, grant_id=UNDO_GRANT),
    event("step.outcome", attempt_id=UNDO),
    event("credential.revoked", attempt_id=UNDO, grant_id=UNDO_GRANT),
    event("compensation.ended"),
    event("plan.ended", intent_count=2),
)
"""The same story, taken back."""


def log_of_story(story: Sequence[Event]) -> list[bytes]:
    logged = [genesis()]
    for kind, changes in story:
        number = len(logged)
        digest = changes.get("plan_digest", DIGEST)
        content = {
            "v": 1,
            "type": kind,
            "event_id": entries.committed_event_id(digest) if kind == entries.COMMITTED else uuid(number),
            "event_time_ms": 1,
            "tenant": "acme",
            "environment": "prod",
            "plan_digest": digest,
            "step": changes.get("step", "s1"),
            "attempt": 1,
            "data": DEFAULTS[kind] | {k: v for k, v in changes.items() if k not in ("plan_digest", "step")},
        }
        entries.check_content(content)
        logged.append(entries.build(content, entries.Srv(1, min(REGISTRY[kind].producers))))
    return logged


def findings(story: Sequence[Event], platform: Sequence[str] = ()) -> list[str]:
    chain = Chain(platform)
    for index, data in enumerate(log_of_story(story)):
        chain.add(index, entries.parse(data))
    return [f"{f.kind} {f.where}: {f.message}" for f in chain.findings()]


def test_a_good_story_has_no_finding() -> None:
    assert findings(STORY) == []


def test_a_compensation_that_points_back_is_fine() -> None:
    assert findings(UNDONE) == []


def test_a_doubt_may_be_compensated() -> None:
    story = [event("step.outcome", outcome="unknown") if one == event("step.outcome") else one for one in UNDONE]
    story = [
        one for one in before("compensation.started", event("step.resolved"), story=story) if one[0] != "step.verified"
    ]
    assert findings(story) == []


def test_two_people_s_votes_meet_a_demand_of_two() -> None:
    story = before("plan.committed", event("approval.recorded", approval_digest=OTHER, approver=BEN))
    story = [event("plan.decided", approvals_needed=2) if k == "plan.decided" else (k, d) for k, d in story]
    story = [event("plan.committed", approvals=[DIGEST, OTHER]) if k == "plan.committed" else (k, d) for k, d in story]
    assert findings(story) == []
    taken_back = before("plan.committed", event("approval.withdrawn", approver=BEN), story=story)
    assert len(findings(taken_back)) == 1


def test_a_credential_whose_grant_was_answered_too_late_is_fine_once_it_is_dead() -> None:
    """The broker's answer was lost: nothing was sent, the credential died; its entry came after the outcome."""
    story = [
        event("step.outcome", outcome="not_sent") if k == "step.outcome" else (k, d)
        for k, d in moved("step.outcome", before="credential.granted")
        if k != "step.verified"
    ]
    assert findings(story) == []
    assert len(findings([one for one in story if one[0] != "credential.revoked"])) == 1


def test_the_snapshot_of_a_decision_is_explained_by_what_was_activated() -> None:
    for named, platform, good in (
        (_effective("", SNAPSHOT), (), True),
        (_effective(SNAPSHOT, SNAPSHOT), (), True),
        (_effective(SNAPSHOT, ""), (), True),
        (_effective(PLATFORM, SNAPSHOT), (), False),
        (_effective(PLATFORM, SNAPSHOT), (PLATFORM,), True),
        (SNAPSHOT, (), False),
    ):
        story = [
            event(k, **{**d, "snapshot_id": named}) if k in ("plan.decided", "plan.committed") else (k, d)
            for k, d in STORY
        ]
        found = findings(story, platform)
        assert (found == []) == good, (named, platform)
        assert all(one.startswith("incomplete") for one in found)
    late = [*without("policy.activated"), event("policy.activated")]
    assert len(findings(late)) == 1


def test_a_doubt_that_was_resolved_is_fine() -> None:
    doubt = event("step.outcome", outcome="unknown")
    story = [doubt if kind == "step.outcome" else (kind, data) for kind, data in STORY]
    story.insert(story.index(doubt) + 1, event("step.resolved"))
    assert findings(story) == []


def without(*kinds: str) -> list[Event]:
    return [one for one in STORY if one[0] not in kinds]


def changed(kind: str, **data: Any) -> list[Event]:
    return [event(kind, **data) if one[0] == kind else one for one in STORY]


def moved(kind: str, *, before: str) -> list[Event]:
    story = without(kind)
    story.insert(story.index(event(before)), event(kind))
    return story


OTHER = "sha256:" + "cd" * 32


def before(kind: str, *more: Event, story: Sequence[Event] = STORY) -> list[Event]:
    """The story with more events before the first of a kind."""
    at = next(n for n, one in enumerate(story) if one[0] == kind)
    return [*story[:at], *more, *story[at:]]


def undone(position: int, *events: Event) -> list[Event]:
    """The undone story with one event, counted from the start of the compensation, replaced."""
    at = UNDONE.index(event("compensation.started")) + position
    return [*UNDONE[:at], *events, *UNDONE[at + 1 :]]


BROKEN: dict[str, tuple[list[Event], str]] = {
    "a commit without its decision": (without("plan.decided"), "not in the log before it"),
    "a commit before its decision": (moved("plan.committed", before="plan.decided"), "not in the log before it"),
    "a commit under a denial": (changed("plan.decided", outcome="DENY"), "does not allow it"),
    "a commit under a preview": (changed("plan.decided", purpose="PREVIEW"), "does not allow it"),
    "a commit under another plan's decision": (changed("plan.decided", plan_digest=OTHER), "does not allow it"),
    "a vote that nobody asked for": (without("approval.requested"), "nobody requested"),
    "an intent without a commit": (without("plan.committed"), "not committed before"),
    "an intent before the commit": (moved("step.intent", before="plan.committed"), "not committed before"),
    "an intent after the end": ([*STORY, event("step.intent", attempt_id=uuid(1))], "had ended"),
    "an attempt twice": (before("credential.granted", event("step.intent")), "second intent"),
    "a credential before the intent": (moved("credential.granted", before="step.intent"), "without an earlier intent"),
    "a credential after the outcome": (moved("step.outcome", before="credential.granted"), "after its outcome"),
    "an outcome without an intent": (without("step.intent"), "an outcome of attempt"),
    "an outcome before the intent": (moved("step.outcome", before="step.intent"), "without an earlier intent"),
    "two outcomes": (before("step.verified", event("step.outcome", outcome="not_applied")), "second outcome"),
    "an outcome of another plan": (changed("step.outcome", plan_digest=OTHER), "another plan or step"),
    "an outcome of another step": (changed("step.outcome", step="s2"), "another plan or step"),
    "a resolution without a doubt": (before("step.verified", event("step.resolved")), "was not in doubt"),
    "a read-back of nothing": (changed("step.outcome", outcome="not_applied"), "was not applied"),
    "a vote on another plan": (changed("approval.recorded", plan_digest=OTHER), "another plan or card than was asked"),
    "a vote on another card": (changed("approval.recorded", card_digest=OTHER), "another plan or card than was asked"),
    "a commit without the votes": (changed("plan.committed", approvals=[]), "demands 1 approvals"),
    "a commit that names no vote": (without("approval.recorded"), "a vote that is not in the log before it"),
    "a commit that names another vote": (changed("plan.committed", approvals=[OTHER]), "a vote that is not in the log"),
    "a commit on a rejection": (changed("approval.recorded", verdict="reject"), "a vote that is not in the log"),
    "a vote that was taken back": (before("plan.committed", event("approval.withdrawn")), "does not stand"),
    "a vote after the commit": (
        before("step.intent", event("approval.recorded"), story=without("approval.recorded")),
        "a vote that is not in the log before it",
    ),
    "one person's vote counted twice": (
        before(
            "plan.committed",
            event("approval.recorded", approval_digest=OTHER),
            story=[
                event("plan.decided", approvals_needed=2)
                if k == "plan.decided"
                else event("plan.committed", approvals=[DIGEST, OTHER])
                if k == "plan.committed"
                else (k, d)
                for k, d in STORY
            ],
        ),
        "demands 2 approvals, the commit names those of 1 people",
    ),
    "a commit on another card than was approved": (changed("plan.decided", card_digest=OTHER), "another plan or card"),
    "a commit under another snapshot": (changed("plan.committed", snapshot_id=SNAPSHOT), "another snapshot"),
    "an effect without a credential": (without("credential.granted", "credential.revoked"), "without a writing cred"),
    "an effect under a reading credential": (changed("credential.granted", purpose="READ"), "without a writing cred"),
    "a credential under another plan": (changed("credential.granted", plan_digest=OTHER), "under another plan"),
    "an undo of nothing": (undone(1, event("step.intent", attempt_id=UNDO, undoes=uuid(77))), "did not make before"),
    "an undo of another step": (
        undone(1, event("step.intent", attempt_id=UNDO, undoes=ATTEMPT, step="s2")),
        "did not make before",
    ),
    "an undo of what was not applied": (
        [event("step.outcome", outcome="not_applied") if one == event("step.outcome") else one for one in UNDONE],
        "which was not applied",
    ),
    "an undo before its start": (undone(0), "before compensation.started"),
    "the end of no compensation": (before("plan.ended", event("compensation.ended")), "had not started"),
    "a compensation before the commit": (before("plan.committed", event("compensation.started")), "not under way"),
    "a compensation after the end": ([*STORY, event("compensation.started")], "not under way"),
    "an end that counts other intents": (changed("plan.ended", intent_count=2), "counts 2 intents, the log has 1"),
}


@pytest.mark.parametrize(("story", "named"), list(BROKEN.values()), ids=list(BROKEN))
def test_a_broken_promise_is_named(story: list[Event], named: str) -> None:
    broken = [found for found in findings(story) if found.startswith("tampered")]
    assert any(named in found for found in broken), findings(story)


OPEN: dict[str, tuple[list[Event], str]] = {
    "an intent under way": (without("step.outcome", "step.verified", "plan.ended"), "no outcome yet"),
    "a read without a credential": (
        [
            event("step.intent", effect="E0") if k == "step.intent" else (k, d)
            for k, d in without("credential.granted", "credential.revoked")
        ],
        "no credential of it is in the log",
    ),
    "a doubt": (
        [
            event("step.outcome", outcome="unknown") if k == "step.outcome" else (k, d)
            for k, d in without("step.verified")
        ],
        "unknown and not resolved yet",
    ),
    "a credential not revoked": (without("credential.revoked"), "not verified dead yet"),
    "a revocation without proof": (changed("credential.revoked", verified_dead=False), "not verified dead yet"),
}


@pytest.mark.parametrize(("story", "named"), list(OPEN.values()), ids=list(OPEN))
def test_what_has_not_come_yet_is_incomplete_and_not_broken(story: list[Event], named: str) -> None:
    found = findings(story)
    assert len(found) == 1
    assert found[0].startswith("incomplete")
    assert named in found[0]


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: STORY, 0),
        (lambda: without("credential.revoked"), 3),
        (lambda: without("plan.committed"), 4),
    ],
)
def test_the_command_says_it_by_its_exit_code(
    tmp_path: Path, make: Callable[[], Sequence[Event]], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    export = write(files_of(log_of_story(make())), tmp_path / "ledger")
    assert main(["audit", "verify", str(export), "--vkey", KEY.vkey]) == 0, "the bytes are what was written"
    assert main(["audit", "chain", str(export), "--vkey", KEY.vkey]) == code
    (export / "tile/0").rename(export / "tile/9")
    assert main(["audit", "chain", str(export), "--vkey", KEY.vkey]) == 4
