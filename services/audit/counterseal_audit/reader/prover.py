"""Inclusion and consistency proofs in the trees of a tenant's log.

What is signed does not change, so a proof in a signed tree asks the database for nothing that this process saw lately:
which log is the tenant's newest and how far it was signed (FRESH_MS), and the hashes (`Trees`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from counterseal.clock import Clock, monotonic_ms
from counterseal.errors import InputInvalid, NotFound
from counterseal.ledger.errors import VerificationError
from counterseal.ledger.tree import (
    Span,
    consistency_spans,
    inclusion_spans,
    root_from_inclusion,
    verify_consistency,
)
from counterseal_audit.checkpoints.store import CheckpointStore, SignedTrees, StoredCheckpoint
from counterseal_audit.logs.store import Log, LogStore
from counterseal_audit.reader.store import ReaderStore
from counterseal_audit.reader.trees import Trees

FRESH_MS = 1000
"""How long a checkpoint counts as the latest for those who ask about entries that it covers; twice that at the most."""
_MOST_TREES = 256
"""How many signed trees of a log are remembered."""

Whose = tuple[str, int | None]
"""A tenant, and which of its logs; None: the newest."""


@dataclass(slots=True)  # made for every proof: frozen ones cost three times that
class Inclusion:
    """An audit path, leaf side first; checkpoint: the tree's own, where it was signed."""

    size: int
    leaf: bytes
    path: tuple[bytes, ...]
    root: bytes
    checkpoint: StoredCheckpoint | None


@dataclass(frozen=True, slots=True)
class Consistency:
    """A proof that the tree of `from_root` is a prefix of that of `to_root`, which has `to_size` leaves."""

    to_size: int
    path: Sequence[bytes]
    from_root: bytes
    to_root: bytes


@dataclass(slots=True)
class _Known:
    """A log and signed trees of it, as they were seen last; `until` when that may be shown.

    is_late: until then it is shown only because somebody is looking again.
    """

    log: Log
    last: StoredCheckpoint
    by_size: dict[int, StoredCheckpoint]
    until: int
    is_late: bool = False

    def tree(self, size: int) -> StoredCheckpoint | None:
        """Return the checkpoint of a size, of the latest for 0."""
        return self.last if size == 0 else self.by_size.get(size)


@dataclass(slots=True)
class Prover:
    """Makes proofs. clock: milliseconds, never back."""

    logs: LogStore
    checkpoints: CheckpointStore
    store: ReaderStore
    trees: Trees
    environment: str
    clock: Clock = monotonic_ms
    _known: dict[Whose, _Known] = field(default_factory=dict)

    async def inclusion(self, whose: Whose, index: int, size: int) -> Inclusion:
        """Prove an entry in the tree of `size` entries; 0: the latest checkpoint's, or one's that has it and was the
        latest FRESH_MS ago.

        Raises NotFound, InputInvalid.
        """
        known = self._fresh(whose)
        tree = known.tree(size) if known is not None else None
        if known is not None and tree is not None and index < tree.size:
            return await self._signed_inclusion(known.log, index, tree)
        async with self.store.snapshot():
            log, trees, size = await self._look(whose, size)
            if index >= size:
                raise InputInvalid(f"index: the tree of size {size} has no entry {index}")
            tree = trees.by_size.get(size)
            if tree is not None:
                return await self._signed_inclusion(log, index, tree)
            leaf, *path = await self.trees.roots(log.log_id, [Span(index, index + 1), *inclusion_spans(index, size)])
        return Inclusion(size, leaf, tuple(path), root_from_inclusion(index, size, leaf, path), None)

    async def consistency(self, whose: Whose, from_size: int, to_size: int) -> Consistency:
        """Prove that the tree of `from_size` entries is a prefix of that of `to_size` (0: of the latest checkpoint).

        Raises NotFound, InputInvalid.
        """
        async with self.store.snapshot():
            log, trees, to_size = await self._look(whose, to_size, from_size)
            if not 1 <= from_size <= to_size:
                raise InputInvalid(f"from_size: expected 1 to {to_size}")
            spans = [Span(0, from_size), Span(0, to_size), *consistency_spans(from_size, to_size)]
            older, newer = trees.by_size.get(from_size), trees.by_size.get(to_size)
            if older is None or newer is None:
                from_root, to_root, *path = await self.trees.roots(log.log_id, spans)
            else:
                signed = [older.published.root, newer.published.root]

                def fit(roots: Sequence[bytes]) -> bool:
                    try:
                        verify_consistency(from_size, to_size, roots[0], roots[1], roots[2:])
                    except VerificationError:
                        return False
                    return list(roots[:2]) == signed

                from_root, to_root, *path = await self.trees.signed_roots(log.log_id, spans, fit)
        return Consistency(to_size, path, from_root, to_root)

    async def _signed_inclusion(self, log: Log, index: int, tree: StoredCheckpoint) -> Inclusion:
        leaf, path, root = await self.trees.inclusion(log.log_id, index, tree.size, tree.published.root)
        return Inclusion(tree.size, leaf, path, root, tree)

    def _fresh(self, whose: Whose) -> _Known | None:
        """Return what is known of a log, None when the caller is to look again.

        One of many looks. The others go on with what is known, for another second at most: the database may be away.
        """
        known = self._known.get(whose)
        if known is None:
            return None
        now = self.clock()
        if now < known.until:
            return known
        if known.is_late:
            del self._known[whose]
        known.is_late, known.until = True, now + FRESH_MS
        return None

    async def _look(self, whose: Whose, size: int, *others: int) -> tuple[Log, SignedTrees, int]:
        """Return a log, what is signed of it, and the size that is meant by `size`, and remember them.

        others: further sizes whose checkpoints are wanted. Raises NotFound, InputInvalid.
        """
        until = self.clock() + FRESH_MS
        tenant, shard = whose
        log = await self.logs.find(tenant, self.environment, shard)
        if log is None:
            raise NotFound("no such log")
        trees = await self.checkpoints.trees(log.log_id, [size, *others])
        if trees.last is not None:
            self._remember(whose, _Known(log, trees.last, dict(trees.by_size), until))
        if size == 0:
            if trees.last is None:
                raise NotFound("no checkpoint was signed yet")
            size = trees.last.size
        if not 1 <= size <= trees.log_size:
            raise InputInvalid(f"the log has no tree of size {size}")
        return log, trees, size

    def _remember(self, whose: Whose, seen: _Known) -> None:
        known = self._known.get(whose)
        if known is None or (known.log, known.last) != (seen.log, seen.last) or len(known.by_size) >= _MOST_TREES:
            self._known[whose] = seen
        else:
            known.by_size.update(seen.by_size)
            known.until, known.is_late = seen.until, False
