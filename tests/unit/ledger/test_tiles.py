"""The file layout of C2SP tlog-tiles, word for word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tiles import (
    Tile,
    bundle,
    bundles_of,
    parse_bundle,
    parse_hashes,
    parse_path,
    tiles_of,
    width_at,
)


def test_the_index_of_the_specification() -> None:
    assert Tile(0, 1234067, 256).path == "tile/0/x001/x234/067"
    assert Tile(None, 0, 12).path == "tile/entries/000.p/12"
    assert Tile(1, 999, 256).path == "tile/1/999"
    assert Tile(1, 1000, 1).path == "tile/1/x001/000.p/1"


def test_the_tree_of_70000_of_the_specification() -> None:
    tiles = list(tiles_of(70_000))
    assert sum(t.level == 0 and t.is_full for t in tiles) == 273
    assert [(t.level, t.width) for t in tiles if not t.is_full] == [(0, 112), (1, 17), (2, 1)]
    assert [t.width for t in tiles if t.level == 1] == [256, 17]


def test_a_tree_of_256_has_a_full_tile_and_a_partial_one_above() -> None:
    assert [t.path for t in tiles_of(256)] == ["tile/0/000", "tile/1/000.p/1"]
    assert [t.path for t in bundles_of(256)] == ["tile/entries/000"]
    assert list(tiles_of(0)) == []


@given(st.integers(0, 200_000))
def test_widths_agree_with_the_list_of_tiles(size: int) -> None:
    for tile in tiles_of(size):
        assert width_at(size, tile.level, tile.index) == tile.width
        assert width_at(size, tile.level, tile.index + 1) in (0, 256, size >> (8 * (tile.level or 0)) & 255)


@given(st.sampled_from([None, 0, 1, 63]), st.integers(0, 10**9), st.integers(1, 256))
def test_paths_survive_a_round_trip(level: int | None, index: int, width: int) -> None:
    assert parse_path(Tile(level, index, width).path) == Tile(level, index, width)


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/0/x000/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p",
        "tile/0",
        "tile/0/../000",
        "tile/-1/000",
        "tile/0/000/",
        "tile/0/\u0660\u0660\u0660",
    ],
)
def test_other_spellings_of_paths_are_refused(path: str) -> None:
    with pytest.raises(VerificationError):
        parse_path(path)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20))
def test_bundles_survive_a_round_trip_and_any_cut_is_found(entries: list[bytes]) -> None:
    tile = Tile(None, 0, len(entries))
    data = bundle(entries)
    assert parse_bundle(tile, data) == entries
    for cut in (data[:-1], data + b"\0"):
        with pytest.raises(VerificationError):
            parse_bundle(tile, cut)


def test_a_tile_of_another_length_is_refused_by_name() -> None:
    with pytest.raises(VerificationError) as caught:
        parse_hashes(Tile(0, 5, 2), b"\0" * 63)
    assert caught.value.where == "tile/0/005.p/2"
