"""Every event type of the suite as data: who may write it, what it shows in clear, what it seals.

The wire contract (`audit.v1.Event`) has the same types and fields; a test holds the two together. A field that a
producer leaves empty (text, list, message) is absent from the entry; numbers and flags are always there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from counterseal.ledger.fields import (
    DAY,
    DIGEST,
    HEX,
    REASON,
    UUID,
    VKEY,
    WORD,
    Flag,
    Group,
    ListOf,
    Number,
    OneOf,
    Person,
    Text,
    group,
)

SYSTEM_TENANT = "_system"
"""The tenant of an environment's own log: keys, platform policy, environment-wide containment."""

ID = Text(UUID, "a UUID in lower case")
WORDS = Text(WORD, "an identifier (letters, digits, _ . : / -, at most 128)")
DIGESTS = Text(DIGEST, "a digest (sha256: and 64 hex digits)")
CODE = Text(REASON, "a reason code (capitals, digits, _)")
DATE = Text(DAY, "a day (YYYY-MM-DD)")
COUNT = Number()
PPM = Number(1_000_000)
PEOPLE = ListOf(Person())
EFFECT = OneOf(("E0", "E1", "E2", "E3", "E4"))
REVERSIBILITY = OneOf(("R0", "R1", "R2", "R3", "R4"))
STAGE = OneOf(("S0", "S1", "S2", "S3", "S4"))
PURPOSE = OneOf(("PREVIEW", "COMMIT", "COMPENSATE"))
GRANT = OneOf(("READ", "WRITE"))
VERDICT = OneOf(("applied", "not_applied", "not_sent", "unknown"))
TOOL = group(name=WORDS, version=WORDS, digest=DIGESTS)
EXPORT_FORMATS = ("tiles", "jsonl", "csv", "ocsf", "bundle")

EXECUTOR = frozenset({"executor"})
POLICY = frozenset({"policy"})
CREDENTIALS = frozenset({"credentials"})
AUDIT = frozenset({"audit"})
EVERYONE = EXECUTOR | POLICY | CREDENTIALS | AUDIT


@dataclass(frozen=True, slots=True)
class EventType:
    """One type: the services that may write it, its clear fields, the names of its sealed fields.

    `needs` names header fields that an entry of this type must have.
    """

    producers: frozenset[str]
    clear: Group
    sealed: frozenset[str]
    needs: tuple[str, ...] = ()


def _type(producers: frozenset[str], clear: Group, sealed: str = "", needs: str = "") -> EventType:
    return EventType(producers, clear, frozenset(sealed.split()), tuple(needs.split()))


_DECISION = group(
    "reason_codes rules snapshot_id engine stage obligations card_digest constraints_digest",
    decision_id=ID,
    purpose=PURPOSE,
    outcome=OneOf(("ALLOW", "DENY", "REQUIRE_APPROVAL")),
    reason_codes=ListOf(CODE),
    rules=ListOf(WORDS),
    snapshot_id=DIGESTS,
    engine=WORDS,
    class_level=Number(4),
    stage=STAGE,
    obligations=ListOf(WORDS),
    card_digest=DIGESTS,
    approvals_needed=COUNT,
    taint=Flag(),
    constraints_digest=DIGESTS,
)
_DECISION_SEALED = "inputs verdicts card"
_CHANGE = group("cause reason_code", from_state=WORDS, to_state=WORDS, cause=WORDS, reason_code=CODE)
_APPROVAL_SEALED = "comment approver_name approval signature signer_key"
_EVIDENCE = "evidence residual_effects"
_ACTIVATED = group(
    "from_snapshot_id activated_by",
    from_snapshot_id=DIGESTS,
    to_snapshot_id=DIGESTS,
    activated_by=PEOPLE,
    bootstrap=Flag(),
)
_KEY = group(
    "public_key state",
    kind=WORDS,
    name=WORDS,
    version=WORDS,
    public_key=Text(HEX, "lower-case hex"),
    state=OneOf(("active", "archived")),
)
_EXPORT = group(
    format=OneOf(EXPORT_FORMATS),
    origin=WORDS,
    size=COUNT,
    root=Text(HEX, "lower-case hex"),
)
_HOLD = group("changed_by", hold_id=ID, count=COUNT, changed_by=Person())

REGISTRY: Mapping[str, EventType] = {
    "request.received": _type(
        EXECUTOR,
        group(
            "model intent_code constraints_digest",
            model=group("provider id version", provider=WORDS, id=WORDS, version=WORDS),
            intent_code=WORDS,
            constraints_digest=DIGESTS,
        ),
        "user_request intent prompt data_sources constraints model_parameters",
        "request_id",
    ),
    "usage.reported": _type(
        EXECUTOR,
        group(
            "source model currency",
            source=WORDS,
            model=WORDS,
            tokens_in=COUNT,
            tokens_out=COUNT,
            fee_minor=COUNT,
            tool_cost_minor=COUNT,
            currency=WORDS,
        ),
        needs="request_id",
    ),
    "request.completed": _type(
        EXECUTOR, group(outcome=WORDS, safety=OneOf(("safe", "unsafe"))), "final_answer", "request_id"
    ),
    "plan.proposed": _type(
        EXECUTOR,
        group(
            "tools",
            effect=EFFECT,
            reversibility=REVERSIBILITY,
            tools=ListOf(TOOL),
            confidence_ppm=PPM,
            step_count=COUNT,
            unverified_count=COUNT,
            taint=Flag(),
        ),
        "plan objective constraints rationale rejected_alternatives unverified",
        "request_id plan_digest",
    ),
    "plan.decided": _type(POLICY, _DECISION, _DECISION_SEALED, "plan_digest"),
    "call.decided": _type(POLICY, _DECISION, _DECISION_SEALED),
    "approval.requested": _type(
        POLICY,
        group("roles", task_id=ID, card_digest=DIGESTS, need=COUNT, roles=ListOf(WORDS), expire_time_ms=COUNT),
        _APPROVAL_SEALED,
        "plan_digest",
    ),
    "approval.recorded": _type(
        POLICY,
        group(
            "role",
            task_id=ID,
            verdict=OneOf(("approve", "reject")),
            approver=Person(),
            role=WORDS,
            card_digest=DIGESTS,
            approval_digest=DIGESTS,
            count=COUNT,
            need=COUNT,
            expire_time_ms=COUNT,
            signed=Flag(),
        ),
        _APPROVAL_SEALED,
        "plan_digest",
    ),
    "approval.withdrawn": _type(
        POLICY, group("approver cause", task_id=ID, approver=Person(), cause=WORDS), _APPROVAL_SEALED
    ),
    "approval.expired": _type(POLICY, group("cause", task_id=ID, cause=WORDS), _APPROVAL_SEALED),
    "plan.committed": _type(
        EXECUTOR,
        group("snapshot_id approvals", decision_id=ID, snapshot_id=DIGESTS, approvals=ListOf(DIGESTS)),
        needs="plan_digest",
    ),
    "plan.changed": _type(EXECUTOR, _CHANGE, needs="plan_digest"),
    "step.changed": _type(EXECUTOR, _CHANGE, needs="plan_digest step"),
    "token.exchanged": _type(
        CREDENTIALS,
        group(
            "scope",
            grant_type=OneOf(("oidc", "chain", "schedule", "continuation")),
            scope=ListOf(WORDS),
            ttl_seconds=COUNT,
            workload=WORDS,
        ),
    ),
    "credential.granted": _type(
        CREDENTIALS, group(grant_id=ID, attempt_id=ID, purpose=GRANT, role=WORDS, ttl_seconds=COUNT)
    ),
    "credential.denied": _type(
        CREDENTIALS, group("attempt_id role", attempt_id=ID, purpose=GRANT, role=WORDS, reason_code=CODE)
    ),
    "credential.revoked": _type(
        CREDENTIALS,
        group(
            "lease_ref",
            grant_id=ID,
            attempt_id=ID,
            purpose=GRANT,
            role=WORDS,
            lease_ref=WORDS,
            never_redeemed=Flag(),
            verified_dead=Flag(),
            reason_code=CODE,
        ),
    ),
    "step.intent": _type(
        EXECUTOR,
        group(
            "undoes",
            attempt_id=ID,
            tool=WORDS,
            version=WORDS,
            tool_digest=DIGESTS,
            effect=EFFECT,
            target=WORDS,
            deadline_time_ms=COUNT,
            undoes=ID,
        ),
        "args resolved_args_digest input_summary before_image",
        "plan_digest step attempt",
    ),
    "step.outcome": _type(
        EXECUTOR,
        group(
            "reason_code error_code external_id",
            attempt_id=ID,
            outcome=VERDICT,
            reason_code=CODE,
            error_code=WORDS,
            external_id=WORDS,
            cost_minor=COUNT,
            tainted=Flag(),
        ),
        "output_summary error_detail external_id",
        "plan_digest step attempt",
    ),
    "step.verified": _type(
        EXECUTOR,
        group("undoes", attempt_id=ID, verdict=OneOf(("ok", "bad")), undoes=ID),
        _EVIDENCE,
        "plan_digest step",
    ),
    "step.resolved": _type(
        EXECUTOR,
        group(
            "resolver",
            attempt_id=ID,
            verdict=VERDICT,
            method=OneOf(("probe", "never_redeemed", "person")),
            resolver=Person(),
        ),
        _EVIDENCE,
        "plan_digest step",
    ),
    "compensation.started": _type(EXECUTOR, group(cause=WORDS, step_count=COUNT), _EVIDENCE, "plan_digest"),
    "compensation.ended": _type(
        EXECUTOR, group(state=WORDS, compensated_count=COUNT, failed_count=COUNT), _EVIDENCE, "plan_digest"
    ),
    "plan.ended": _type(
        EXECUTOR,
        group(
            "reason_code",
            state=WORDS,
            reason_code=CODE,
            step_count=COUNT,
            applied_count=COUNT,
            compensated_count=COUNT,
            intent_count=COUNT,
            cost_minor=COUNT,
        ),
        _EVIDENCE,
        "plan_digest",
    ),
    "containment.tripped": _type(
        POLICY,
        group("reason_code", scope=WORDS, epoch=COUNT, reason_code=CODE, tripped_by=Person(or_word=True), drill=Flag()),
        "note",
    ),
    "containment.lifted": _type(POLICY, group(scope=WORDS, epoch=COUNT, lifted_by=PEOPLE), "note"),
    "containment.stopped": _type(
        EXECUTOR, group("reason_code", scope=WORDS, epoch=COUNT, reason_code=CODE, drill=Flag()), "note"
    ),
    "containment.quiesced": _type(EXECUTOR, group(scope=WORDS, epoch=COUNT, unknown_count=COUNT, drill=Flag()), "note"),
    "containment.revoked": _type(
        CREDENTIALS,
        group(scope=WORDS, epoch=COUNT, revoked_count=COUNT, credential_count=COUNT, drill=Flag()),
        "note",
    ),
    "policy.published": _type(
        POLICY,
        group("documents published_by", snapshot_id=DIGESTS, documents=ListOf(DIGESTS), published_by=Person()),
        "bundle",
    ),
    "policy.activated": _type(POLICY, _ACTIVATED, "bundle"),
    "policy.rolled_back": _type(POLICY, _ACTIVATED, "bundle"),
    "autonomy.changed": _type(
        POLICY,
        group("cause", agent=WORDS, agent_version=WORDS, tool=WORDS, from_stage=STAGE, to_stage=STAGE, cause=WORDS),
        "evidence",
    ),
    "tool.registered": _type(
        EXECUTOR, group("registered_by", tool=TOOL, registered_by=PEOPLE, bootstrap=Flag()), "descriptor"
    ),
    "tool.retired": _type(EXECUTOR, group("retired_by", tool=TOOL, retired_by=Person()), "descriptor"),
    "call.refused": _type(EVERYONE, group(method=WORDS, peer=WORDS, reason_code=CODE, count=COUNT)),
    "key.rotated": _type(AUDIT | CREDENTIALS, _KEY, "statement"),
    "key.archived": _type(AUDIT | CREDENTIALS, _KEY, "statement"),
    "access.reviewed": _type(CREDENTIALS, group(digest=DIGESTS, reviewer=Person()), "statement"),
    "log.genesis": _type(
        AUDIT,
        group("predecessor", vkey=Text(VKEY, "an Ed25519 verifier key"), predecessor=DIGESTS, shard=COUNT),
    ),
    "log.heartbeat": _type(AUDIT, group("ordered_by", size=COUNT, ordered_by=PEOPLE)),
    "log.frozen": _type(AUDIT, group("ordered_by", reason_code=CODE, ordered_by=PEOPLE)),
    "erasure.ordered": _type(AUDIT, group(job_id=ID, person=Person(), ordered_by=PEOPLE), "statement"),
    "payload.erased": _type(
        EVERYONE, group("deks", job_id=ID, deks=ListOf(WORDS), count=COUNT, policy=WORDS, backup_horizon=DATE)
    ),
    "retention.dropped": _type(AUDIT, group(count=COUNT, due_on=DATE, policy=WORDS)),
    "hold.placed": _type(AUDIT, _HOLD, "statement"),
    "hold.lifted": _type(AUDIT, _HOLD, "statement"),
    "access.disclosed": _type(
        AUDIT,
        group("purpose export", manifest_digest=DIGESTS, purpose=WORDS, count=COUNT, auditor=Person(), export=_EXPORT),
        "statement",
    ),
}
