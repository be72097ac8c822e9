"""Who may vote, when a task is met, and what an approval still covers: the pure part."""

from dataclasses import replace
from typing import Any

import pytest

from counterseal.errors import ApproverIneligible, RoleRequired, ServiceError
from counterseal.identity import Caller
from counterseal_policy.approvals.engine import (
    Ballot,
    Basis,
    asks_no_more,
    check_voter,
    counts,
    excluded_people,
    met,
    standing,
)
from counterseal_policy.decisions.outcome import Requirement
from support.policy import NOW

LEAD = "payments_lead"
TWO_LEADS = Requirement("rule shop/large", "APPROVAL_REQUIRED", 2, (LEAD,), 1000, 1000)
GATE = Requirement("gate C3", "CLASS_GATE", 1, (), 1000, 1000)


def caller(**changes: Any) -> Caller:
    values: dict[str, Any] = {
        "peer": "spiffe://counterseal.test/prod/cli",
        "peer_kind": "cli",
        "token": "t",
        "subject": "user:lea",
        "person_id": "p-lea",
        "tenant": "acme",
        "environment": "prod",
        "roles": frozenset({LEAD}),
        "auth_time_ms": NOW - 1000,
    }
    return Caller(**{**values, **changes})


ASKER = caller(
    subject="user:ana",
    person_id="p-ana",
    agent="outer-bot",
    chain=(
        {"sub": "outer-bot", "owner": "user:olga"},
        {"sub": "inner-bot", "owner": "user:omar"},
    ),
)
PERSONS = {"user:olga": "p-olga", "user:lia": "p-omar-7", "user:omar": "p-omar-7"}


def roles_of_vote(voter: Caller, *requirements: Requirement) -> frozenset[str]:
    return check_voter(
        voter,
        excluded=excluded_people(ASKER, PERSONS),
        requirements=requirements or (TWO_LEADS,),
        now_ms=NOW,
        max_age_ms=900_000,
        person_ids=PERSONS,
    )


def test_a_person_of_the_asked_role_votes_by_that_role_only() -> None:
    assert roles_of_vote(caller(roles=frozenset({LEAD, "operator"}))) == {LEAD}
    assert roles_of_vote(caller(roles=frozenset({"approver"})), GATE) == {"approver"}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"subject": "user:ana", "person_id": "p-ana"}, ApproverIneligible),
        ({"subject": "user:ana.second", "person_id": "p-ana"}, ApproverIneligible),
        ({"subject": "user:ana", "person_id": None}, ApproverIneligible),
        ({"subject": "user:olga", "person_id": None}, ApproverIneligible),
        ({"subject": "user:olga.admin", "person_id": "p-olga"}, ApproverIneligible),
        ({"subject": "user:omar", "person_id": "user:omar"}, ApproverIneligible),
        ({"subject": "user:lia", "person_id": "lia"}, ApproverIneligible),
        ({"chain": ({"sub": "refund-bot"},), "agent": "refund-bot"}, ApproverIneligible),
        ({"agent": "refund-bot"}, ApproverIneligible),
        ({"peer_kind": "agent"}, ApproverIneligible),
        ({"peer_kind": "svc/executor"}, ApproverIneligible),
        ({"subject": "schedule:nightly"}, ApproverIneligible),
        ({"auth_time_ms": NOW - 900_001}, ApproverIneligible),
        ({"auth_time_ms": None}, ApproverIneligible),
        ({"roles": frozenset({"operator"})}, RoleRequired),
        ({"roles": frozenset()}, RoleRequired),
    ],
    ids=[
        "subject",
        "subject's second account",
        "subject without person",
        "owner",
        "owner's second account",
        "inner agent's owner",
        "inner owner's second account",
        "agent's token",
        "token for an agent",
        "agent's workload",
        "service",
        "schedule",
        "old login",
        "no login",
        "other role",
        "no role",
    ],
)
def test_the_requesters_side_agents_and_strangers_cannot_vote(
    changes: dict[str, Any], error: type[ServiceError]
) -> None:
    with pytest.raises(error):
        roles_of_vote(caller(**changes))


def ballot(person: str, *roles: str, approved: bool = True, signed: bool = False, epoch: int = 0) -> Ballot:
    return Ballot(person, frozenset(roles), approved, signed, "sha256:" + "0" * 64, {"tenant:acme": epoch})


BASIS = Basis((TWO_LEADS, GATE), ("APPROVAL_REQUIRED", "CLASS_GATE"), {"s1": 3}, ("notification",), False, {})


def test_each_requirement_is_met_on_its_own() -> None:
    two_leads = [ballot("a", LEAD), ballot("b", LEAD)]
    assert counts(BASIS.requirements, two_leads, signed=False) == [2, 0]
    assert not met(BASIS, two_leads)
    assert met(BASIS, [*two_leads, ballot("c", "approver")])
    assert met(BASIS, [ballot("a", LEAD, "approver"), ballot("b", LEAD)])


def test_a_refusal_and_a_second_vote_of_one_person_count_for_nothing() -> None:
    assert counts((TWO_LEADS,), [ballot("a", LEAD), ballot("a", LEAD)], signed=False) == [1]
    assert counts((TWO_LEADS,), [ballot("a", LEAD, approved=False)], signed=False) == [0]


def test_where_signatures_are_demanded_unsigned_votes_do_not_count() -> None:
    votes = [ballot("a", LEAD), ballot("b", LEAD, signed=True)]
    assert counts((TWO_LEADS,), votes, signed=True) == [1]


def test_nothing_required_is_not_an_approval() -> None:
    assert not met(replace(BASIS, requirements=()), [ballot("a", LEAD)])


def test_a_stop_since_a_vote_voids_that_vote() -> None:
    votes = [ballot("a", LEAD, epoch=1), ballot("b", LEAD, epoch=3)]
    assert [vote.person_id for vote in standing(votes, {"tenant:acme": 3})] == ["b"]


@pytest.mark.parametrize(
    ("changes", "covered"),
    [
        ({}, True),
        ({"requirements": (GATE,), "reasons": ("CLASS_GATE",)}, True),
        ({"classes": {"s1": 2}}, True),
        ({"obligations": ()}, True),
        ({"reasons": ("APPROVAL_REQUIRED", "TAINTED_INPUT")}, False),
        ({"classes": {"s1": 4}}, False),
        ({"classes": {"s1": 3, "s2": 0}}, False),
        ({"obligations": ("notification", "step_up")}, False),
        ({"signed": True}, False),
    ],
    ids=str,
)
def test_votes_cover_what_was_on_the_card_and_nothing_more(changes: dict[str, Any], covered: bool) -> None:
    assert asks_no_more(replace(BASIS, **changes), BASIS) is covered


def test_what_a_task_was_made_for_reads_back() -> None:
    assert Basis.read(BASIS.body()) == BASIS
