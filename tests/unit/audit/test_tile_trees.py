"""Proofs out of tiles are the proofs out of all leaves, wherever the tree ends."""

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.errors import InternalError
from counterseal.ledger.tree import (
    EMPTY_ROOT,
    Frontier,
    Span,
    consistency_path,
    consistency_spans,
    inclusion_path,
    inclusion_spans,
    root_of,
)
from counterseal_audit.reader import engine
from counterseal_audit.reader.engine import Place, TileTree
from counterseal_audit.reader.trees import Trees, _Kept

MOST = 66_000
LEAVES = [hashlib.sha256(n.to_bytes(4)).digest() for n in range(MOST)]
LEVELS: list[list[bytes]] = [LEAVES, [], []]


def keep(height: int, _index: int, node: bytes) -> None:
    if height in (8, 16):
        LEVELS[height // 8].append(node)


Frontier().extend(LEAVES, keep)


def tiles_for(spans: list[Span], stored: int) -> dict[Place, TileTree]:
    """The tiles as a store would have them whose log has `stored` entries."""
    found = {}
    for level, number in engine.needs_of(spans):
        row = LEVELS[level][: stored >> (8 * level)]
        found[level, number] = TileTree.of(b"".join(row[number * 256 : number * 256 + 256]))
    return found


def roots(spans: list[Span], stored: int) -> list[bytes]:
    return engine.roots_of(spans, tiles_for(spans, stored))


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 511, 512, 513, 700])
def test_every_proof_in_a_tree_is_that_of_its_leaves(size: int) -> None:
    for index in range(size):
        assert roots(inclusion_spans(index, size), 700) == inclusion_path(index, LEAVES[:size])
    for old in range(1, size + 1):
        assert roots(consistency_spans(old, size), size) == consistency_path(old, LEAVES[:size])
    assert engine.root_of(roots(engine.whole(size), size)) == root_of(LEAVES[:size])


@settings(max_examples=20, deadline=None)
@given(st.integers(65_530, MOST), st.data())
def test_so_is_one_in_a_tree_of_three_levels(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    assert roots(inclusion_spans(index, size), MOST) == inclusion_path(index, LEAVES[:size])
    assert len(engine.needs_of(inclusion_spans(index, size))) <= 6, "a tile per level, and one where the tree ends"


def test_the_empty_tree_needs_no_tile() -> None:
    assert engine.whole(0) == []
    assert engine.root_of([]) == EMPTY_ROOT


@pytest.mark.parametrize("stored", [0, 3, 100, 255])
def test_a_missing_hash_is_said_and_nothing_is_made_up(stored: int) -> None:
    with pytest.raises(InternalError, match="missing"):
        engine.roots_of([Span(0, 256)], {(1, 0): TileTree.of(b"")})
    with pytest.raises(InternalError, match="missing"):
        roots(inclusion_spans(0, 256), stored)


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 700])
def test_no_more_of_a_tile_is_needed_than_the_tree_has(size: int) -> None:
    for index in range(size):
        for (level, number), width in engine.needs_of(inclusion_spans(index, size)).items():
            assert 1 <= width <= 256
            assert ((number * 256 + width) << (8 * level)) <= size


class Rows:
    """A store that counts how many tiles it is asked for."""

    def __init__(self) -> None:
        self.stored = MOST
        self.read = 0
        self.forged = b""

    async def runs(self, _log_id: int, runs: list[tuple[int, int, int]]) -> list[bytes]:
        self.read += len(runs)
        rows = {level: LEVELS[level][: self.stored >> (8 * level)] for level, _, _ in runs}
        if self.forged:
            rows[0][150] = self.forged
        return [b"".join(rows[level][first : first + count]) for level, first, count in runs]


def trees(remembered: int) -> tuple[Trees, Rows]:
    rows: Any = Rows()
    return Trees(rows, remembered), rows


def proof(index: int, leaves: list[bytes]) -> tuple[bytes, tuple[bytes, ...], bytes]:
    """What there is to be said about a leaf of a tree, by the leaves alone."""
    return leaves[index], tuple(inclusion_path(index, leaves)), root_of(leaves)


def signed(*sizes: int) -> dict[int, bytes]:
    return {size: root_of(LEAVES[:size]) for size in sizes}


async def test_a_tile_is_read_again_only_for_hashes_that_it_had_not() -> None:
    some, rows = trees(8)
    rows.stored = 300
    assert (await some.paths(1, [(3, 300)], signed(300)))[3, 300] == inclusion_path(3, LEAVES[:300])
    assert rows.read == 2
    rows.stored = 420
    for index, size, read in ((9, 299, 2), (298, 299, 3), (9, 300, 3), (9, 301, 4), (9, 420, 4), (419, 420, 4)):
        assert (await some.paths(1, [(index, size)], signed(size)))[index, size] == inclusion_path(index, LEAVES[:size])
        assert rows.read == read, f"the tile of the last leaves alone is read for {index} in {size}"
    await some.paths(2, [(3, 300)], signed(300))
    assert rows.read == 6, "another log's tile is another"


async def test_only_so_many_tiles_are_remembered_the_last_ones_used() -> None:
    some, rows = trees(2)
    for index, read in ((0, 1), (256, 2), (0, 2), (512, 3), (0, 3), (256, 4)):
        await some.signed_roots(1, [Span(index, index + 1)], lambda found: len(found) == 1)
        assert rows.read == read


async def test_what_nothing_signed_can_check_is_read_as_it_is_stored() -> None:
    some, rows = trees(8)
    await some.paths(1, [(3, 200)], signed(200))
    for read in (2, 3):
        await some.roots(1, [Span(0, 1)])
        assert rows.read == read
        await some.paths(1, [(3, 200)], signed(200))
        assert rows.read == read, "and leaves what is remembered as it is"


async def test_what_leads_nowhere_is_forgotten_for_its_log_and_read_again() -> None:
    some, rows = trees(8)
    await some.paths(1, [(3, 200)], signed(200))
    await some.paths(2, [(3, 200)], signed(200))
    assert rows.read == 2
    rows.forged = hashlib.sha256(b"of a restored database").digest()
    now = [rows.forged if index == 150 else leaf for index, leaf in enumerate(LEAVES[:300])]
    found = await some.paths(1, [(3, 200)], {200: root_of(now[:200])})
    assert found[3, 200] == inclusion_path(3, now[:200])
    assert rows.read == 3
    assert await some.paths(1, [(3, 200)], {200: root_of(now[:200])}) == found
    assert rows.read == 4, "read to be remembered"
    assert await some.paths(1, [(3, 200)], {200: root_of(now[:200])}) == found
    await some.paths(2, [(3, 200)], signed(200))
    assert rows.read == 4, "the other log's tile is remembered still"
    altered = await some.paths(1, [(3, 200)], signed(200))
    assert altered == found, "what does not lead to what is signed is shown as it is stored: readers verify it"


async def test_many_paths_are_read_at_once_and_asked_for_twice_are_one() -> None:
    some, rows = trees(64)
    leaves = [(5, 700), (6, 700), (699, 700), (5, 700), (5, 6)]
    found = await some.paths(1, leaves, signed(700, 6))
    assert found == {(index, size): inclusion_path(index, LEAVES[:size]) for index, size in leaves}
    assert rows.read == 3, "the first tile, the last, and the one above"
    assert await some.paths(1, [], {}) == {}
    assert await some.root(1, 0) == EMPTY_ROOT
    assert await some.root(1, 700) == root_of(LEAVES[:700])


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 511, 512, 700])
async def test_a_proof_in_a_signed_tree_is_that_of_its_leaves(size: int) -> None:
    some, rows = trees(8)
    root = root_of(LEAVES[:size])
    for index in [*range(size), *range(size)]:
        assert await some.inclusion(1, index, size, root) == proof(index, LEAVES[:size])
    assert rows.read <= 4, "each tile once"


async def test_a_tile_is_led_to_every_tree_that_it_is_asked_for_in() -> None:
    some, rows = trees(8)
    rows.stored = 700
    for size in (300, 700, 300, 600, 700):
        found = await some.inclusion(1, 3, size, root_of(LEAVES[:size]))
        assert found == proof(3, LEAVES[:size])
    assert rows.read == 4, "three tiles and the one above them"


async def test_only_so_many_tiles_of_proofs_are_remembered() -> None:
    some, rows = trees(1)
    root = root_of(LEAVES[:700])
    for index in (3, 300, 600, 3, 300, 600):
        assert await some.inclusion(1, index, 700, root) == proof(index, LEAVES[:700])
        assert len(some._tiles) == 1
    some, rows = trees(3)
    root = root_of(LEAVES[:512])
    for log_id, index, size, read in ((1, 3, 512, 2), (1, 300, 512, 3), (1, 3, 512, 3), (2, 0, 1, 4), (1, 3, 512, 4)):
        await some.inclusion(log_id, index, size, root if size == 512 else LEAVES[0])
        assert rows.read == read, "the tile that was used last is kept"
    some, _ = trees(3)
    for log_id, index, size in ((1, 3, 512), (1, 300, 512), (2, 0, 1), (1, 3, 512)):
        await some.inclusion(log_id, index, size, root if size == 512 else LEAVES[0])
    assert (1, (1, 0)) in some._tiles, "and so is the one above it"


async def test_a_proof_out_of_what_is_remembered_is_a_matter_of_looking_up(monkeypatch: pytest.MonkeyPatch) -> None:
    some, _ = trees(8)
    root = root_of(LEAVES[:700])
    await some.inclusion(1, 3, 700, root)
    monkeypatch.setattr(engine, "roots_of", None)
    assert await some.inclusion(1, 4, 700, root) == proof(4, LEAVES[:700])


async def test_a_tile_that_was_read_anew_meanwhile_is_not_taken_for_the_one_that_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some, rows = trees(8)
    await some.inclusion(1, 3, 512, root_of(LEAVES[:512]))
    runs = rows.runs

    async def meanwhile(log_id: int, asked: list[tuple[int, int, int]]) -> list[bytes]:
        some._forget(1)
        some._tiles[1, (0, 0)] = _Kept(TileTree.of(b"".join(LEAVES[256:512])))
        monkeypatch.undo()
        return await runs(log_id, asked)

    monkeypatch.setattr(rows, "runs", meanwhile)
    for _ in range(2):
        found = await some.inclusion(1, 3, 700, root_of(LEAVES[:700]))
        assert found == proof(3, LEAVES[:700])


async def test_a_proof_that_leads_elsewhere_is_forgotten_and_read_again() -> None:
    some, rows = trees(8)
    root = root_of(LEAVES[:200])
    for log_id in (1, 2):
        await some.inclusion(log_id, 3, 200, root)
    rows.forged = hashlib.sha256(b"of a restored database").digest()
    now = [rows.forged if index == 150 else leaf for index, leaf in enumerate(LEAVES[:200])]
    assert (await some.inclusion(1, 3, 200, root))[2] == root, "what is remembered leads there still"
    found = proof(3, now)
    for read in (3, 4):  # once for the answer, once to be remembered
        assert await some.inclusion(1, 3, 200, root_of(now)) == found
        assert rows.read == read
    assert await some.inclusion(1, 3, 200, root_of(now)) == found
    await some.inclusion(2, 3, 200, root)
    assert rows.read == 4, "the other log's tile is remembered still"
    assert await some.inclusion(1, 3, 200, root) == found, "shown as it is stored, with the root it leads to"


async def test_a_proof_of_what_is_not_stored_is_none() -> None:
    some, rows = trees(8)
    rows.stored = 150
    with pytest.raises(InternalError, match="missing"):
        await some.inclusion(1, 3, 200, root_of(LEAVES[:200]))
    tile = TileTree.of(b"".join(LEAVES[:150]))
    with pytest.raises(InternalError, match="missing"):
        tile.path(3, 256)
    assert tile.path(3, 149) == inclusion_path(3, LEAVES[:149])


async def test_one_path_among_many_that_leads_nowhere_is_enough_to_read_again() -> None:
    some, rows = trees(64)
    leaves = [(5, 700), (600, 700)]
    await some.paths(1, leaves, signed(700))
    await some.paths(1, leaves, {700: EMPTY_ROOT})
    assert rows.read == 6
