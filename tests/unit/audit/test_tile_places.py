"""Which files a checkpoint adds to the export directory: none is missing, none is there for a size nobody signed."""

from hypothesis import given
from hypothesis import strategies as st

from counterseal.ledger import tiles
from counterseal.ledger.tiles import WIDTH, Tile
from counterseal_audit.tiles.engine import places

SIZES = st.lists(st.integers(1, 70_000), min_size=1, max_size=12, unique=True).map(sorted)


def everything(size: int) -> set[Tile]:
    return {*tiles.tiles_of(size), *tiles.bundles_of(size)}


@given(SIZES, st.integers(0, 11))
def test_after_any_updates_each_published_tree_can_be_read(sizes: list[int], cut: int) -> None:
    """Two updates, the first up to `cut`: a tile of any published size is there, or the full one in its place."""
    first, rest = sizes[: cut + 1], sizes[cut + 1 :]
    there: set[Tile] = set()
    old = 0
    for update in filter(None, (first, rest)):
        there |= {tile for place in places(old, update) for tile in place.tiles}
        old = update[-1]
    for size in sizes:
        for tile in everything(size):
            assert tile in there or Tile(tile.level, tile.index, WIDTH) in there
    published = set().union(*map(everything, sizes))
    assert there <= published


@given(SIZES)
def test_the_widest_form_of_a_place_is_written_last(sizes: list[int]) -> None:
    for place in places(0, sizes):
        assert list(place.widths) == sorted(set(place.widths))
        assert place.widths[-1] == tiles.width_at(sizes[-1], place.level, place.index)
