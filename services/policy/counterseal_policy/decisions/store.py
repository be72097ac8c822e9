"""Decisions in PostgreSQL: append-only."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal_policy.decisions.outcome import Evaluation


@dataclass(frozen=True, slots=True)
class Committed:
    """The newest COMMIT decision of a plan that said ALLOW: what may be undone."""

    snapshot_id: str
    class_level: int
    steps: bytes
    task_id: str | None


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One decision as it is stored. steps, record, statement: canonical bytes."""

    decision_id: str
    tenant: str
    purpose: str
    plan_digest: str
    request_id: str
    subject: str
    agent: str
    snapshot_id: str
    task_id: str | None
    event_id: str
    steps: bytes
    record: bytes
    statement: bytes | None


async def insert(connection: AsyncConnection, row: DecisionRow, evaluation: Evaluation) -> None:
    """Store a decision."""
    await connection.execute(
        sa.text(
            "INSERT INTO decision (decision_id, tenant, purpose, outcome, reason_codes, plan_digest, request_id,"
            " subject, agent, snapshot_id, task_id, event_id, class_level, steps, record, statement) VALUES"
            " (CAST(:decision_id AS uuid), :tenant, :purpose, :outcome, :reasons, :plan_digest, :request_id, :subject,"
            " :agent, :snapshot_id, CAST(:task_id AS uuid), CAST(:event_id AS uuid), :class_level, :steps, :record,"
            " :statement)"
        ),
        {
            "decision_id": row.decision_id,
            "tenant": row.tenant,
            "purpose": row.purpose,
            "outcome": evaluation.outcome,
            "reasons": list(evaluation.reason_codes),
            "plan_digest": row.plan_digest,
            "request_id": row.request_id,
            "subject": row.subject,
            "agent": row.agent,
            "snapshot_id": row.snapshot_id,
            "task_id": row.task_id,
            "event_id": row.event_id,
            "class_level": evaluation.class_level,
            "steps": row.steps,
            "record": row.record,
            "statement": row.statement,
        },
    )


async def committed(connection: AsyncConnection, tenant: str, plan_digest: str) -> Committed | None:
    """Return the plan's newest COMMIT decision that said ALLOW."""
    row = (
        await connection.execute(
            sa.text(
                "SELECT snapshot_id, class_level, steps, task_id::text FROM decision WHERE tenant = :t"
                " AND plan_digest = :d AND purpose = 'COMMIT' AND outcome = 'ALLOW'"
                " ORDER BY create_time DESC, decision_id DESC LIMIT 1"
            ),
            {"t": tenant, "d": plan_digest},
        )
    ).one_or_none()
    return None if row is None else Committed(row.snapshot_id, row.class_level, bytes(row.steps), row.task_id)
