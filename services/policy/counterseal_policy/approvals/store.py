"""Approval tasks and votes in PostgreSQL.

The task's row lock comes first, alone in its statement; time is asked for in the next one. `FOR UPDATE` together with
`clock_timestamp()` sees an expired task as live (the select list runs before the wait), and without the lock two last
approvers each count one vote too few and the task is stuck (measured: 55 of 60 rounds).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal.canonical import canonical, parse_canonical
from counterseal.documents.approval import Approval
from counterseal_policy.approvals.engine import Ballot, Basis

LIVE = ("PENDING", "APPROVED")


@dataclass(frozen=True, slots=True)
class Task:
    """One task's row. Times: Unix milliseconds; `expired` and `lapsed` by the database's clock when it was read.

    expired: it waits for votes, or for its use, no longer. lapsed: the time that its approval was given for is over.
    """

    task_id: str
    tenant: str
    plan_digest: str
    card_digest: str
    card: bytes
    decision_id: str
    state: str
    basis: Basis
    request_id: str
    subject: str
    agent: str
    excluded: tuple[str, ...]
    decide_by_ms: int
    valid_for_ms: int
    valid_until_ms: int | None
    summary: str
    create_time_ms: int
    update_time_ms: int
    decision_expire_ms: int | None
    expired: bool
    lapsed: bool


@dataclass(frozen=True, slots=True)
class VoteRow:
    """One vote as readers see it."""

    approver: str
    approved: bool
    digest: str
    create_time_ms: int


def _ms(column: str) -> str:
    return f"(extract(epoch FROM {column}) * 1000)::bigint AS {column}_ms"


_COLUMNS = (
    "task_id::text, tenant, plan_digest, card_digest, card, decision_id::text, state, basis, request_id, subject,"
    f" agent, excluded, {_ms('decide_by')}, valid_for_ms, {_ms('valid_until')}, summary, {_ms('create_time')},"
    f" {_ms('update_time')}, {_ms('decision_expire_time')},"
    " CASE state WHEN 'PENDING' THEN decide_by <= clock_timestamp()"
    " WHEN 'APPROVED' THEN valid_until <= clock_timestamp() ELSE false END AS expired,"
    " coalesce(valid_until <= clock_timestamp(), false) AS lapsed"
)


async def lock(connection: AsyncConnection, task_id: str) -> Task | None:
    """Lock a task's row, then read it by the clock of after the wait. None: no such task of this tenant."""
    found = await connection.scalar(
        sa.text("SELECT state FROM approval_task WHERE task_id = CAST(:id AS uuid) FOR UPDATE"), {"id": task_id}
    )
    return None if found is None else await read(connection, task_id)


async def lock_plan(connection: AsyncConnection, plan_digest: str) -> None:
    """Let one decision at a time look for, or make, the task of a plan."""
    await connection.execute(
        sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
        {"name": f"counterseal.approval:{plan_digest}"},
    )


async def lock_live(connection: AsyncConnection, plan_digest: str) -> Task | None:
    """Lock the plan's live task, if it has one."""
    found = await connection.scalar(
        sa.text(
            "SELECT task_id::text FROM approval_task WHERE plan_digest = :d AND state IN ('PENDING','APPROVED')"
            " FOR UPDATE"
        ),
        {"d": plan_digest},
    )
    return None if found is None else await read(connection, found)


async def read(connection: AsyncConnection, task_id: str) -> Task | None:
    """Read a task."""
    query = sa.text(f"SELECT {_COLUMNS} FROM approval_task WHERE task_id = CAST(:id AS uuid)")
    row = (await connection.execute(query, {"id": task_id})).one_or_none()
    return None if row is None else _task(row)


async def newest(connection: AsyncConnection, plan_digest: str) -> Task | None:
    """Read the plan's newest task, in whatever state."""
    query = sa.text(
        f"SELECT {_COLUMNS} FROM approval_task WHERE plan_digest = :d ORDER BY create_time DESC, task_id DESC LIMIT 1"
    )
    row = (await connection.execute(query, {"d": plan_digest})).one_or_none()
    return None if row is None else _task(row)


async def listed(
    connection: AsyncConnection, tenant: str, state: str | None, before: tuple[int, str] | None, limit: int
) -> list[Task]:
    """Return tasks, newest first, after the position `before` (create_time_ms, task_id)."""
    where = ["tenant = :t"]
    arguments: dict[str, Any] = {"t": tenant, "n": limit}
    if state is not None:
        where.append("state = :s")
        arguments["s"] = state
    if before is not None:
        where.append("((extract(epoch FROM create_time) * 1000)::bigint, task_id) < (:ms, CAST(:id AS uuid))")
        arguments |= {"ms": before[0], "id": before[1]}
    query = (
        f"SELECT {_COLUMNS} FROM approval_task WHERE {' AND '.join(where)}"
        " ORDER BY (extract(epoch FROM create_time) * 1000)::bigint DESC, task_id DESC LIMIT :n"
    )
    return [_task(row) for row in await connection.execute(sa.text(query), arguments)]


async def changed_since(connection: AsyncConnection, tenant: str, since_ms: int, plan_digest: str) -> list[Task]:
    """Return tasks whose row changed at or after a time; for watchers, who take it as a hint."""
    query = (
        f"SELECT {_COLUMNS} FROM approval_task WHERE tenant = :t"
        " AND update_time >= to_timestamp(CAST(:ms AS double precision) / 1000)"
        f"{' AND plan_digest = :d' if plan_digest else ''} ORDER BY update_time LIMIT 200"
    )
    arguments = {"t": tenant, "ms": since_ms, **({"d": plan_digest} if plan_digest else {})}
    return [_task(row) for row in await connection.execute(sa.text(query), arguments)]


async def due(connection: AsyncConnection, limit: int = 100) -> list[Task]:
    """Lock tasks whose time ran out; those that somebody else holds are left for the next round."""
    query = (
        f"SELECT {_COLUMNS} FROM approval_task WHERE (state = 'PENDING' AND decide_by <= clock_timestamp())"
        " OR (state = 'APPROVED' AND valid_until <= clock_timestamp())"
        f" ORDER BY task_id LIMIT {limit} FOR UPDATE SKIP LOCKED"
    )
    return [_task(row) for row in await connection.execute(sa.text(query))]


async def open_tasks(connection: AsyncConnection, tenant: str, agent: str) -> int:
    """Count an agent's pending tasks that are still in time."""
    query = (
        "SELECT count(*) FROM approval_task WHERE tenant = :t AND agent = :a AND state = 'PENDING'"
        " AND decide_by > clock_timestamp()"
    )
    return int(await connection.scalar(sa.text(query), {"t": tenant, "a": agent}) or 0)


async def insert(
    connection: AsyncConnection,
    *,
    task_id: str,
    tenant: str,
    plan_digest: str,
    card: bytes,
    card_digest: str,
    decision_id: str,
    basis: Basis,
    request_id: str,
    subject: str,
    agent: str,
    excluded: Sequence[str],
    decide_within_ms: int,
    valid_for_ms: int,
    summary: str,
) -> int:
    """Store a new PENDING task and return until when votes are taken."""
    query = (
        "INSERT INTO approval_task (task_id, tenant, plan_digest, card_digest, card, decision_id, state, basis,"
        " request_id, subject, agent, excluded, decide_by, valid_for_ms, summary) VALUES (CAST(:task_id AS uuid),"
        " :tenant, :plan_digest, :card_digest, :card, CAST(:decision_id AS uuid), 'PENDING', :basis, :request_id,"
        " :subject, :agent, :excluded, clock_timestamp() + make_interval(secs => CAST(:within AS double precision)"
        f" / 1000), :valid_for_ms, :summary) RETURNING {_ms('decide_by')}"
    )
    row = await connection.execute(
        sa.text(query),
        {
            "task_id": task_id,
            "tenant": tenant,
            "plan_digest": plan_digest,
            "card_digest": card_digest,
            "card": card,
            "decision_id": decision_id,
            "basis": basis.body(),
            "request_id": request_id,
            "subject": subject,
            "agent": agent,
            "excluded": list(excluded),
            "within": decide_within_ms,
            "valid_for_ms": valid_for_ms,
            "summary": summary,
        },
    )
    return int(row.one().decide_by_ms)


async def set_state(
    connection: AsyncConnection, task_id: str, state: str, *, approve_for_ms: int | None = None
) -> None:
    """Move a locked task to another state; `approve_for_ms` starts the approval's own time."""
    until = "clock_timestamp() + make_interval(secs => CAST(:ms AS double precision) / 1000)"
    changes = f", valid_until = {until}" if approve_for_ms is not None else ""
    await connection.execute(
        sa.text(
            f"UPDATE approval_task SET state = :s, update_time = clock_timestamp(){changes}"
            " WHERE task_id = CAST(:id AS uuid)"
        ),
        {"s": state, "id": task_id, **({"ms": approve_for_ms} if approve_for_ms is not None else {})},
    )


async def note_decision(connection: AsyncConnection, task_id: str, expire_time_ms: int) -> None:
    """Remember until when a decision that was issued on the votes may live."""
    await connection.execute(
        sa.text(
            "UPDATE approval_task SET decision_expire_time ="
            " greatest(decision_expire_time, to_timestamp(CAST(:ms AS double precision) / 1000))"
            " WHERE task_id = CAST(:id AS uuid)"
        ),
        {"ms": expire_time_ms, "id": task_id},
    )


async def vote(
    connection: AsyncConnection, *, vote_id: str, tenant: str, approver: str, ballot: Ballot, document: Approval
) -> bool:
    """Store a vote; False when the person has one already. The caller holds the task's lock."""
    stored = await connection.scalar(
        sa.text(
            "INSERT INTO approval_vote (vote_id, task_id, tenant, person_id, approver, roles, approved, digest,"
            " document, epochs, signed) VALUES (CAST(:vote_id AS uuid), CAST(:task_id AS uuid), :tenant, :person,"
            " :approver, :roles, :approved, :digest, :document, :epochs, :signed)"
            " ON CONFLICT (task_id, person_id) WHERE withdraw_time IS NULL DO NOTHING RETURNING vote_id"
        ),
        {
            "vote_id": vote_id,
            "task_id": document.task_id,
            "tenant": tenant,
            "person": ballot.person_id,
            "approver": approver,
            "roles": sorted(ballot.roles),
            "approved": ballot.approved,
            "digest": document.digest,
            "document": document.body,
            "epochs": canonical(dict(ballot.epochs)),
            "signed": ballot.signed,
        },
    )
    return stored is not None


async def withdraw(connection: AsyncConnection, task_id: str, person_id: str) -> bool:
    """Take a person's vote back; False when there is none."""
    found = await connection.scalar(
        sa.text(
            "UPDATE approval_vote SET withdraw_time = clock_timestamp() WHERE task_id = CAST(:id AS uuid)"
            " AND person_id = :p AND withdraw_time IS NULL RETURNING vote_id"
        ),
        {"id": task_id, "p": person_id},
    )
    return found is not None


async def ballots(connection: AsyncConnection, task_id: str) -> list[Ballot]:
    """Return the votes of a task that were not taken back."""
    rows = await connection.execute(
        sa.text(
            "SELECT person_id, roles, approved, signed, digest, epochs FROM approval_vote"
            " WHERE task_id = CAST(:id AS uuid) AND withdraw_time IS NULL ORDER BY create_time, vote_id"
        ),
        {"id": task_id},
    )
    return [
        Ballot(
            row.person_id,
            frozenset(row.roles),
            row.approved,
            row.signed,
            row.digest,
            parse_canonical(bytes(row.epochs)),
        )
        for row in rows
    ]


async def votes(connection: AsyncConnection, task_ids: Sequence[str]) -> dict[str, list[VoteRow]]:
    """Return the standing votes of several tasks as readers see them."""
    rows = await connection.execute(
        sa.text(
            f"SELECT task_id::text, approver, approved, digest, {_ms('create_time')} FROM approval_vote"
            " WHERE task_id = ANY(CAST(:ids AS uuid[])) AND withdraw_time IS NULL ORDER BY create_time, vote_id"
        ),
        {"ids": list(task_ids)},
    )
    found: dict[str, list[VoteRow]] = {}
    for row in rows:
        found.setdefault(row.task_id, []).append(VoteRow(row.approver, row.approved, row.digest, row.create_time_ms))
    return found


def _task(row: Any) -> Task:
    return Task(
        task_id=row.task_id,
        tenant=row.tenant,
        plan_digest=row.plan_digest,
        card_digest=row.card_digest,
        card=bytes(row.card),
        decision_id=row.decision_id,
        state=row.state,
        basis=Basis.read(bytes(row.basis)),
        request_id=row.request_id,
        subject=row.subject,
        agent=row.agent,
        excluded=tuple(row.excluded),
        decide_by_ms=row.decide_by_ms,
        valid_for_ms=row.valid_for_ms,
        valid_until_ms=row.valid_until_ms,
        summary=row.summary,
        create_time_ms=row.create_time_ms,
        update_time_ms=row.update_time_ms,
        decision_expire_ms=row.decision_expire_time_ms,
        expired=bool(row.expired),
        lapsed=bool(row.lapsed),
    )
