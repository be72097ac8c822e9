"""The file layout of C2SP tlog-tiles, word for word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tiles import (
    CHECKPOINT,
    HEIGHT,
    MAX_ENTRY,
    VKEY,
    WIDTH,
    Tile,
    bundle,
    bundle_offsets,
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
        "tile/\u0660/000",
        "tile/0/00\u00b2",
        "tile/0/000.p/\u00b2",
        "tile/a/000",
        "tile/0/abc",
        "tile/0/000.p/a",
        "tile/0/000.p/257",
        "tile/0/000.p/-1",
        "tile/0/000.q/1",
        "tile/0/x001/x000",
        "tile/0/001/000",
        "tile/0/x1/000",
        "tile/entries",
        "tile/0.p/5",
        "tile//000",
        "tile",
        "",
        "/",
        "entries/0/000",
        "/tile/0/000",
        "tile/0/" + "x999/" * 2000 + "999",
        "tile/" + "9" * 5000 + "/000",
        "tile/0/000.p/" + "9" * 5000,
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
    assert parse_hashes(Tile(0, 5, 2), b"a" * 32 + b"b" * 32) == [b"a" * 32, b"b" * 32]
    for length in (0, 32, 65, 96):
        with pytest.raises(VerificationError, match="a tile of 2 hashes has 64 bytes"):
            parse_hashes(Tile(0, 5, 2), bytes(length))


@pytest.mark.parametrize(
    ("index", "path"),
    [
        (0, "000"),
        (7, "007"),
        (999, "999"),
        (1000, "x001/000"),
        (1001, "x001/001"),
        (999_999, "x999/999"),
        (1_000_000, "x001/x000/000"),
        (1_001_000, "x001/x001/000"),
        (10**20 - 1, "x099/x999/x999/x999/x999/x999/999"),
    ],
)
def test_an_index_is_written_in_groups_of_three_digits(index: int, path: str) -> None:
    assert Tile(0, index, 256).path == f"tile/0/{path}"
    for tile in (Tile(0, index, 256), Tile(63, index, 1), Tile(None, index, 255)):
        assert parse_path(tile.path) == tile
    with pytest.raises(VerificationError):
        parse_path(Tile(0, index + 10**20, 256).path)


def test_the_numbers_of_the_layout_are_those_of_the_specification() -> None:
    assert (WIDTH, HEIGHT, MAX_ENTRY, CHECKPOINT, VKEY) == (256, 8, 65535, "checkpoint", "vkey")


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 512, 65535, 65536, 65537, 70_000])
def test_each_level_has_as_many_hashes_as_the_level_below_has_full_tiles(size: int) -> None:
    count, expected = size, []
    for level in range(4):
        widths = [min(256, count - start) for start in range(0, count, 256)]
        expected += [Tile(level, index, width) for index, width in enumerate(widths)]
        for index in range(len(widths) + 3):
            assert width_at(size, level, index) == (widths[index] if index < len(widths) else 0)
        if level == 0:
            assert list(bundles_of(size)) == [Tile(None, tile.index, tile.width) for tile in expected]
            assert [width_at(size, None, index) for index in range(len(widths) + 1)] == [*widths, 0]
        count //= 256
    assert list(tiles_of(size)) == expected


def test_a_bundle_is_each_entry_behind_its_length() -> None:
    entries = [b"ab", b"", b"c" * 300]
    assert bundle(entries) == b"\0\2ab" + b"\0\0" + b"\1\x2c" + b"c" * 300
    assert bundle_offsets(entries) == [2, 6, 8]
    assert bundle_offsets([]) == []
    assert [bundle(entries)[at : at + len(one)] for at, one in zip(bundle_offsets(entries), entries, strict=True)] == (
        entries
    )
    longest = b"x" * MAX_ENTRY
    assert parse_bundle(Tile(None, 0, 1), bundle([longest])) == [longest]
    with pytest.raises(VerificationError, match="65536 bytes does not fit"):
        bundle([longest + b"x"])


def test_every_cut_of_a_bundle_is_found_with_entry_and_byte() -> None:
    tile, entries = Tile(None, 3, 3), [b"ab", b"", b"c"]
    data = bundle(entries)
    starts = [0, 4, 6]
    for end in range(len(data)):
        number = max(n for n, at in enumerate(starts) if at <= end)
        with pytest.raises(
            VerificationError, match=f"entry {768 + number} at byte {starts[number]} runs past"
        ) as found:
            parse_bundle(tile, data[:end])
        assert found.value.where == "tile/entries/003.p/3"
    with pytest.raises(VerificationError, match="2 bytes follow the last entry, from byte 9") as found:
        parse_bundle(tile, data + b"\0\0")
    assert found.value.where == "tile/entries/003.p/3"
    assert parse_bundle(tile, data) == entries
