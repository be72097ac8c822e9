"""A proposal file is read as it stands: what the command does not know is refused, not dropped."""

from typing import Any

import pytest

from counterseal.cli.plan_calls import read_draft
from counterseal.client import Post
from counterseal.errors import PlanInvalid

STEP = {"id": "s1", "tool": "shop.refund@1.0.0", "target": "shop", "args": {}}


def test_postconditions_of_a_file_reach_the_request() -> None:
    post = [{"kind": "tool_state", "ref": "state", "value": "refunded"}, {"ref": "left_minor", "value": 0}]
    draft = read_draft({"objective": "x", "steps": [{**STEP, "post": post}]})
    assert draft.steps[0].post == [Post("state", "refunded"), Post("left_minor", 0)]
    sent = draft.request("k").steps[0].post
    assert [(one.kind, one.ref, one.value_json) for one in sent] == [
        ("tool_state", "state", b'"refunded"'),
        ("tool_state", "left_minor", b"0"),
    ]


@pytest.mark.parametrize(
    ("post", "where"),
    [
        ("state", "/steps/0/post"),
        (["state"], "/steps/0/post"),
        ([{"ref": "state"}], "/steps/0/post/0"),
        ([{"ref": "state", "value": 1, "op": "<"}], "/steps/0/post/0/op"),
    ],
)
def test_what_is_no_postcondition_is_refused_by_its_place(post: Any, where: str) -> None:
    with pytest.raises(PlanInvalid) as caught:
        read_draft({"objective": "x", "steps": [{**STEP, "post": post}]})
    assert caught.value.metadata["pointer"] == where
