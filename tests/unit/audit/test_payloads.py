"""Sealing, whose payload it is, when it is due, what a log declares: the pure part."""

import secrets
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.errors import InputInvalid
from counterseal.ledger.registry import REGISTRY
from counterseal_audit.payloads import engine
from counterseal_audit.payloads.declared import Declared
from counterseal_audit.retention import engine as retention

ANA, BOB = "p_" + "a" * 26, "p_" + "b" * 26
KEY = b"k" * engine.KEY_BYTES
DAY_MS = 86_400_000


def entry(kind: str, at_ms: int = 1_000, **more: Any) -> dict[str, Any]:
    srv = {"receive_time_ms": more.pop("receive_time_ms", at_ms), "producer": more.pop("producer", "executor")}
    srv |= {name: more.pop(name) for name in ("dek", "retention") if name in more}
    return {"type": kind, "event_time_ms": at_ms, "data": more.pop("data", {}), **more, "srv": srv}


@given(text=st.text(alphabet=st.characters(max_codepoint=126, min_codepoint=33)), ord_=st.integers(0, 30))
def test_what_was_sealed_opens_with_its_key_in_its_place_only(text: str, ord_: int) -> None:
    aad = engine.associated_data("example.org/log", "e-1", ord_)
    sealed = engine.seal(KEY, aad, text, secrets.token_bytes)
    assert len(sealed) == len(text) + engine.OVERHEAD_BYTES
    assert engine.open_sealed(KEY, aad, sealed) == text
    others = (
        (b"x" * 32, aad),
        (KEY, engine.associated_data("example.org/other", "e-1", ord_)),
        (KEY, engine.associated_data("example.org/log", "e-2", ord_)),
        (KEY, engine.associated_data("example.org/log", "e-1", ord_ + 1)),
    )
    for key, place in others:
        with pytest.raises(engine.PayloadDamaged):
            engine.open_sealed(key, place, sealed)


@given(st.binary(max_size=200))
def test_any_other_bytes_are_damaged_and_nothing_else(data: bytes) -> None:
    with pytest.raises(engine.PayloadDamaged):
        engine.open_sealed(KEY, b"place", data)


def test_places_cannot_run_into_each_other() -> None:
    assert engine.associated_data("ab", "c", 1) != engine.associated_data("a", "bc", 1)


def test_two_ciphertexts_of_one_text_differ() -> None:
    aad = engine.associated_data("o", "e", 0)
    assert engine.seal(KEY, aad, "x", secrets.token_bytes) != engine.seal(KEY, aad, "x", secrets.token_bytes)


@pytest.mark.parametrize(
    ("document", "owner", "concerned"),
    [
        (entry("request.received", subject=ANA), ANA, {ANA}),
        (entry("approval.recorded", subject=ANA, data={"approver": BOB}), BOB, {ANA, BOB}),
        (entry("step.resolved", subject=ANA, data={"resolver": BOB}), BOB, {ANA, BOB}),
        (entry("policy.published", subject=ANA, data={"published_by": ANA}), engine.LOG_OWNER, set()),
        (entry("tool.registered", subject=ANA, data={"registered_by": [ANA]}), engine.LOG_OWNER, set()),
        (entry("containment.tripped", data={"tripped_by": ANA}), engine.LOG_OWNER, set()),
        (entry("erasure.ordered", data={"person": ANA}), engine.LOG_OWNER, set()),
        (entry("access.disclosed", data={"auditor": ANA}), engine.LOG_OWNER, set()),
        (entry("call.decided"), engine.LOG_OWNER, set()),
    ],
)
def test_whose_payload_it_is(document: dict[str, Any], owner: str, concerned: set[str]) -> None:
    assert engine.owner(document) == owner
    assert {person for person in (ANA, BOB) if engine.concerns(document, person)} == concerned


def test_every_type_that_seals_something_has_an_owner_on_purpose() -> None:
    """A new type with sealed fields has to be looked at: the subject's, somebody's word, or the tenant's own."""
    sealing = {name.split(".")[0] for name, known in REGISTRY.items() if known.sealed}
    assert sealing == {
        *("request", "plan", "call", "approval", "step", "compensation"),  # people's
        *("containment", "policy", "autonomy", "tool", "key", "access", "erasure", "hold"),  # the tenant's own
    }


@pytest.mark.parametrize(("text", "days"), [("r1d", 1), ("r30d", 30), ("r400d", 400), ("r99999d", 99_999)])
def test_a_retention_class_is_a_number_of_days(text: str, days: int) -> None:
    due = engine.due_on(text, 10 * DAY_MS + 1)
    assert due is not None
    assert (due - date(1970, 1, 11)).days == days


@pytest.mark.parametrize("text", ["r0d", "r", "d", "r-1d", "r1", "R1d", "r1d ", "r100000d", "forever"])
def test_any_other_class_is_refused(text: str) -> None:
    with pytest.raises(InputInvalid, match="retention"):
        engine.due_on(text, 0)


def test_only_entries_explain_what_is_missing() -> None:
    declared = Declared()
    mine = entry("request.received", subject=ANA, dek=["d1"])
    late = entry("request.received", at_ms=9_000, receive_time_ms=2_000, subject=ANA, dek=["d9"])
    new = entry("request.received", at_ms=9_000, subject=ANA, dek=["d2"])
    other = entry("request.received", subject=BOB, dek=["d3"])
    assert not any(declared.explains(one) for one in (mine, late, new, other))
    order = {"job_id": "j", "person": ANA}
    declared.add(7, entry("erasure.ordered", at_ms=5_000, data=order, producer="audit"))
    assert [declared.explains(one) for one in (mine, late, new, other)] == [True, True, False, False]
    assert declared.underway(new)
    declared.add(8, entry("payload.erased", data={"job_id": "j", "deks": ["d2"]}, producer="audit"))
    assert declared.explains(new), "sealed under a key that was destroyed"
    assert not declared.underway(new)
    assert [job.missing for job in declared.unfinished()] == [["credentials", "executor", "policy"]]
    for service in ("policy", "credentials", "executor"):
        declared.add(9, entry("payload.erased", data={"job_id": "j"}, producer=service))
    assert not declared.unfinished()


def test_a_key_that_another_service_calls_erased_explains_nothing() -> None:
    declared = Declared()
    declared.add(1, entry("payload.erased", data={"job_id": "j", "deks": ["d1"]}, producer="executor"))
    assert not declared.explains(entry("request.received", subject=ANA, dek=["d1"]))


def test_age_explains_what_was_due_before_the_day_that_is_declared() -> None:
    declared = Declared()
    due = entry("request.received", retention="r1d", receive_time_ms=0)
    assert not declared.explains(due)
    declared.add(1, entry("retention.dropped", data={"due_on": "1970-01-02"}, producer="audit"))
    assert not declared.explains(due), "due on that very day"
    declared.add(2, entry("retention.dropped", data={"due_on": "1970-01-03"}, producer="audit"))
    assert declared.explains(due)
    assert not declared.explains(entry("request.received", receive_time_ms=0)), "no class: never by age"


@pytest.mark.parametrize(
    ("document", "goes"),
    [
        (entry("request.received", at_ms=5_000, subject=ANA), True),
        (entry("request.received", at_ms=5_001, receive_time_ms=4_000, subject=ANA), True),
        (entry("request.received", at_ms=5_001, subject=ANA), False),
        (entry("request.received", at_ms=5_001, subject=ANA, dek=["d1"]), True),
        (entry("request.received", at_ms=5_000, subject=BOB), False),
        (entry("policy.published", at_ms=5_000, subject=ANA), False),
    ],
)
def test_what_an_order_takes(document: dict[str, Any], goes: bool) -> None:
    assert retention.to_erase(document, ANA, 5_000, ("d1",)) is goes


def test_ranges_are_worked_off_in_batches() -> None:
    rest, seen = retention.Range(1, 0, 25), []
    while not rest.done:
        batch = rest.batch(10)
        seen.append((batch.next_idx, batch.end_idx))
        rest = retention.Range(1, batch.end_idx, rest.end_idx)
    assert seen == [(0, 10), (10, 20), (20, 25)]


def test_needles_are_exact_in_canonical_bytes() -> None:
    assert retention.needle(retention.Covers.PERSON, ANA) == f'"{ANA}"'.encode()
    assert retention.needle(retention.Covers.REQUEST_ID, "r-1") == b'"request_id":"r-1"'
    assert retention.missing(("audit", "policy")) == ("credentials", "executor")
    assert retention.backup_horizon(0, 35) == date(1970, 2, 5)
