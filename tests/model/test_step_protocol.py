"""Why the credential is the fence: every weaker protocol is shown to break, the one we run is shown to hold."""

import pytest

from model.step_protocol import VARIANTS, explore
from support.requirements import requirement

EXPECTED = {
    "A": {"L", "T", "S"},
    "B": {"L", "T", "S"},
    "C": {"L", "T", "S"},
    "D": {"L", "V", "S"},
    "E": {"L", "S"},
    "F": {"S"},
    "G": set(),
    "H": {"T"},
}


@requirement("effect:fenced-by-credential")
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_each_variant_breaks_exactly_what_the_design_says(name: str) -> None:
    count, violated = explore(VARIANTS[name])
    assert count > 100
    assert violated == EXPECTED[name]
