"""What was seen of a run, from three sides that do not trust each other: client, target, ledger export.

Plain values: the checker judges them and knows no service, no database and no network.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """A plan as the executor describes it after the run.

    acknowledged: a client was told that it is committed. told: the terminal state that a client was told, if any.
    """

    plan_digest: str
    state: str
    reason_code: str
    steps: tuple[StepEnd, ...]
    acknowledged: bool = False
    told: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing that was written, by the target's own record of it.

    attempt_id: the attempt it belongs to, empty where the target is not told. begin_ms, end_ms: the target's clock when
    it had not happened yet, and when it was as good as committed. login: who was logged in.
    moves: account -> by how much this effect moved it.
    """

    effect_key: str
    attempt_id: str
    begin_ms: int
    end_ms: int
    login: str
    moves: Mapping[str, int]


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
    """What is alive: leases and grants' tokens at Vault, logins and sessions at the target, grants not yet dead."""

    leases: tuple[str, ...] = ()
    logins: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """One run. roots: size -> root of the export's first `size` entries, for each size that a client kept.

    leftovers: what is alive after the run; seen_alive: what was, at least once, while it ran.
    opening, closing: account -> balance before and after.
    """

    receipts: Sequence[Receipt]
    checkpoints: Sequence[KeptCheckpoint]
    plans: Sequence[PlanEnd]
    effects: Sequence[Effect]
    entries: Sequence[Logged]
    roots: Mapping[int, bytes]
    leftovers: Leftovers
    seen_alive: Leftovers
    opening: Mapping[str, int] = field(default_factory=dict)
    closing: Mapping[str, int] = field(default_factory=dict)


def grant_of(login: str) -> str:
    """Return the grant that a login names (`g-<32 hex digits>-<random>`): its id without dashes; empty for others."""
    parts = login.split("-")
    return parts[1] if len(parts) == 3 and parts[0] == "g" and len(parts[1]) == 32 else ""


def by_grant(entries: Iterable[Logged], type_: str) -> dict[str, list[Logged]]:
    """Return the entries of one type by the grant that they speak of, its id without dashes."""
    found: dict[str, list[Logged]] = {}
    for entry in entries:
        if entry.type == type_:
            found.setdefault(entry.data["grant_id"].replace("-", ""), []).append(entry)
    return found


def attributed(effects: Iterable[Effect], entries: Iterable[Logged]) -> list[Effect]:
    """Return the effects, each without an attempt given that of its login's grant by the ledger, if it knows one."""
    granted = by_grant(entries, "credential.granted")
    found: list[Effect] = []
    for effect in effects:
        grants = granted.get(grant_of(effect.login), [])
        known = effect.attempt_id or (grants[0].data["attempt_id"] if grants else "")
        found.append(replace(effect, attempt_id=known))
    return found
