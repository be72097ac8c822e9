"""What is signed so far, in memory: every acknowledgement says it, so that a producer sees how stale the log is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SignedHead:
    """The latest signed checkpoint of a log: its size, and when it was published (milliseconds)."""

    size: int
    publish_time_ms: int


class SignedHeads:
    """The latest signed checkpoint per log, as this process last saw it; never goes back."""

    def __init__(self) -> None:
        self._heads: dict[int, SignedHead] = {}

    def get(self, log_id: int) -> SignedHead | None:
        """Return the latest checkpoint of a log, None when none was seen."""
        return self._heads.get(log_id)

    def see(self, log_id: int, head: SignedHead) -> None:
        """Remember a checkpoint unless a later one is known."""
        known = self._heads.get(log_id)
        if known is None or known.size <= head.size:
            self._heads[log_id] = head
