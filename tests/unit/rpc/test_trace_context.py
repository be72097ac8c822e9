"""The trace context: what is read, what is made, what is carried."""

import pytest

from counterseal import trace_context
from counterseal.trace_context import TraceContext, fresh, outgoing, received

TRACE, SPAN = "ab" * 16, "cd" * 8
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_one_header_of_valid_form_is_taken_as_it_is() -> None:
    context = received((("txn-token", "x"), ("traceparent", GOOD)))
    assert context == TraceContext(GOOD, remote=True)
    assert (context.trace_id, context.sampled) == (TRACE, True)
    unsampled = received((("traceparent", f"00-{TRACE}-{SPAN}-02"),))
    assert unsampled is not None
    assert not unsampled.sampled


@pytest.mark.parametrize(
    "text",
    [
        "evil",
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        GOOD.upper(),
        GOOD + "-x",
        GOOD + "\n",
        b"bytes",
    ],
)
def test_what_is_not_a_traceparent_is_none(text: object) -> None:
    assert received((("traceparent", text),)) is None


def test_two_headers_are_none() -> None:
    assert received((("traceparent", GOOD), ("traceparent", GOOD))) is None


def test_a_trace_is_sampled_by_its_id_alone() -> None:
    low, high = bytes(15) + b"\x01" + b"\x07" * 8, b"\x01" + b"\xff" * 23
    assert fresh(0.01, lambda _: low).sampled
    assert not fresh(0.01, lambda _: high).sampled
    assert fresh(1.0, lambda _: high).sampled
    assert not fresh(0.0, lambda _: low).sampled


def test_what_is_made_has_the_form_that_is_read() -> None:
    made = fresh(0.5)
    assert received((("traceparent", made.traceparent),)) == TraceContext(made.traceparent, remote=True)


def test_the_share_is_the_share_that_is_sampled() -> None:
    assert 50 < sum(fresh(0.1).sampled for _ in range(1000)) < 160


def test_a_call_carries_the_current_context_once_and_nothing_outside_of_a_call() -> None:
    token = ("txn-token", "x")
    assert outgoing((token,)) == (token,)
    assert outgoing(None) is None
    begun = trace_context.enter(TraceContext(GOOD))
    try:
        assert outgoing(None) == (("traceparent", GOOD),)
        assert outgoing((token,)) == (token, ("traceparent", GOOD))
        own = (("traceparent", "mine"),)
        assert outgoing(own) == own
    finally:
        trace_context.leave(begun)
