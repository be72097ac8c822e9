"""Places: shard and index in one number that compares as the log goes on."""

from hypothesis import given
from hypothesis import strategies as st

from counterseal.ledger.places import WIDTH, local_end, local_start, of_place, place

SHARDS, INDEXES = st.integers(0, 1000), st.integers(0, WIDTH - 1)


@given(SHARDS, INDEXES, SHARDS, INDEXES)
def test_places_compare_by_shard_then_index(shard: int, index: int, other: int, at: int) -> None:
    assert of_place(place(shard, index)) == (shard, index)
    assert (place(shard, index) < place(other, at)) == ((shard, index) < (other, at))
    assert place(0, index) == index


@given(SHARDS, INDEXES, SHARDS, INDEXES)
def test_a_range_of_places_is_a_range_of_indexes_in_each_shard(shard: int, index: int, other: int, at: int) -> None:
    entry, bound = place(shard, index), place(other, at)
    start, end = local_start(bound, shard), local_end(bound, shard)
    assert (entry >= bound) == (start is not None and index >= start)
    assert (entry < bound) == (end is None or index < end)
    assert local_end(None, shard) is None
