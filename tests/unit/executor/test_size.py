"""How large a proposal may be, by the numbers."""

import pytest

from counterseal.errors import PlanInvalid
from counterseal.ledger import disclosure
from counterseal.rpc.ledger_wire import MAX_WIRE_BYTES
from counterseal_executor.plans.size import MAX_SEALED_BYTES, MAX_SUM_BYTES, check_size


def _random(count: int) -> bytes:
    return b"r" * count


def test_the_limit_of_one_text_is_the_one_of_the_ledgers_disclosures() -> None:
    largest = "x" * (MAX_SEALED_BYTES - 2)
    check_size(1, {"plan": largest})
    disclosure.make("plan", largest, _random)
    with pytest.raises(PlanInvalid, match=f"a plan of {MAX_SEALED_BYTES + 1} bytes"):
        check_size(1, {"plan": largest + "x"})
    with pytest.raises(Exception, match="at most"):
        disclosure.make("plan", largest + "x", _random)


def test_quotes_controls_and_wide_characters_count_as_they_are_written() -> None:
    half = (MAX_SEALED_BYTES - 2) // 2
    check_size(1, {"plan": '"' * half})
    with pytest.raises(PlanInvalid):
        check_size(1, {"plan": '"' * (half + 1)})
    with pytest.raises(PlanInvalid):
        check_size(1, {"plan": "\x01" * (MAX_SEALED_BYTES // 6 + 1)})
    with pytest.raises(PlanInvalid):
        check_size(1, {"plan": "\u20ac" * (MAX_SEALED_BYTES // 3 + 1)})


def test_all_texts_together_fit_one_request_to_the_ledger() -> None:
    """Base64 makes four bytes of three; salts, names and the clear part stay below 64 KiB."""
    assert MAX_SUM_BYTES * 4 // 3 + 65_536 < MAX_WIRE_BYTES
    size = MAX_SUM_BYTES // 4
    texts: dict[str, object] = dict.fromkeys(("plan", "objective", "rationale"), "x" * (size - 2))
    check_size(1, {**texts, "constraints": ["x" * (size - 4)]})
    with pytest.raises(PlanInvalid, match=f"needs {MAX_SUM_BYTES + 1} bytes"):
        check_size(1, {**texts, "constraints": ["x" * (size - 3)]})
