"""Where an entry is in a log of several shards: one number, so that places compare as the log goes on. Pure.

In the first shard, which most logs never leave, a place is the index.
"""

WIDTH = 1 << 48
"""Places of one shard; no log has so many entries."""


def place(shard: int, index: int) -> int:
    """Return the place of an entry."""
    return shard * WIDTH + index


def of_place(at: int) -> tuple[int, int]:
    """Return shard and index of a place."""
    return divmod(at, WIDTH)


def local_start(start: int, shard: int) -> int | None:
    """Return the first index of a shard from place `start` on; None when all of the shard is before that."""
    first, index = of_place(start)
    if shard < first:
        return None
    return index if shard == first else 0


def local_end(end: int | None, shard: int) -> int | None:
    """Return the index before which a shard's entries are below place `end`: 0 for none of them, None for all."""
    if end is None:
        return None
    last, index = of_place(end)
    if shard > last:
        return 0
    return index if shard == last else None
