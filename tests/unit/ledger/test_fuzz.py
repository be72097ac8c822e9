"""Whatever comes in, every reader of the ledger library raises VerificationError and nothing else (`make fuzz`)."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.ledger.errors import VerificationError
from counterseal.ledger.witness import Refused
from support.fuzz import TARGETS, attack, inputs
from support.requirements import requirement


@pytest.mark.parametrize("name", list(TARGETS))
def test_good_inputs_are_read_or_refused_in_our_own_words(name: str) -> None:
    for good in TARGETS[name].good:
        with contextlib.suppress(VerificationError, Refused):
            TARGETS[name].read(good)


@requirement("ledger:only-verification-errors")
@settings(max_examples=3)
@given(st.integers(0, 2**32))
def test_readers_raise_nothing_but_verification_errors(seed: int) -> None:
    for name, data in inputs(2000, seed):
        attack(name, data)
