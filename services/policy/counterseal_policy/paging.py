"""Where a page of a list that is sorted by time ends: milliseconds, and an id that tells rows of one moment apart."""

import re

TASKS = re.compile(r"[0-9]{1,15} [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SNAPSHOTS = re.compile(r"[0-9]{1,15} sha256:[0-9a-f]{64}")
"""What positions look like, for `counterseal.rpc.paging`."""


def position_of(text: str) -> tuple[int, str] | None:
    """Return time (ms) and id of a position, None for the first page."""
    time_ms, _, name = text.partition(" ")
    return (int(time_ms), name) if text else None
