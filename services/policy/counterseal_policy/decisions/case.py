"""A decision in the making, as values: what was asked, what approvals add, what is answered and what is signed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from counterseal.canonical import parse_canonical
from counterseal.documents import plan as plans
from counterseal.documents.decision import (
    Context,
    Obligation,
    ScopeEpoch,
    Statement,
    StepDecision,
    build_statement,
    nested_act,
)
from counterseal.identity import Caller
from counterseal_policy.decisions import intake
from counterseal_policy.decisions.assembler import Request
from counterseal_policy.decisions.outcome import Evaluation
from counterseal_policy.snapshots.active import ActivePolicy

AUDIENCE = ("executor", "credentials")


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement with its signature and key id."""

    statement: bytes
    signature: bytes
    key: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision as it is told: `signed` is present where it can be used."""

    decision_id: str
    purpose: str
    evaluation: Evaluation
    snapshot_id: str
    task_id: str | None
    card_digest: str | None
    expire_time_ms: int
    signed: Signed | None


@dataclass(frozen=True, slots=True)
class PlanQuestion:
    """What `AuthorizePlan` is asked with; bodies are canonical bytes."""

    body: bytes
    digest: str
    purpose: str
    descriptors: Sequence[bytes]
    previews: Sequence[bytes] = ()
    rationale: bytes = b""
    supported_obligations: frozenset[str] = frozenset()
    snapshot_id: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One decision in the making."""

    caller: Caller
    decision_id: str
    event_id: str
    purpose: str
    digest: str
    tools: tuple[str, ...]
    evaluation: Evaluation
    active: ActivePolicy | None
    taint: bool
    plan: plans.Plan | None = None
    descriptors: intake.Descriptors | None = None
    request: Request | None = None
    rationale: str | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """What the approval task adds to a decision."""

    evaluation: Evaluation
    task_id: str | None = None
    card: bytes | None = None
    card_digest: str | None = None
    votes: tuple[str, ...] = ()
    until_ms: int | None = None


def statement_of(
    case: Case,
    environment: str,
    approval: Approval,
    epochs: Mapping[str, int],
    steps_body: bytes,
    snapshot_id: str,
    now: int,
    expire: int,
) -> Statement:
    """Return the statement that is signed. steps_body: classes and obligations by step. Times in milliseconds."""
    caller = case.caller
    steps = tuple(
        StepDecision(
            step["id"],
            step["class"],
            tuple(Obligation(owed["type"], owed["properties"]) for owed in step["obligations"]),
        )
        for step in parse_canonical(steps_body)["steps"]
    )
    return build_statement(
        Statement(
            decision_id=case.decision_id,
            purpose=case.purpose,
            outcome=approval.evaluation.outcome,
            reason_codes=approval.evaluation.reason_codes,
            tenant=caller.tenant,
            environment=environment,
            request_id=caller.request_id,
            txn=caller.txn,
            subject=caller.subject,
            agent=caller.agent,
            agent_version=caller.agent_version,
            act=nested_act(caller.chain),
            context=Context(
                person_id=caller.person_id,
                session_id=caller.session_id,
                roles=tuple(sorted(caller.roles)),
                subject_roles=tuple(sorted(caller.subject_roles)),
                constraints=caller.constraints,
            ),
            plan_digest=case.digest,
            card_digest=approval.card_digest,
            snapshot_id=snapshot_id,
            task_id=approval.task_id,
            votes=approval.votes,
            taint=case.taint,
            steps=steps,
            containment=tuple(ScopeEpoch(scope, epoch) for scope, epoch in epochs.items()),
            audience=AUDIENCE,
            issue_time_ms=now,
            expire_time_ms=expire,
        )
    )
