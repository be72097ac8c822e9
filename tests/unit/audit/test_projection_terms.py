"""What is searchable of an entry, and which entries a query means."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.canonical import parse_strict
from counterseal_audit.projection.engine import MOST_SELECTIVE_FIRST, UNREADABLE, Field, Query, Terms, blinder, terms_of
from support import incidents
from support.requirements import requirement

BLIND = blinder(b"k" * 32)


def values(document: dict[str, object]) -> set[tuple[Field, str]]:
    return set(terms_of(0, json.dumps(document, separators=(",", ":"), sort_keys=True).encode(), BLIND).values)


def test_header_and_data_are_found_by_field() -> None:
    found = values(
        {
            "type": "step.outcome",
            "event_time_ms": 5,
            "agent": "refund-bot",
            "subject": "p_abc",
            "request_id": "r-1",
            "plan_digest": "sha256:aa",
            "step": "s1",
            "data": {"reason_code": "TIMEOUT", "external_id": "re_42", "tool": "shop.refund", "version": "1.0.0"},
        }
    )
    assert found == {
        (Field.ENTRY, ""),
        (Field.TYPE, "step.outcome"),
        (Field.AGENT, "refund-bot"),
        (Field.SUBJECT, "p_abc"),
        (Field.REQUEST_ID, "r-1"),
        (Field.PLAN_DIGEST, "sha256:aa"),
        (Field.STEP, "s1"),
        (Field.REASON_CODE, "TIMEOUT"),
        (Field.TOOL, "shop.refund"),
        (Field.TOOL, "shop.refund@1.0.0"),
        (Field.EXTERNAL_ID, BLIND("re_42")),
    }


def test_lists_give_one_term_each() -> None:
    found = values(
        {
            "type": "plan.proposed",
            "event_time_ms": 5,
            "data": {"tools": [{"name": "a", "version": "1"}, {"name": "b"}], "reason_codes": ["X1", "Y2"]},
        }
    )
    assert {value for field, value in found if field is Field.TOOL} == {"a", "a@1", "b"}
    assert {value for field, value in found if field is Field.REASON_CODE} == {"X1", "Y2"}


@requirement("ledger:search-complete")
def test_an_external_id_is_kept_blind_and_per_tenant() -> None:
    assert BLIND("re_42") != blinder(b"j" * 32)("re_42")
    assert "re_42" not in BLIND("re_42")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_entry_do_not_stop_a_follower(data: bytes) -> None:
    terms = terms_of(7, data, BLIND)
    assert terms.index == 7
    assert [value for field, value in terms.values if field is Field.TYPE] == [UNREADABLE]


@pytest.mark.parametrize(
    "data",
    [
        b'{"type":"\\u0000","event_time_ms":1}',
        b'{"type":"a","event_time_ms":1,"agent":"\\ud800"}',
        b'{"type":"a\x00","event_time_ms":1}',
        b'{"type":"a","event_time_ms":1,"agent":"\xed\xa0\x80"}',
        b'{"type":"a","event_time_ms":9223372036854775808}',
        b'{"type":"a","event_time_ms":' + b"9" * 5000 + b"}",
        b'{"type":"a","event_time_ms":1,"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'["type"]',
        b"5",
        b"\xff",
        b"",
    ],
    ids=lambda data: repr(data[:40]),
)
def test_what_no_column_takes_is_unreadable(data: bytes) -> None:
    assert terms_of(0, data, BLIND).values == {(Field.ENTRY, ""), (Field.TYPE, UNREADABLE)}


def test_recorded_entries_have_the_terms_of_what_they_say() -> None:
    recorded = list(incidents.entries())
    assert len(recorded) > 100
    for data in recorded:
        document = parse_strict(data)
        spelt = json.dumps(document).encode()  # with every character beyond ASCII escaped: read the strict way
        assert terms_of(3, data, BLIND) == terms_of(3, spelt, BLIND)
        assert (Field.TYPE, document["type"]) in terms_of(3, data, BLIND).values


def test_every_filter_must_hold_by_one_of_its_values() -> None:
    terms = Terms(0, 100, frozenset({(Field.TYPE, "a"), (Field.AGENT, "bot")}))
    assert Query({Field.TYPE: ["b", "a"], Field.AGENT: ["bot"]}).matches(terms)
    assert not Query({Field.TYPE: ["a"], Field.AGENT: ["other"]}).matches(terms)
    assert not Query({Field.STEP: ["s1"]}).matches(terms)
    assert Query({}, since_ms=100, until_ms=101).matches(terms)
    assert not Query({}, since_ms=101).matches(terms)
    assert not Query({}, until_ms=100).matches(terms)


def test_every_field_can_lead() -> None:
    assert {*MOST_SELECTIVE_FIRST, Field.ENTRY} == set(Field)
