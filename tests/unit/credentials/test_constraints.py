"""Request constraints only narrow."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.canonical import canonical
from counterseal.errors import InputInvalid
from counterseal_credentials.tokens.constraints import narrow, read

NAMES = st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True, max_size=4)
CONSTRAINTS = st.fixed_dictionaries(
    {},
    optional={
        "read_only": st.booleans(),
        "no_prod_deletes": st.booleans(),
        "forbid_tools": NAMES,
        "forbid_targets": NAMES,
        "max_amount_minor": st.dictionaries(st.sampled_from(["EUR", "USD"]), st.integers(0, 100), max_size=2),
    },
)


def allowed(constraints: dict[str, Any], read_only: bool, delete: bool, tool: str, unit: str, amount: int) -> bool:
    return (
        not (constraints.get("read_only") and not read_only)
        and not (constraints.get("no_prod_deletes") and delete)
        and tool not in constraints.get("forbid_tools", [])
        and amount <= constraints.get("max_amount_minor", {}).get(unit, amount)
    )


@given(
    CONSTRAINTS,
    CONSTRAINTS,
    st.booleans(),
    st.booleans(),
    st.sampled_from("abcd"),
    st.sampled_from(["EUR", "USD"]),
    st.integers(0, 100),
)
def test_both_together_allow_exactly_what_each_allows(  # the definition of narrowing
    first: dict[str, Any], second: dict[str, Any], read_only: bool, delete: bool, tool: str, unit: str, amount: int
) -> None:
    both = read(canonical(narrow(first, second)))
    action = (read_only, delete, tool, unit, amount)
    assert allowed(both, *action) == (allowed(first, *action) and allowed(second, *action))


@pytest.mark.parametrize(
    "document",
    [
        {"unknown": 1},
        {"read_only": 1},
        {"forbid_tools": "x"},
        {"forbid_tools": ["a\n"]},
        {"max_amount_minor": {"EUR": 1.5}},
        {"max_amount_minor": {"EUR": -1}},
        {"max_amount_minor": {"eur": 1}},
        {"max_amount_minor": {"EUR": True}},
        {"forbid_targets": ["x"] * 65},
    ],
)
def test_an_unknown_or_malformed_constraint_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(InputInvalid):
        read(canonical(document))


def test_constraints_that_are_not_canonical_are_refused() -> None:
    with pytest.raises(InputInvalid):
        read(b'{"read_only": true}')
