"""What was seen of a run, from three sides that do not trust each other: client, target, ledger export.

Plain values: the checker judges them and knows no service, no database and no network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Receipt:
    """An entry of which a client was told where it is."""

    index: int
    event_id: str


@dataclass(frozen=True, slots=True)
class KeptCheckpoint:
    """A signed tree head that a client kept."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class StepEnd:
    """A step as the executor describes it after the run; `writes` is False for a reading tool."""

    id: str
    state: str
    writes: bool = True


@dataclass(frozen=True, slots=True)
class PlanEnd:
    """A plan as the executor describes it after the run. acknowledged: a client was told that it is committed."""

    plan_digest: str
    state: str
    reason_code: str
    steps: tuple[StepEnd, ...]
    acknowledged: bool = False


@dataclass(frozen=True, slots=True)
class Effect:
    """A row of the target's own list of what happened to it. time_ms: the target's clock, before the commit."""

    effect_key: str
    attempt_id: str
    time_ms: int
    account: str = ""
    amount: int = 0


@dataclass(frozen=True, slots=True)
class Logged:
    """A ledger entry: its index, the few fields that rules speak of, and its `data`."""

    index: int
    type: str
    event_id: str
    receive_time_ms: int
    plan_digest: str = ""
    step: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What must be gone at rest: live leases at Vault, logins and sessions at the target, grants not yet dead."""

    leases: tuple[str, ...] = ()
    logins: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """One run. roots: size -> root of the export's first `size` entries, for each size that a client kept.

    opening, closing: account -> balance before and after.
    """

    receipts: Sequence[Receipt]
    checkpoints: Sequence[KeptCheckpoint]
    plans: Sequence[PlanEnd]
    effects: Sequence[Effect]
    entries: Sequence[Logged]
    roots: Mapping[int, bytes]
    leftovers: Leftovers
    opening: Mapping[str, int] = field(default_factory=dict)
    closing: Mapping[str, int] = field(default_factory=dict)
