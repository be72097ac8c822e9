"""The signed decision and the vote: what verifies, what is refused, and what a signature covers."""

from dataclasses import replace

import nacl.exceptions
import nacl.signing
import pytest

from counterseal.canonical import canonical, parse_strict
from counterseal.documents.approval import Approval, build_approval, parse_approval, vote_signing_input
from counterseal.documents.decision import (
    Context,
    Obligation,
    ScopeEpoch,
    Statement,
    StepDecision,
    build_statement,
    nested_act,
    open_statement,
    parse_statement,
    signing_input,
)
from counterseal.errors import DecisionInvalid, InputInvalid, NotCanonical
from support.json_schema import load, problems
from support.requirements import requirement

DIGEST = "sha256:" + "ab" * 32
KEY = nacl.signing.SigningKey(bytes(range(32)))

DECISION = Statement(
    decision_id="01980000-0000-7000-8000-000000000001",
    purpose="COMMIT",
    outcome="ALLOW",
    reason_codes=("APPROVED",),
    tenant="acme",
    environment="prod",
    request_id="r-1",
    txn="t-1",
    subject="user:ana",
    agent="refund-bot",
    agent_version="3.2.1",
    act={"sub": "refund-bot", "version": "3.2.1"},
    context=Context("p-17", None, (), ("refund_operator",), {"read_only": False}),
    plan_digest=DIGEST,
    card_digest=DIGEST,
    snapshot_id=DIGEST,
    task_id="01980000-0000-7000-8000-000000000002",
    votes=(DIGEST,),
    taint=False,
    steps=(StepDecision("s1", 3, (Obligation("notification", {"queue": "q"}),)),),
    containment=(ScopeEpoch("tenant:acme", 4),),
    audience=("executor", "credentials"),
    issue_time_ms=1_795_330_000_000,
    expire_time_ms=1_795_330_060_000,
)

VOTE = Approval(
    task_id="01980000-0000-7000-8000-000000000002",
    plan_digest=DIGEST,
    card_digest=DIGEST,
    decision_id="01980000-0000-7000-8000-000000000001",
    approver="p-21",
    roles=("payments_lead",),
    verdict="APPROVE",
    reason=None,
    expire_time_ms=1_795_333_600_000,
    nonce="0" * 32,
)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        nacl.signing.VerifyKey(public_key).verify(message, signature)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


def test_a_decision_reads_back_as_it_was_built() -> None:
    built = build_statement(DECISION)
    assert parse_statement(built.body) == built
    assert replace(built, body=b"", digest="") == DECISION


def test_a_decision_without_agent_or_task_leaves_the_fields_out() -> None:
    bare = replace(DECISION, agent=None, agent_version=None, act=None, card_digest=None, task_id=None, votes=())
    document = parse_strict(build_statement(bare).body)
    assert not {"agent", "agent_version", "act", "card_digest", "task_id"} & set(document)


@requirement("decision:signed-closed-form")
def test_the_signature_is_checked_before_anything_is_read() -> None:
    built = build_statement(DECISION)
    public = bytes(KEY.verify_key)
    signature = KEY.sign(signing_input(built.body)).signature
    assert open_statement(built.body, signature, public, verify) == built
    forged = built.body.replace(b'"outcome":"ALLOW"', b'"outcome":"DENY"')
    for body, mark in ((forged, signature), (built.body, KEY.sign(built.body).signature), (built.body, b"")):
        with pytest.raises(DecisionInvalid, match="signature"):
            open_statement(body, mark, public, verify)


@requirement("decision:signed-closed-form")
@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"outcome": "MAYBE"},
        {"v": 2},
        {"reason_codes": ["lower"]},
        {"plan_digest": "sha256:00"},
        {"expire_time_ms": 1_795_330_060_001},
        {"expire_time_ms": 1_795_330_000_000},
        {"containment": [{"scope": "galaxy:x", "epoch": 1}]},
        {"steps": [{"id": "s1", "class": 5, "obligations": []}]},
        {"act": "refund-bot"},
        {"context": {}},
    ],
    ids=str,
)
def test_anything_outside_the_closed_form_is_refused(change: dict[str, object]) -> None:
    document = parse_strict(build_statement(DECISION).body)
    with pytest.raises(DecisionInvalid):
        parse_statement(canonical({**document, **change}))


def test_bytes_that_are_not_canonical_are_no_decision() -> None:
    with pytest.raises(DecisionInvalid):
        parse_statement(build_statement(DECISION).body + b"\n")


@requirement("decision:signed-closed-form")
def test_a_decision_serves_only_its_audience_environment_and_minute() -> None:
    live = {"audience": "executor", "environment": "prod", "now_ms": 1_795_330_030_000}
    DECISION.require(**live)  # type: ignore[arg-type]
    for change in (
        {"audience": "audit"},
        {"environment": "staging"},
        {"now_ms": 1_795_330_060_000},
        {"now_ms": 1_795_329_994_999},
    ):
        with pytest.raises(DecisionInvalid):
            DECISION.require(**{**live, **change})  # type: ignore[arg-type]


def test_the_act_claim_is_nested_again_as_the_token_had_it() -> None:
    chain = ({"sub": "b", "version": "1"}, {"sub": "a"})
    assert nested_act(chain) == {"sub": "b", "version": "1", "act": {"sub": "a"}}
    assert nested_act(()) is None


def test_a_vote_reads_back_and_its_form_is_closed() -> None:
    built = build_approval(VOTE)
    assert parse_approval(built.body) == built
    for change in ({"extra": 1}, {"verdict": "approve"}, {"nonce": "1"}, {"card_digest": None}):
        with pytest.raises((InputInvalid, NotCanonical)):
            parse_approval(canonical({**parse_strict(built.body), **change}))


def test_a_signed_vote_covers_card_plan_and_verdict() -> None:
    other = "sha256:" + "cd" * 32
    inputs = {
        vote_signing_input(DIGEST, DIGEST, "APPROVE"),
        vote_signing_input(other, DIGEST, "APPROVE"),
        vote_signing_input(DIGEST, other, "APPROVE"),
        vote_signing_input(DIGEST, DIGEST, "REJECT"),
    }
    assert len(inputs) == 4


@pytest.mark.parametrize("document", ["decision", "approval", "vote"])
def test_the_shipped_schema_says_what_the_parser_does(document: str) -> None:
    schema = load(document)
    built, parse, error = {
        "decision": (build_statement(DECISION).body, parse_statement, DecisionInvalid),
        "approval": (build_approval(replace(VOTE, reason="why")).body, parse_approval, InputInvalid),
        "vote": (canonical({"card_digest": DIGEST, "plan_digest": DIGEST, "verdict": "APPROVE"}), None, None),
    }[document]
    whole = parse_strict(built)
    assert problems(schema, whole) == []
    assert set(schema["properties"]) == set(whole)
    assert problems(schema, {**whole, "extra": 1})
    for key in whole:
        lacking = {name: value for name, value in whole.items() if name != key}
        assert bool(problems(schema, lacking)) is (key in schema["required"])
        if parse is None or error is None:
            continue
        if key in schema["required"]:
            with pytest.raises(error):
                parse(canonical(lacking))
        else:
            parse(canonical(lacking))
