"""The Merkle tree of RFC 6962 section 2.1: hashes, proofs, and the frontier that a log keeps.

The shape of a proof is derived from index and size, never from the proof itself: a proof with a hash too many or too
few is refused, and so is a hash that is not 32 bytes.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from counterseal.ledger.errors import VerificationError

HASH_SIZE = 32
MAX_SIZE = (1 << 63) - 1
EMPTY_ROOT = hashlib.sha256(b"").digest()

_sha256 = hashlib.sha256


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one leaf: SHA-256(0x00, entry)."""
    return _sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256(0x01, left, right)."""
    return _sha256(b"\x01" + left + right).digest()


def node_hashes(joined: bytes) -> bytes:
    """Return the nodes above consecutive hashes of one level, joined as they are; an odd last hash has none yet."""
    pairs = range(0, len(joined) - HASH_SIZE, 2 * HASH_SIZE)
    return b"".join([_sha256(b"\x01" + joined[at : at + 2 * HASH_SIZE]).digest() for at in pairs])


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root of a perfect subtree whose nodes at one level are `hashes`; their count is a power of two."""
    level = list(hashes)
    while len(level) > 1:
        level = [_sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)]
    return level[0]


@dataclass(frozen=True, slots=True)
class Frontier:
    """The compact form of a tree: `size` leaves and the roots of the perfect subtrees of its binary form.

    `hashes` stand lowest subtree first, as many as `size` has one-bits; this is all that is needed to append.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()
    _root: bytes | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def parse(cls, size: int, data: bytes) -> "Frontier":
        """Read the concatenated hashes of a tree of `size` leaves. Raises VerificationError on another length."""
        if not 0 <= size <= MAX_SIZE or len(data) != HASH_SIZE * size.bit_count():
            raise VerificationError(f"{len(data)} bytes are not the frontier of a tree of size {size}")
        return cls(size, tuple(data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)))

    def serialize(self) -> bytes:
        """Return the hashes, concatenated, lowest subtree first."""
        return b"".join(self.hashes)

    def root(self) -> bytes:
        """Return the tree's root (RFC 6962 section 2.1); of no leaves, SHA-256 of nothing."""
        if self._root is not None:
            return self._root
        root = self.hashes[0] if self.hashes else EMPTY_ROOT
        for left in self.hashes[1:]:
            root = node_hash(left, root)
        object.__setattr__(self, "_root", root)  # hashed once: an append asks for it five times
        return root

    def extend(
        self, leaves: Iterable[bytes], on_node: Callable[[int, int, bytes], None] | None = None, every: int = 1
    ) -> "Frontier":
        """Return the frontier after appending leaf hashes.

        `on_node(height, index, hash)` is called for each perfect subtree that becomes complete and whose height is a
        multiple of `every`; height: 1 for two leaves; index: its position among the subtrees of that height.
        """
        size = self.size
        stack = list(reversed(self.hashes))
        for leaf in leaves:
            node = leaf
            height, rest = 0, size
            while rest & 1:
                node = _sha256(b"\x01" + stack.pop() + node).digest()
                height += 1
                rest >>= 1
                if on_node is not None and not height % every:
                    on_node(height, rest, node)
            stack.append(node)
            size += 1
        return Frontier(size, tuple(reversed(stack)))


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Return the root over leaf hashes."""
    return Frontier().extend(leaves).root()


@dataclass(frozen=True, slots=True)
class Span:
    """The leaves `start <= i < end` under one node of a proof; `end - start` need not be a power of two."""

    start: int
    end: int

    def perfect_parts(self) -> list[tuple[int, int]]:
        """Return the perfect subtrees that make up the span, left to right, as (height, index at that height)."""
        parts = []
        at = self.start
        while at < self.end:
            height = (self.end - at).bit_length() - 1
            if at:
                height = min(height, (at & -at).bit_length() - 1)
            parts.append((height, at >> height))
            at += 1 << height
        return parts

    def root(self, subtree: Callable[[int, int], bytes]) -> bytes:
        """Return the span's hash from the roots of its perfect parts; `subtree(height, index)` supplies each."""
        hashes = [subtree(height, index) for height, index in self.perfect_parts()]
        root = hashes.pop()
        while hashes:
            root = node_hash(hashes.pop(), root)
        return root


def inclusion_spans(index: int, size: int) -> list[Span]:
    """Return what the audit path of leaf `index` covers, leaf side first (RFC 6962 section 2.1.1).

    Raises VerificationError unless 0 <= index < size.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise VerificationError(f"no leaf {index} in a tree of size {size}")
    start, end = 0, size
    spans = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(start, middle))
            start = middle
    spans.reverse()
    return spans


def consistency_spans(old: int, new: int) -> list[Span]:
    """Return what the proof between two sizes covers, in order (RFC 6962 section 2.1.2); nothing for equal sizes.

    Raises VerificationError unless 0 < old <= new: the empty tree is consistent with everything and proves nothing.
    """
    if not 0 < old <= new <= MAX_SIZE:
        raise VerificationError(f"no consistency proof leads from size {old} to size {new}")
    start, end = 0, new
    spans = []
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(start, middle))
            start = middle
    if start:  # else the old tree is one perfect subtree of the new: its root is known to whoever checks
        spans.append(Span(start, end))
    spans.reverse()
    return spans


def inclusion_path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return the audit path of one leaf, leaf side first, from all leaf hashes (RFC 6962 section 2.1.1).

    Returns at most ceil(log2(n)) hashes of 32 bytes, none for one leaf. Raises VerificationError out of range.
    """
    return [span.root(_from_leaves(leaves)) for span in inclusion_spans(index, len(leaves))]


def consistency_path(old: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return the proof that the tree of the first `old` leaves is a prefix of the whole (RFC 6962 section 2.1.2)."""
    return [span.root(_from_leaves(leaves)) for span in consistency_spans(old, len(leaves))]


def root_from_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes:
    """Return the root to which an audit path leads. Raises VerificationError when the path has not the tree's shape."""
    spans = inclusion_spans(index, size)
    _check_path(path, len(spans))
    _check_hash(leaf)
    return root_of_path(index, spans, leaf, path)


def root_of_path(index: int, spans: Sequence[Span], leaf: bytes, path: Sequence[bytes]) -> bytes:
    """Return the root to which an audit path leads whose `spans` (`inclusion_spans`) are at hand, a hash for each."""
    node = leaf
    for span, sibling in zip(spans, path, strict=True):
        node = node_hash(sibling, node) if span.end <= index else node_hash(node, sibling)
    return node


def verify_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> None:
    """Raise VerificationError unless `leaf` is at `index` of the tree with `size` and `root`."""
    if root_from_inclusion(index, size, leaf, path) != root:
        raise VerificationError(f"the audit path of entry {index} does not lead to the root of size {size}")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> None:
    """Raise VerificationError unless the tree (`old`, `old_root`) is a prefix of the tree (`new`, `new_root`)."""
    spans = consistency_spans(old, new)
    _check_hash(old_root)
    _check_hash(new_root)
    _check_path(path, len(spans))
    if old == new:
        if old_root != new_root:
            raise VerificationError(f"two different roots of size {old}", kind="forked")
        return
    parts = list(zip(spans, path, strict=True))
    if spans[0].start == old:
        seed = old_root
    else:
        seed = path[0]
        parts = parts[1:]
    before = after = seed
    for span, sibling in parts:
        if span.end <= old:
            before = node_hash(sibling, before)
            after = node_hash(sibling, after)
        else:
            after = node_hash(after, sibling)
    if before != old_root:
        raise VerificationError(f"the proof does not lead to the root of size {old}", kind="forked")
    if after != new_root:
        raise VerificationError(f"the proof does not lead to the root of size {new}", kind="forked")


def _split(size: int) -> int:
    """Return the largest power of two below `size` (RFC 6962's k); size > 1."""
    return 1 << ((size - 1).bit_length() - 1)


def _from_leaves(leaves: Sequence[bytes]) -> Callable[[int, int], bytes]:
    return lambda height, index: perfect_root(leaves[index << height : (index + 1) << height])


def _check_hash(value: bytes) -> None:
    if len(value) != HASH_SIZE:
        raise VerificationError(f"a hash of {len(value)} bytes; SHA-256 has {HASH_SIZE}")


def _check_path(path: Sequence[bytes], expected: int) -> None:
    if len(path) != expected:
        raise VerificationError(f"the proof has {len(path)} hashes; its place in the tree demands {expected}")
    for value in path:
        _check_hash(value)
