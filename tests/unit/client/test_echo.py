"""The echo check: the returned plan is the proposal plus the server's own fields, and nothing else."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from counterseal.canonical import canonical, digest, parse_canonical
from counterseal.client import Draft, EchoMismatch, Post, Step, Undo, verify_echo
from counterseal.documents.plan import Actor, Condition, ServerFields, StepFill, build_plan, parse_draft
from counterseal.errors import NotCanonical

DIGEST = "sha256:" + "a" * 64
STEP = Step(
    "s1",
    "shop.refund@1.0.0",
    "shop",
    {"order": 1001, "ratio": 0.5, "dry": True, "note": ""},
    timeout_seconds=20,
    undo=Undo("shop.unrefund@1.0.0", {"was": {"$before": "/0/state"}}),
)
REQUEST = Draft("Refund order 1001", [STEP], confidence_ppm=900_000, model=("acme", "m", "1")).request("k")


def plan() -> dict[str, Any]:
    """The plan as the executor builds it of this proposal."""
    draft = parse_draft(
        {
            "v": 1,
            "objective": "Refund order 1001",
            "confidence_ppm": 900_000,
            "model": {"provider": "acme", "id": "m", "version": "1"},
            "steps": [
                {
                    "id": "s1",
                    "tool": "shop.refund@1.0.0",
                    "target": "shop",
                    "args": {"order": 1001, "ratio": 0.5, "dry": True, "note": ""},
                    "timeout_seconds": 20,
                    "undo": {"tool": "shop.unrefund@1.0.0", "args": {"was": {"$before": "/0/state"}}},
                }
            ],
        }
    )
    server = ServerFields(
        plan_id="0198c5a0-0000-7000-8000-000000000001",
        nonce="0" * 32,
        tenant="acme",
        environment="prod",
        request_id="r-1",
        actor=Actor("user:ana", "refund-bot", "1.0.0", ()),
        taint=False,
        rationale_digest=None,
        policy_snapshot=DIGEST,
        steps={"s1": StepFill(DIGEST, (Condition("tool_state", "state", "paid"),), None, DIGEST)},
    )
    return parse_canonical(build_plan(draft, server).body)


def check(document: dict[str, Any]) -> dict[str, Any]:
    body = canonical(document)
    return verify_echo(REQUEST, body, digest("plan", body))


def test_what_the_executor_builds_of_the_proposal_is_accepted() -> None:
    assert check(plan())["plan_id"].startswith("0198")


def _set(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("pointer", "change"),
    [
        ("/objective", _set("objective", value="Refund order 1002")),
        ("/budgets", _set("budgets", value={"objects": 5})),
        ("/v", _set("v", value=2)),
        ("/model/version", _set("model", "version", value="2")),
        ("/unverified", _set("unverified", value=["nothing"])),
        ("/confidence_ppm", _set("confidence_ppm", value=900_001)),
        ("/steps", _set("steps", value=[])),
        ("/steps/0/args", _set("steps", 0, "args", "order", value=1002)),
        ("/steps/0/args", _set("steps", 0, "args", "dry", value=1)),
        ("/steps/0/args", _set("steps", 0, "args", "note", value=None)),
        ("/steps/0/args", _set("steps", 0, "args", "more", value=None)),
        ("/steps/0/tool", _set("steps", 0, "tool", value="shop.refund@1.0.1")),
        ("/steps/0/target", _set("steps", 0, "target", value="bank")),
        ("/steps/0/needs", _set("steps", 0, "needs", value=["s0"])),
        ("/steps/0/timeout_seconds", _set("steps", 0, "timeout_seconds", value=200)),
        ("/steps/0/on_fail", _set("steps", 0, "on_fail", value="hold")),
        ("/steps/0/undo", _set("steps", 0, "undo", value="none")),
        ("/steps/0/undo/args", _set("steps", 0, "undo", "args", value={})),
        ("/steps/0/undo/if_exists", _set("steps", 0, "undo", "if_exists", value=True)),
        ("/steps/0/post", _set("steps", 0, "post", value=[])),
    ],
)
def test_anything_that_was_not_proposed_is_refused(pointer: str, change: Callable[[dict[str, Any]], None]) -> None:
    document = copy.deepcopy(plan())
    change(document)
    with pytest.raises(EchoMismatch) as info:
        check(document)
    assert info.value.pointer == pointer


def test_a_digest_of_other_bytes_is_refused() -> None:
    body = canonical(plan())
    with pytest.raises(EchoMismatch, match="digest"):
        verify_echo(REQUEST, body, DIGEST)


def test_bytes_that_are_not_canonical_are_refused() -> None:
    body = canonical(plan()) + b"\n"
    with pytest.raises(NotCanonical):
        verify_echo(REQUEST, body, digest("plan", body))


def test_a_float_that_is_an_integer_is_the_same_number() -> None:
    document = plan()
    document["steps"][0]["args"]["order"] = 1001.0
    check(document)


def test_postconditions_come_back_as_they_were_proposed() -> None:
    post = [Post("state", {"paid": [1, 0.5, None]}), Post("note", "")]
    request = Draft("Refund order 1001", [replace(STEP, post=post)], confidence_ppm=900_000, model=("acme", "m", "1"))
    document = plan()
    document["steps"][0]["post"] = [
        {"kind": "tool_state", "ref": "state", "value": {"paid": [1, 0.5, None]}},
        {"kind": "tool_state", "ref": "note", "value": ""},
    ]
    body = canonical(document)
    assert verify_echo(request.request("k"), body, digest("plan", body)) == document
    for wrong in ([], document["steps"][0]["post"][:1], [*document["steps"][0]["post"][:1], POST]):
        document["steps"][0]["post"] = wrong
        body = canonical(document)
        with pytest.raises(EchoMismatch) as caught:
            verify_echo(request.request("k"), body, digest("plan", body))
        assert caught.value.pointer == "/steps/0/post"


POST = {"kind": "tool_state", "ref": "note", "value": "x"}
