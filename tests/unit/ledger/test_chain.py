"""The chain of evidence: a good story is accepted, every story with a promise broken is named, open ends are open."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from counterseal.cli import main
from counterseal.ledger import entry as entries
from counterseal.ledger.chain import Chain
from counterseal.ledger.registry import REGISTRY
from support.exports import DIGEST, KEY, files_of, genesis, uuid, write

ATTEMPT, DECISION, GRANT, TASK = uuid(901), uuid(902), uuid(903), uuid(904)
DEFAULTS: dict[str, dict[str, Any]] = {
    "plan.decided": {
        "decision_id": DECISION,
        "purpose": "COMMIT",
        "outcome": "ALLOW",
        "class_level": 2,
        "approvals_needed": 0,
        "taint": False,
    },
    "approval.requested": {"task_id": TASK, "card_digest": DIGEST, "need": 1, "expire_time_ms": 9},
    "approval.recorded": {
        "task_id": TASK,
        "verdict": "approve",
        "approver": "p_" + "a" * 26,
        "card_digest": DIGEST,
        "approval_digest": DIGEST,
        "count": 1,
        "need": 1,
        "expire_time_ms": 9,
        "signed": False,
    },
    "plan.committed": {"decision_id": DECISION},
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


STORY: tuple[Event, ...] = tuple(event(kind) for kind in DEFAULTS if kind != "step.resolved")


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


def findings(story: Sequence[Event]) -> list[str]:
    chain = Chain()
    for index, data in enumerate(log_of_story(story)):
        chain.add(index, entries.parse(data))
    return [f"{f.kind} {f.where}: {f.message}" for f in chain.findings()]


def test_a_good_story_has_no_finding() -> None:
    assert findings(STORY) == []


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
    "an attempt twice": ([*STORY[:5], event("step.intent"), *STORY[5:]], "second intent"),
    "a credential before the intent": (moved("credential.granted", before="step.intent"), "without an earlier intent"),
    "a credential after the outcome": (moved("step.outcome", before="credential.granted"), "after its outcome"),
    "an outcome without an intent": (without("step.intent"), "an outcome of attempt"),
    "an outcome before the intent": (moved("step.outcome", before="step.intent"), "without an earlier intent"),
    "two outcomes": ([*STORY[:7], event("step.outcome", outcome="not_applied"), *STORY[7:]], "second outcome"),
    "an outcome of another plan": (changed("step.outcome", plan_digest=OTHER), "another plan or step"),
    "an outcome of another step": (changed("step.outcome", step="s2"), "another plan or step"),
    "a resolution without a doubt": ([*STORY[:7], event("step.resolved"), *STORY[7:]], "was not in doubt"),
    "a read-back of nothing": (changed("step.outcome", outcome="not_applied"), "was not applied"),
    "an end that counts other intents": (changed("plan.ended", intent_count=2), "counts 2 intents, the log has 1"),
}


@pytest.mark.parametrize(("story", "named"), list(BROKEN.values()), ids=list(BROKEN))
def test_a_broken_promise_is_named(story: list[Event], named: str) -> None:
    broken = [found for found in findings(story) if found.startswith("tampered")]
    assert any(named in found for found in broken), findings(story)


OPEN: dict[str, tuple[list[Event], str]] = {
    "an intent under way": (without("step.outcome", "step.verified", "plan.ended"), "no outcome yet"),
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
