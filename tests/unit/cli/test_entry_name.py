"""How people name an entry, and how they are shown where it is."""

import pytest

from counterseal.cli.entry_name import parse_entry_name, parse_place, place_name
from counterseal.errors import InputInvalid

EVENT_ID = "01920000-0000-7000-8000-000000000001"


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("17", {"index": 17}),
        ("0/17", {"index": 17, "shard": 0}),
        ("3/0", {"index": 0, "shard": 3}),
        (EVENT_ID, {"event_id": EVENT_ID}),
    ],
)
def test_an_entry_has_three_names(text: str, fields: dict[str, object]) -> None:
    assert parse_entry_name(text) == fields


@pytest.mark.parametrize("text", ["", "/", "1/", "/1", "-1", "1/-1", "1/2/3", "٣", "0x1", "1" * 15, "1234567/0", "x"])
def test_anything_else_is_refused_with_the_three_ways(text: str) -> None:
    with pytest.raises(InputInvalid, match="shard/index"):
        parse_entry_name(text)
    with pytest.raises(InputInvalid, match="shard/index"):
        parse_place(text)


def test_what_is_shown_can_be_typed() -> None:
    for shard, index in ((0, 17), (1, 0)):
        assert parse_place(place_name(shard, index, several=True)) == (shard, index)
    assert place_name(0, 17) == "17"
    assert place_name(2, 17) == "2/17"
