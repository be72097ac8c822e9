import contextlib
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.canonical import canonical, digest, parse_canonical
from counterseal.documents.effects import commit_event_id, effect_key, rationale_digest, step_intent_digest
from counterseal.documents.plan import (
    Condition,
    StepFill,
    build_plan,
    markers,
    parse_draft,
    parse_plan,
    topological_order,
)
from counterseal.errors import NotCanonical, PlanInvalid, ServiceError
from counterseal.ids import is_id
from support.documents import DIGEST, PLAN_ID, draft_document, plan, server_fields, step_document

FULL: dict[str, Any] = draft_document(
    supersedes=PLAN_ID,
    not_before_time="2026-11-22T10:00:00Z",
    expire_time="2026-11-22T11:00:00.5Z",
    deadline_seconds=600,
    budgets={"objects": 1, "bytes_out": 2, "cost_minor": 3},
    parallelism=2,
    constraints=["only this charge"],
    rejected_alternatives=["a voucher"],
    data_sources=["crm, ticket 7", "mail"],
    model={"provider": "p", "id": "m", "version": "1"},
    confidence_method="self",
    unverified=["that it is broken"],
    steps=[
        step_document(
            needs=[],
            timeout_seconds=10,
            retry={"max": 2, "backoff_seconds": 1},
            post=[{"kind": "tool_state", "ref": "status", "value": "refunded"}],
            undo={"tool": "shop.charge@1.0.0", "args": {"of": {"$before": "/0/id"}}, "post": [], "if_exists": True},
            on_fail="hold",
        ),
        step_document(id="s2", needs=["s1"]),
    ],
)


def test_a_plan_with_every_field_survives_its_bytes() -> None:
    made = plan(FULL, rationale_digest=DIGEST, policy_snapshot=DIGEST)
    read = parse_plan(made.body)
    assert read == made
    assert read.digest == digest("plan", made.body)
    assert read.step("s1").undoable is not None
    assert read.step("s2").undoable is None
    assert read.expire_time_ms == 1795345200500


def test_the_plan_is_the_request_plus_exactly_the_server_fields() -> None:
    document = parse_canonical(plan(FULL).body)
    for key in ("plan_id", "nonce", "tenant", "environment", "request_id", "actor", "taint"):
        del document[key]
    for step in document["steps"]:
        del step["tool_digest"], step["pre"]
        if isinstance(step["undo"], dict):
            del step["undo"]["tool_digest"]
    assert document == FULL


def test_a_plan_without_an_expiry_ends_a_day_after_the_time_inside_its_own_id() -> None:
    made = plan()
    assert made.created_time_ms == int(PLAN_ID.replace("-", "")[:12], 16)
    assert made.expire_time_ms == made.created_time_ms + 86_400_000


@pytest.mark.parametrize("key", ["plan_id", "nonce", "tenant", "environment", "request_id", "actor", "taint", "x"])
def test_a_draft_cannot_carry_server_fields_or_unknown_ones(key: str) -> None:
    with pytest.raises(PlanInvalid) as caught:
        parse_draft(draft_document(**{key: "acme"}))
    assert caught.value.metadata["pointer"] == f"/{key}"


@pytest.mark.parametrize("key", ["tool_digest", "pre", "preview_digest"])
def test_a_step_of_a_draft_cannot_carry_server_fields(key: str) -> None:
    with pytest.raises(PlanInvalid) as caught:
        parse_draft(draft_document(steps=[step_document(**{key: DIGEST})]))
    assert caught.value.metadata["pointer"] == f"/steps/0/{key}"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"v": 2}, "/v"),
        ({"v": True}, "/v"),
        ({"objective": ""}, "/objective"),
        ({"steps": []}, "/steps"),
        ({"steps": {}}, "/steps"),
        ({"confidence_ppm": 1_000_001}, "/confidence_ppm"),
        ({"confidence_ppm": 0.5}, "/confidence_ppm"),
        ({"expire_time": "tomorrow"}, "/expire_time"),
        ({"expire_time": "2026-13-01T00:00:00Z"}, "/expire_time"),
        ({"expire_time": "2026-11-22T10:00:00+01:00"}, "/expire_time"),
        ({"deadline_seconds": 0}, "/deadline_seconds"),
        ({"model": {"provider": "p"}}, "/model/id"),
        ({"budgets": {"money": 1}}, "/budgets/money"),
        ({"steps": [step_document(retry={"max": 1})]}, "/steps/0/retry/backoff_seconds"),
        ({"steps": [step_document(timeout_seconds=891)]}, "/steps/0/timeout_seconds"),
        ({"steps": [step_document(tool="shop.refund")]}, "/steps/0/tool"),
        ({"steps": [step_document(args=[])]}, "/steps/0/args"),
        ({"steps": [step_document(target="../prod")]}, "/steps/0/target"),
        ({"steps": [step_document(on_fail="ignore")]}, "/steps/0/on_fail"),
        ({"steps": [step_document(undo={})]}, "/steps/0/undo/tool"),
        ({"steps": [step_document(undo="nothing")]}, "/steps/0/undo"),
        ({"steps": [step_document(), step_document()]}, "/steps/1/id"),
        ({"steps": [step_document(needs=["s9"])]}, "/steps/0/needs/0"),
        ({"steps": [step_document(needs=["s2"]), step_document(id="s2", needs=["s1"])]}, "/steps"),
        ({"steps": [step_document(needs=["s1"])]}, "/steps"),
        ({"steps": [step_document(id=f"s{n}") for n in range(65)]}, "/steps"),
    ],
)
def test_a_bad_draft_is_refused_at_its_pointer(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(PlanInvalid) as caught:
        parse_draft(draft_document(**changes))
    assert caught.value.metadata["pointer"] == where


def test_a_plan_that_lost_a_server_field_is_no_plan() -> None:
    whole = parse_canonical(plan().body)
    for key in ("plan_id", "nonce", "tenant", "environment", "request_id", "actor", "taint"):
        document = {k: v for k, v in whole.items() if k != key}
        with pytest.raises(PlanInvalid, match=f"/{key}"):
            parse_plan(canonical(document))


def test_any_changed_byte_changes_the_digest_or_is_refused() -> None:
    made = plan()
    for at in range(0, len(made.body), 7):
        changed = bytearray(made.body)
        changed[at] ^= 1
        try:
            assert parse_plan(bytes(changed)).digest != made.digest
        except ServiceError:
            continue


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda c: st.lists(c) | st.dictionaries(st.sampled_from(["v", "steps", "id", "objective", "x"]), c),
        max_leaves=8,
    )
)
def test_whatever_the_document_only_our_own_errors_come_out(value: Any) -> None:
    with contextlib.suppress(PlanInvalid, NotCanonical):
        parse_draft(value)


def test_preconditions_are_under_the_digest() -> None:
    draft = parse_draft(draft_document())
    one, two = (
        build_plan(
            draft,
            server_fields(draft, steps={"s1": StepFill(DIGEST, (Condition("tool_state", "s", value),), None, None)}),
        )
        for value in ("open", "closed")
    )
    assert one.digest != two.digest
    assert one.steps[0].pre == (Condition("tool_state", "s", "open"),)


def test_steps_come_out_after_what_they_need() -> None:
    draft = parse_draft(
        draft_document(
            steps=[
                step_document(id="c", needs=["b"]),
                step_document(id="a"),
                step_document(id="b", needs=["a"]),
                step_document(id="d"),
            ]
        )
    )
    assert [s.id for s in topological_order(draft.steps)] == ["a", "b", "c", "d"]


def test_reserved_objects_are_found_wherever_they_hide() -> None:
    found = list(markers({"a": [{"$ref": {"step": "s1"}}], "b/c": {"$secret": "x"}, "d": {"e": 1}}))
    assert found == [("$ref", "/a/0"), ("$secret", "/b~1c")]


def test_the_event_id_of_a_commit_follows_from_the_plan_alone() -> None:
    body = b'{"plan_digest":"%s","type":"plan.committed"}' % DIGEST.encode()
    kind = b"application/vnd.counterseal.event-id.v1+json"
    raw = hashlib.sha256(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)).hexdigest()
    event_id = commit_event_id(DIGEST)
    assert is_id(event_id)
    assert event_id.replace("-", "")[:12] == raw[:12]
    assert event_id[14] == "8"
    assert event_id == commit_event_id(DIGEST) != commit_event_id("sha256:" + "00" * 32)


def test_an_effect_key_changes_with_attempt_step_and_direction_only() -> None:
    key = effect_key(DIGEST, "s1", 1)
    assert key == effect_key(DIGEST, "s1", 1)
    assert len(key) == 52
    assert (
        len({key, effect_key(DIGEST, "s1", 2), effect_key(DIGEST, "s2", 1), effect_key(DIGEST, "s1", 1, undo=True)})
        == 4
    )


def test_salted_digests_do_not_repeat_for_equal_content() -> None:
    assert rationale_digest("a", "why") != rationale_digest("b", "why")
    assert step_intent_digest(DIGEST, "s1", PLAN_ID, DIGEST, "k", DIGEST).startswith("sha256:")
