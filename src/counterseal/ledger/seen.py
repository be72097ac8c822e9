"""What a verifier must remember of every entry, in a few bytes each: which event ids, and how far each stream is.

Only fingerprints are kept: Python's own string hash, 64 bits under a key that is new in every process, so that nobody
can choose two ids that collide. Equal ids always have equal fingerprints; the few ids that share one are looked at
again by whoever asks, so a duplicate is never missed and never claimed wrongly.
"""

from array import array

_MASK = (1 << 64) - 1
_BUCKETS = 1024


class IdSet:
    """The event ids so far: 8 bytes each."""

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(_BUCKETS)]

    def add(self, event_id: str) -> None:
        """Remember one more id."""
        print_ = hash(event_id) & _MASK
        self._buckets[print_ % _BUCKETS].append(print_)

    def suspects(self, limit: int = 4096) -> set[int]:
        """Return fingerprints that occurred more than once, at most `limit` of them."""
        found: set[int] = set()
        for bucket in self._buckets:
            if len(set(bucket)) == len(bucket):
                continue
            seen: set[int] = set()
            for one in bucket:
                if one in seen:
                    found.add(one)
                    if len(found) >= limit:
                        return found
                seen.add(one)
        return found

    @staticmethod
    def fingerprint(event_id: str) -> int:
        """Return the fingerprint under which `add` remembers an id."""
        return hash(event_id) & _MASK


class Streams:
    """The last `seq` of every stream, by fingerprint in one open-addressed table: 16 bytes each, half of it empty.

    Two streams that share a fingerprint would be taken for one; among 10^6 streams that has a chance of 3 in 10^8.
    """

    def __init__(self) -> None:
        self._count = 0
        self._keys = array("Q", bytes(8 * 1024))
        self._values = array("Q", bytes(8 * 1024))

    def advance(self, stream: str, seq: int) -> int:
        """Record that `stream` is at `seq`; return the seq that was due, which is 1 for a new stream."""
        key = hash(stream) & _MASK or 1
        keys = self._keys
        at = key & (len(keys) - 1)
        if keys[at] not in (0, key):
            at = self._slot(key)
        if keys[at]:
            due = self._values[at] + 1
        else:
            due = 1
            keys[at] = key
            self._count += 1
        self._values[at] = seq
        if 2 * self._count > len(keys):
            self._grow()
        return due

    def _slot(self, key: int) -> int:
        keys, last = self._keys, len(self._keys) - 1
        at = key & last
        while keys[at] not in (0, key):
            at = (at + 1) & last
        return at

    def _grow(self) -> None:
        old = zip(self._keys, self._values, strict=True)
        size = 2 * len(self._keys)
        self._keys, self._values = array("Q", bytes(8 * size)), array("Q", bytes(8 * size))
        for key, value in old:
            if key:
                at = self._slot(key)
                self._keys[at], self._values[at] = key, value
