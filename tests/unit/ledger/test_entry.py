"""Entry bytes: one spelling, closed schema, no person, no free text; disclosures."""

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.canonical import canonical, digest_of
from counterseal.errors import NotCanonical
from counterseal.ledger import disclosure
from counterseal.ledger import entry as entries
from counterseal.ledger.encoding import b64url
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.fields import word
from support.exports import DIGEST, changed, genesis, uuid
from support.requirements import requirement

P = "p_" + "a" * 26
SALT = b"0123456789abcdef"


def intent() -> dict[str, Any]:
    return {
        "v": 1,
        "type": "step.intent",
        "event_id": uuid(1),
        "event_time_ms": 1795330000101,
        "tenant": "acme",
        "environment": "prod",
        "request_id": "r-1",
        "txn": uuid(2),
        "subject": P,
        "agent": "refund-bot",
        "agent_version": "2026.11.3",
        "stream": f"plan:{uuid(3)}",
        "seq": 9,
        "plan_digest": DIGEST,
        "step": "s1",
        "attempt": 1,
        "refs": [{"event_id": uuid(4), "rel": "decision"}],
        "_sd_alg": "sha-256",
        "_sd": ["A" * 43, "B" * 43],
        "data": {
            "attempt_id": uuid(5),
            "tool": "shop.cancel_order",
            "version": "1.0.0",
            "tool_digest": DIGEST,
            "effect": "E1",
            "target": "shop",
            "deadline_time_ms": 1795330000101,
        },
    }


SRV = entries.Srv(1795330000123, "executor", ("9f3c",), "r400d")


def test_the_bytes_are_those_of_the_canonical_form() -> None:
    content = intent()
    entries.check_content(content)
    data = entries.build(content, SRV)
    assert data == canonical({**content, "srv": SRV.document()})
    parsed = entries.parse(data)
    assert (parsed.type, parsed.seq, parsed.stream, parsed.producer) == (
        "step.intent",
        9,
        f"plan:{uuid(3)}",
        "executor",
    )


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(content: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        target: Any = content
        for parent in parents:
            target = target[parent]
        if value is None:
            del target[last]
        else:
            target[last] = value

    return apply


BAD = {
    "free text in a clear field": change("data.tool", "cancel the order"),
    "an e-mail address": change("agent", "ana@example.com"),
    "a person in clear": change("subject", "user:ana"),
    "an unknown header field": change("comment", "x"),
    "an unknown data field": change("data.note", "x"),
    "a missing data field": change("data.tool", None),
    "a missing header field that the type needs": change("attempt", None),
    "an unknown type": change("type", "step.exploded"),
    "another version": change("v", 0),
    "a boolean for a number": change("seq", True),
    "a float": change("event_time_ms", 1.5),
    "a negative number": change("seq", -1),
    "a number that JavaScript cannot hold": change("event_time_ms", 2**53),
    "a stream without seq": change("seq", None),
    "a seq without stream": change("stream", None),
    "seq zero": change("seq", 0),
    "attempt zero": change("attempt", 0),
    "digests of disclosures unsorted": change("_sd", ["B" * 43, "A" * 43]),
    "a digest of a disclosure twice": change("_sd", ["A" * 43, "A" * 43]),
    "more sealed fields than the type has": change("_sd", sorted(c * 43 for c in "ABCDEFG")),
    "digests without their algorithm": change("_sd_alg", None),
    "another digest algorithm": change("_sd_alg", "sha-512"),
    "an upper-case digest": change("plan_digest", DIGEST.upper()),
    "a foreign tenant name": change("tenant", "Acme"),
    "a trailing newline in a name": change("tenant", "acme\n"),
    "a newline at the end of an id": change("event_id", uuid(1) + "\n"),
}


@pytest.mark.parametrize("mutate", BAD.values(), ids=list(BAD))
def test_an_entry_outside_the_schema_is_refused(mutate: Callable[[dict[str, Any]], None]) -> None:
    content = copy.deepcopy(intent())
    mutate(content)
    with pytest.raises(VerificationError):
        entries.check_content(content)
    if content.get("event_time_ms") != 2**53:
        with pytest.raises(VerificationError):
            entries.parse(canonical({**content, "srv": SRV.document()}))


def test_another_spelling_of_the_same_entry_is_refused() -> None:
    data = genesis()
    for other in (data + b"\n", b" " + data, data.replace(b'"shard":0', b'"shard":0.0'), data.replace(b":", b": ", 1)):
        with pytest.raises(VerificationError):
            entries.parse(other)


@requirement("ledger:record-holds")
def test_a_type_that_its_producer_may_not_write_is_refused() -> None:
    data = entries.build(intent(), entries.Srv(1, "policy"))
    with pytest.raises(VerificationError, match="policy may not write"):
        entries.parse(data)


def test_an_entry_above_16_kib_is_refused_even_where_each_field_is_allowed() -> None:
    content = intent()
    content["refs"] = [{"event_id": uuid(n), "rel": "r" * 100} for n in range(200)]
    entries.check_content(content)
    with pytest.raises(VerificationError, match="16384"):
        entries.build(content, SRV)


def test_a_commit_has_one_event_id_for_ever() -> None:
    content: dict[str, Any] = {
        "v": 1,
        "type": "plan.committed",
        "event_id": entries.committed_event_id(DIGEST),
        "event_time_ms": 1,
        "tenant": "acme",
        "environment": "prod",
        "plan_digest": DIGEST,
        "data": {"decision_id": uuid(1)},
    }
    entries.check_content(content)
    assert content["event_id"][14] == "8", "a UUIDv8"
    with pytest.raises(VerificationError, match="derived"):
        entries.check_content({**content, "event_id": uuid(9)})


@pytest.mark.parametrize(
    "optional", [{}, {"step": "s1", "stream": "plan:p", "seq": 3}, {"_sd": ["A" * 43], "_sd_alg": "sha-256"}]
)
def test_bytes_and_request_hash_of_one_encoding_are_those_of_two(optional: dict[str, object]) -> None:
    content = {**intent(), **optional}
    assert entries.build_hashed(content, SRV) == (entries.build(content, SRV), entries.request_hash(content))


def test_the_request_hash_covers_content_and_disclosure_digests_but_not_srv() -> None:
    content = intent()
    assert entries.request_hash(content).hex() == digest_of("append-request", content).removeprefix("sha256:")
    assert entries.request_hash({**content, "_sd": ["A" * 43, "C" * 43]}) != entries.request_hash(content)


def test_people_are_renamed_wherever_they_stand_and_nothing_else_is() -> None:
    content: dict[str, Any] = {
        "type": "containment.tripped",
        "subject": "user:ana",
        "data": {"scope": "tenant:acme", "epoch": 1, "tripped_by": "user:olga", "drill": False},
    }
    renamed = entries.pseudonymise(content, lambda person: f"<{person}>")
    assert renamed["subject"] == "<user:ana>"
    assert renamed["data"]["tripped_by"] == "<user:olga>"
    content["data"] = {**content["data"], "tripped_by": "breaker:denied-actions"}
    assert entries.pseudonymise(content, lambda _: "x")["data"]["tripped_by"] == "breaker:denied-actions"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.sampled_from("abc"), max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(json_values)
def test_a_disclosure_gives_back_its_value_under_a_salt(value: Any) -> None:
    text = disclosure.make("args", value, lambda n: SALT[:n])
    parsed = disclosure.parse(text)
    assert (parsed.name, parsed.value, parsed.salt) == ("args", value, b64url(SALT))


def test_the_digest_of_a_disclosure_is_that_of_rfc_9901() -> None:
    # RFC 9901 section 4.2.3: the digest of this disclosure string.
    text = "WyI2cU1RdlJMNWhhaiIsICJmYW1pbHlfbmFtZSIsICJNw7ZiaXVzIl0"
    assert disclosure.digest(text) == "uutlBuYeMDyjLLTpf6Jxi7yNkEF35jdyWMn9U7b_RYY"


@pytest.mark.parametrize(
    "raw",
    [
        b'["c2hvcnQ","args",1]',  # a salt of 5 bytes
        b'["MDEyMzQ1Njc4OWFiY2RlZg","args"]',
        b'["MDEyMzQ1Njc4OWFiY2RlZg","args",1,2]',
        b'["MDEyMzQ1Njc4OWFiY2RlZg","args",1],"w":[2]',
        b'["MDEyMzQ1Njc4OWFiY2RlZg","args",{"a":1,"a":2}]',
        b'["MDEyMzQ1Njc4OWFiY2RlZg","args",NaN]',
        b'["MDEyMzQ1Njc4OWFiY2RlZg","Args",1]',
        b'["MDEyMzQ1Njc4OWFiY2RlZh","args",1]',  # another spelling of the salt
        b'{"salt":"MDEyMzQ1Njc4OWFiY2RlZg"}',
        b"",
    ],
)
def test_malformed_disclosures_are_refused(raw: bytes) -> None:
    with pytest.raises(VerificationError):
        disclosure.parse(b64url(raw))


def test_disclosures_of_an_entry_have_known_names_once_and_salts_of_their_own() -> None:
    one = disclosure.make("args", 1, lambda n: b"a" * n)
    disclosure.check([one], {"args"})
    for bad in (
        [disclosure.make("colour", 1, lambda n: b"b" * n)],
        [one, disclosure.make("args", 2, lambda n: b"b" * n)],
        [one, disclosure.make("input_summary", 2, lambda n: b"a" * n)],
    ):
        with pytest.raises(VerificationError):
            disclosure.check(bad, {"args", "input_summary"})


def test_a_value_without_a_canonical_form_cannot_be_sealed() -> None:
    with pytest.raises(NotCanonical):
        disclosure.make("args", float("nan"), lambda n: SALT[:n])


@given(st.text())
def test_any_name_can_be_made_a_word(text: str) -> None:
    made = word(text)
    assert len(made) <= 128
    assert all(c.isascii() for c in made)


@given(
    st.binary(max_size=200)
    | st.builds(lambda i, b: changed(1)[:i] + b + changed(1)[i + 1 :], st.integers(0, 300), st.binary(max_size=3))
)
def test_no_bytes_raise_anything_but_verification_errors(data: bytes) -> None:
    with contextlib.suppress(VerificationError):
        entries.parse(data)
