"""Who may vote, when a task is met, and what an approval still covers at the commit. Pure.

Source: the policy design, section 6.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from counterseal.canonical import JsonObject, canonical, parse_canonical
from counterseal.errors import ApproverIneligible, RoleRequired
from counterseal.identity import Caller
from counterseal_policy.containment.engine import rose
from counterseal_policy.decisions.gates import DEFAULT_ROLE
from counterseal_policy.decisions.outcome import Evaluation, Requirement

VOTING_PEERS = ("cli", "console")
COMMITTED, ENDED = "plan.committed", "plan.ended"
"""The ledger's events that say what became of a plan."""
_ENDS_AFTER_COMMIT = frozenset({"SUCCEEDED", "ROLLED_BACK", "FAILED_NO_EFFECT", "RESOLVED"})
"""Ends that only a committed plan comes to; the others may come before the commit as well."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What people were shown and asked: an approval covers this and nothing more.

    classes: step id -> class level. reasons: why people were asked. obligations: types, sorted. epochs: containment at
    the time the task was made.
    """

    requirements: tuple[Requirement, ...]
    reasons: tuple[str, ...]
    classes: Mapping[str, int]
    obligations: tuple[str, ...]
    signed: bool
    epochs: Mapping[str, int]

    def body(self) -> bytes:
        """Return the bytes that the task's row keeps."""
        return canonical(
            {
                "requirements": [{**asdict(item), "roles": list(item.roles)} for item in self.requirements],
                "reasons": list(self.reasons),
                "classes": dict(self.classes),
                "obligations": list(self.obligations),
                "signed": self.signed,
                "epochs": dict(self.epochs),
            }
        )

    @classmethod
    def read(cls, body: bytes) -> "Basis":
        """Read the bytes of `body()`."""
        document: JsonObject = parse_canonical(body)
        return cls(
            tuple(Requirement(**{**item, "roles": tuple(item["roles"])}) for item in document["requirements"]),
            tuple(document["reasons"]),
            document["classes"],
            tuple(document["obligations"]),
            document["signed"],
            document["epochs"],
        )


@dataclass(frozen=True, slots=True)
class Ballot:
    """One vote that was not taken back. epochs: containment when it was given."""

    person_id: str
    roles: frozenset[str]
    approved: bool
    signed: bool
    digest: str
    epochs: Mapping[str, int]


def basis(evaluation: Evaluation, epochs: Mapping[str, int], signed_classes: frozenset[int]) -> Basis:
    """Return what an approval of this evaluation would cover."""
    return Basis(
        requirements=evaluation.requirements,
        reasons=tuple(sorted({item.reason for item in evaluation.requirements})),
        classes=step_classes(evaluation),
        obligations=tuple(sorted({item.type for item in evaluation.obligations})),
        signed=evaluation.class_level in signed_classes,
        epochs=dict(epochs),
    )


def step_classes(evaluation: Evaluation) -> dict[str, int]:
    """Return step id -> class level, the undo counted with its step."""
    classes: dict[str, int] = {}
    for step in evaluation.steps:
        classes[step.id] = max(step.class_level, classes.get(step.id, 0))
    return classes


def asks_no_more(now: Basis, approved: Basis) -> bool:
    """Tell whether what is asked now lies within what people were shown: then their votes may serve.

    A newer snapshot may have changed classes, reasons and obligations; each may have fallen, none may have risen.
    """
    return (
        set(now.reasons) <= set(approved.reasons)
        and all(level <= approved.classes.get(step, -1) for step, level in now.classes.items())
        and set(now.obligations) <= set(approved.obligations)
        and (approved.signed or not now.signed)
    )


def counts(requirements: Sequence[Requirement], ballots: Sequence[Ballot], *, signed: bool) -> list[int]:
    """Return for each requirement how many people's approvals count towards it. Each is met on its own."""
    approving = [ballot for ballot in ballots if ballot.approved and (ballot.signed or not signed)]
    return [len({b.person_id for b in approving if b.roles & roles_of(need)}) for need in requirements]


def met(basis_now: Basis, ballots: Sequence[Ballot]) -> bool:
    """Tell whether every requirement is met. Nothing required is never `met`: there would be nothing to approve."""
    reached = counts(basis_now.requirements, ballots, signed=basis_now.signed)
    return bool(reached) and all(n >= need.need for n, need in zip(reached, basis_now.requirements, strict=True))


def standing(ballots: Sequence[Ballot], epochs: Mapping[str, int]) -> list[Ballot]:
    """Return the votes given since the last trip in scope: a trip voids those before it."""
    return [ballot for ballot in ballots if not rose(epochs, ballot.epochs)]


def after_plan(state: str, event: str, plan_state: str = "") -> str | None:
    """Return what an open task becomes by what the ledger says of its plan, None when that changes nothing.

    event: `plan.committed`, or `plan.ended` with the plan's final state. A task that is PENDING at the commit is one
    that people are asked in anew, for what a running plan still needs; it waits on.
    """
    if event == COMMITTED or (event == ENDED and plan_state in _ENDS_AFTER_COMMIT and state == "APPROVED"):
        return "USED" if state == "APPROVED" else None
    return "WITHDRAWN" if event == ENDED else None


def roles_of(requirement: Requirement) -> frozenset[str]:
    """Return the roles by which a vote counts towards a requirement."""
    return frozenset(requirement.roles or (DEFAULT_ROLE,))


def excluded_people(caller: Caller, person_ids: Mapping[str, str]) -> tuple[str, ...]:
    """Return every name under which somebody of the requester's side could come to vote.

    The subject, the whole `act` chain and the owners of its agents, by subject and by person.
    """
    names = {caller.subject}
    if caller.person_id:
        names.add(caller.person_id)
    for actor in caller.chain:
        names |= {str(actor[key]) for key in ("sub", "owner") if actor.get(key)}
    names |= {person_ids[name] for name in list(names) if name in person_ids}
    return tuple(sorted(bare(name) for name in names if name))


def bare(name: str) -> str:
    """Return a subject or person id without `user:`, so that both spellings of one person are equal."""
    return name.removeprefix("user:")


def check_voter(
    caller: Caller,
    *,
    excluded: Sequence[str],
    requirements: Sequence[Requirement],
    now_ms: int,
    max_age_ms: int,
    person_ids: Mapping[str, str],
) -> frozenset[str]:
    """Return the roles by which the caller's vote counts.

    Raises ApproverIneligible: an agent's token, another client than CLI or console, a login that is too old, or
    somebody of the requester's side. Raises RoleRequired when no requirement asks for any of the caller's roles.
    """
    if caller.chain or caller.agent:
        raise ApproverIneligible("a token that acts for an agent cannot vote")
    if caller.peer_kind not in VOTING_PEERS or not caller.subject.startswith("user:"):
        raise ApproverIneligible("votes are taken from people at the CLI or console")
    if caller.auth_time_ms is None or now_ms - caller.auth_time_ms > max_age_ms:
        raise ApproverIneligible("log in again: a vote needs a login of the last minutes")
    names = {caller.subject, caller.person_id or "", person_ids.get(caller.subject, "")}
    if {bare(name) for name in names if name} & set(excluded):
        raise ApproverIneligible("the requester, the agents in between and their owners cannot vote")
    roles = caller.roles & frozenset(role for need in requirements for role in roles_of(need))
    if not roles:
        wanted = sorted({role for need in requirements for role in roles_of(need)})
        raise RoleRequired(f"needs one of the roles {', '.join(wanted)}")
    return roles
