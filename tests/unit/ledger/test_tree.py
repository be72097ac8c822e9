"""The tree against the reference vectors and against a second implementation written from the RFC's text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.ledger import tree
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tree import (
    EMPTY_ROOT,
    MAX_SIZE,
    Frontier,
    Span,
    consistency_path,
    consistency_spans,
    inclusion_path,
    inclusion_spans,
    leaf_hash,
    node_hash,
    node_hashes,
    perfect_root,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from support.shared import shared_path

LEAVES = [leaf_hash(bytes([n])) for n in range(130)]


# RFC 6962 section 2.1 as it is written: recursion over lists.
def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(d: list[bytes]) -> bytes:
    if not d:
        return EMPTY_ROOT
    if len(d) == 1:
        return d[0]
    k = split(len(d))
    return node_hash(mth(d[:k]), mth(d[k:]))


def path(m: int, d: list[bytes]) -> list[bytes]:
    if len(d) == 1:
        return []
    k = split(len(d))
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: list[bytes], is_whole: bool) -> list[bytes]:
    if m == len(d):
        return [] if is_whole else [mth(d)]
    k = split(len(d))
    if m <= k:
        return [*subproof(m, d[:k], is_whole), mth(d[k:])]
    return [*subproof(m - k, d[k:], is_whole=False), mth(d[:k])]


sizes = st.integers(1, len(LEAVES))


KNOWN = {
    "": "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "00": "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "10": "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "2021": "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "3031": "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "40414243": "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "5051525354555657": "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "606162636465666768696a6b6c6d6e6f": "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
"""The tree that implementations of RFC 6962 are compared by: an entry, and the root once it is in."""


def test_the_tree_that_others_have_too() -> None:
    assert root_of([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    leaves = [leaf_hash(bytes.fromhex(data)) for data in KNOWN]
    assert [root_of(leaves[:size]).hex() for size in range(1, 9)] == list(KNOWN.values())
    assert perfect_root(leaves).hex() == list(KNOWN.values())[-1]
    assert Frontier().root() == EMPTY_ROOT == root_of([])


def test_the_reference_tree() -> None:
    vectors = json.loads(shared_path("vectors/ledger/rfc6962-reference-tree.json").read_text())
    leaves = [leaf_hash(bytes.fromhex(data)) for data in vectors["leaf_inputs_hex"]]
    for size, root in enumerate(vectors["root_hashes_hex_by_size"]):
        assert root_of(leaves[:size]).hex() == root
    for height, nodes in enumerate(vectors["node_hashes_hex"]):
        for index, node in enumerate(nodes):
            assert perfect_root(leaves[index << height : (index + 1) << height]).hex() == node


@given(sizes)
def test_roots_equal_the_recursion_of_the_rfc(size: int) -> None:
    assert root_of(LEAVES[:size]) == mth(LEAVES[:size])


@given(sizes, st.data())
def test_inclusion_proofs_equal_the_rfc_and_verify(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_path(index, LEAVES[:size])
    assert proof == path(index, LEAVES[:size])
    verify_inclusion(index, size, LEAVES[index], proof, mth(LEAVES[:size]))


@given(sizes, st.data())
def test_consistency_proofs_equal_the_rfc_and_verify(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    proof = consistency_path(old, LEAVES[:size])
    assert proof == subproof(old, LEAVES[:size], is_whole=True)
    verify_consistency(old, size, mth(LEAVES[:old]), mth(LEAVES[:size]), proof)


@given(sizes, st.data())
def test_no_altered_inclusion_proof_verifies(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    root = mth(LEAVES[:size])
    proof = inclusion_path(index, LEAVES[:size])
    other = data.draw(st.integers(0, size - 1).filter(lambda i: i != index)) if size > 1 else size
    attacks = [
        (other, size, LEAVES[index], proof),
        (index, size, LEAVES[(index + 1) % len(LEAVES)], proof),
        (index, size, LEAVES[index], [*proof, b"\0" * 32]),
        (index, size, LEAVES[index], [p + b"\0" for p in proof] or [b""]),
        (index, size, LEAVES[index][:31], proof),
        (-1, size, LEAVES[index], proof),
        (size, size, LEAVES[index], proof),
    ]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        attacks += [
            (index, size, LEAVES[index], proof[:-1]),
            (index, size, LEAVES[index], [*proof[:at], flipped, *proof[at + 1 :]]),
        ]
    for attack in attacks:
        with pytest.raises(VerificationError):
            verify_inclusion(*attack, root)


@given(sizes, st.data())
def test_no_altered_consistency_proof_verifies(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    proof = consistency_path(old, LEAVES[:size])
    old_root, new_root = mth(LEAVES[:old]), mth(LEAVES[:size])
    attacks = [
        (old, size, old_root, new_root[:31] + bytes([new_root[31] ^ 1]), proof),
        (old, size, old_root[:31] + bytes([old_root[31] ^ 1]), new_root, proof),
        (old, size, old_root, new_root, [*proof, b"\0" * 32]),
        (0, size, EMPTY_ROOT, new_root, []),
        (size + 1, size, old_root, new_root, proof),
    ]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        attacks += [
            (old, size, old_root, new_root, proof[:-1]),
            (old, size, old_root, new_root, [*proof[:at], flipped, *proof[at + 1 :]]),
        ]
    for attack in attacks:
        with pytest.raises(VerificationError):
            verify_consistency(*attack)


@given(st.lists(st.integers(0, 40), max_size=5))
def test_a_frontier_extended_in_pieces_and_stored_between_is_the_whole_tree(pieces: list[int]) -> None:
    frontier = Frontier()
    at = 0
    for piece in pieces:
        frontier = Frontier.parse(frontier.size, frontier.serialize()).extend(LEAVES[at : at + piece])
        at = min(len(LEAVES), at + piece)
        assert frontier.root() == mth(LEAVES[:at])


def test_a_root_is_hashed_once_and_makes_no_other_frontier() -> None:
    one, other = (Frontier().extend([bytes([n]) * 32 for n in range(7)]) for _ in range(2))
    root = one.root()
    assert (one, hash(one), repr(one)) == (other, hash(other), repr(other))
    object.__setattr__(one, "hashes", ())
    assert one.root() == root
    with pytest.raises(TypeError):  # nobody says what it is
        Frontier(1, (bytes(32),), bytes(32))  # type: ignore[call-arg]


def test_completed_subtrees_are_reported_once_with_their_place() -> None:
    seen: dict[tuple[int, int], bytes] = {}
    Frontier().extend(LEAVES[:100]).extend(
        LEAVES[100:], lambda height, index, node: seen.__setitem__((height, index), node)
    )
    assert all(node == mth(LEAVES[i << h : (i + 1) << h]) for (h, i), node in seen.items())
    assert (2, 25) in seen
    assert (2, 24) not in seen


def test_a_frontier_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(VerificationError):
        Frontier.parse(3, b"\0" * 32)


def test_a_hash_of_another_length_is_refused_before_anything_is_made_of_it() -> None:
    good = b"h" * 32
    for bad in (b"", b"h" * 31, b"h" * 33):
        with pytest.raises(VerificationError, match="SHA-256 has 32"):
            tree.root_from_inclusion(0, 1, bad, [])
        with pytest.raises(VerificationError, match="SHA-256 has 32"):
            tree.root_from_inclusion(0, 2, good, [bad])
        for old, new in ((bad, good), (good, bad)):
            with pytest.raises(VerificationError, match="SHA-256 has 32"):
                tree.verify_consistency(1, 1, old, new, [])
    assert tree.MAX_SIZE == 2**63 - 1


@pytest.mark.parametrize("size", range(1, 40))
def test_spans_are_those_of_the_rfc_for_every_place(size: int) -> None:
    def root(span: Span) -> bytes:
        return mth(LEAVES[span.start : span.end])

    for index in range(size):
        spans = inclusion_spans(index, size)
        assert [root(span) for span in spans] == path(index, LEAVES[:size])
        verify_inclusion(index, size, LEAVES[index], [root(span) for span in spans], mth(LEAVES[:size]))
    for old in range(1, size + 1):
        spans = consistency_spans(old, size)
        assert [root(span) for span in spans] == subproof(old, LEAVES[:size], is_whole=True)
        verify_consistency(old, size, mth(LEAVES[:old]), mth(LEAVES[:size]), [root(span) for span in spans])
    for span in [Span(start, end) for end in range(1, size + 1) for start in range(end)]:
        parts = span.perfect_parts()
        assert [at for height, index in parts for at in range(index << height, (index + 1) << height)] == list(
            range(span.start, span.end)
        )


def test_the_largest_tree_has_proofs_and_a_frontier_and_no_larger_one_has() -> None:
    assert len(inclusion_spans(MAX_SIZE - 1, MAX_SIZE)) == 62
    assert len(inclusion_spans(0, MAX_SIZE)) == 63
    assert consistency_spans(MAX_SIZE, MAX_SIZE) == []
    assert consistency_spans(1 << 62, MAX_SIZE) == [Span(1 << 62, MAX_SIZE)]
    assert Frontier.parse(MAX_SIZE, bytes(63 * 32)).size == MAX_SIZE
    assert Frontier.parse(0, b"") == Frontier()
    for attack in (
        lambda: inclusion_spans(0, MAX_SIZE + 1),
        lambda: inclusion_spans(0, 0),
        lambda: consistency_spans(1 << 63, 1 << 63),
        lambda: consistency_spans(1, MAX_SIZE + 1),
        lambda: Frontier.parse(MAX_SIZE + 1, bytes(32)),
        lambda: Frontier.parse(-1, bytes(32)),
        lambda: Frontier.parse(0, bytes(32)),
        lambda: Frontier.parse(1, b""),
        lambda: Frontier.parse(1, bytes(31)),
    ):
        with pytest.raises(VerificationError):
            attack()


def test_what_does_not_prove_growth_is_a_fork_and_what_has_not_the_form_of_a_proof_is_tampered() -> None:
    old_root, new_root, proof = mth(LEAVES[:5]), mth(LEAVES[:9]), consistency_path(5, LEAVES[:9])
    other = leaf_hash(b"other")
    for attack, kind in (
        ((5, 9, other, new_root, proof), "forked"),
        ((5, 9, old_root, other, proof), "forked"),
        ((5, 9, old_root, new_root, [other, *proof[1:]]), "forked"),
        ((8, 9, old_root, new_root, [other]), "forked"),
        ((5, 5, old_root, other, []), "forked"),
        ((5, 9, old_root, new_root, proof[:-1]), "tampered"),
        ((5, 5, old_root, old_root, [other]), "tampered"),
        ((5, 9, old_root[:-1], new_root, proof), "tampered"),
    ):
        with pytest.raises(VerificationError) as caught:
            verify_consistency(*attack)
        assert caught.value.kind == kind


def test_every_complete_subtree_is_reported_with_its_height_and_index() -> None:
    seen: list[tuple[int, int, bytes]] = []
    Frontier().extend(LEAVES[:64], lambda height, index, node: seen.append((height, index, node)))
    assert sorted(seen) == [
        (height, index, mth(LEAVES[index << height : (index + 1) << height]))
        for height in range(1, 7)
        for index in range(64 >> height)
    ]


@pytest.mark.parametrize("every", [2, 3, 6, 8])
def test_subtrees_of_some_heights_only_are_reported(every: int) -> None:
    seen: list[int] = []
    Frontier().extend(LEAVES[:5]).extend(LEAVES[5:64], lambda height, index, node: seen.append(height), every)
    assert sorted(seen) == [height for height in range(every, 7, every) for _ in range((64 >> height) - (5 >> height))]


@pytest.mark.parametrize("count", range(10))
def test_the_nodes_above_a_row_are_those_of_its_pairs(count: int) -> None:
    pairs = [node_hash(LEAVES[n], LEAVES[n + 1]) for n in range(0, count - 1, 2)]
    assert node_hashes(b"".join(LEAVES[:count])) == b"".join(pairs)
