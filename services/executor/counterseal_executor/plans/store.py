"""Plans at rest: what is asked outside of a change of one plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal.documents.plan import Plan
from counterseal.documents.tool import ToolDescriptor, parse_tool
from counterseal_executor import database as db
from counterseal_executor.plans.readers import (
    ATTEMPT_COLUMNS,
    PLAN_COLUMNS,
    STEP_COLUMNS,
    attempt_row,
    plan_row,
    step_row,
)
from counterseal_executor.plans.rows import AttemptRow, PlanRow, StepRow
from counterseal_executor.states import PLAN_START, STEP_START


@dataclass(frozen=True, slots=True)
class NewPlan:
    """A plan about to be stored."""

    plan: Plan
    nonce_digest: str
    rationale: bytes | None
    idempotency_key: str
    request_digest: str
    txn: str
    scopes: tuple[str, ...]
    create_ms: int
    effects: dict[str, str]
    """Effect class of each step's tool."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event of a plan as Watch shows it. `data` is canonical JSON; `state` the plan's state after it."""

    seq: int
    event_id: str
    type: str
    step_id: str
    event_time_ms: int
    data: bytes
    state: str


@dataclass(frozen=True, slots=True)
class CommitUse:
    """The one commit of a plan, with the decision that covered it."""

    plan_id: str
    idempotency_key: str
    plan_digest: str
    statement: bytes
    signature: bytes
    key: str


async def insert(conn: AsyncConnection, new: NewPlan) -> bool:
    """Store a plan with its steps; returns False when the tenant has used the idempotency key."""
    plan = new.plan
    not_before = plan.content.not_before_time_ms
    stored = await db.run(
        conn,
        "INSERT INTO plan (plan_id, tenant, plan_digest, body, nonce_digest, rationale, idempotency_key,"
        " request_digest, subject, agent, agent_version, request_id, txn, scopes, not_before_time, expire_time,"
        " deadline_seconds, create_time, state) VALUES (:plan_id, :tenant, :plan_digest, :body, :nonce_digest,"
        " :rationale, :idempotency_key, :request_digest, :subject, :agent, :agent_version, :request_id, :txn, :scopes,"
        " :not_before, :expire, :deadline_seconds, :create, :state) ON CONFLICT (tenant, idempotency_key) DO NOTHING",
        plan_id=plan.plan_id,
        tenant=plan.tenant,
        plan_digest=plan.digest,
        body=plan.body,
        nonce_digest=new.nonce_digest,
        rationale=new.rationale,
        idempotency_key=new.idempotency_key,
        request_digest=new.request_digest,
        subject=plan.actor.subject,
        agent=plan.actor.agent,
        agent_version=plan.actor.agent_version,
        request_id=plan.request_id,
        txn=new.txn,
        scopes=list(new.scopes),
        not_before=None if not_before is None else db.time_of(not_before),
        expire=db.time_of(plan.expire_time_ms),
        deadline_seconds=plan.content.deadline_seconds,
        create=db.time_of(new.create_ms),
        state=PLAN_START,
    )
    if not stored:
        return False
    for position, step in enumerate(plan.steps):
        await db.run(
            conn,
            "INSERT INTO step (plan_id, step_id, position, tool, tool_digest, target, effect, state)"
            " VALUES (:plan_id, :step_id, :position, :tool, :tool_digest, :target, :effect, :state)",
            plan_id=plan.plan_id,
            step_id=step.id,
            position=position,
            tool=step.tool,
            tool_digest=step.tool_digest,
            target=step.target,
            effect=new.effects[step.id],
            state=STEP_START,
        )
    return True


async def by_key(conn: AsyncConnection, tenant: str, idempotency_key: str) -> PlanRow | None:
    """Return the plan that was proposed under a key, or None."""
    row = await db.one(
        conn,
        f"SELECT {PLAN_COLUMNS} FROM plan WHERE tenant = :tenant AND idempotency_key = :key",
        tenant=tenant,
        key=idempotency_key,
    )
    return None if row is None else plan_row(row)


async def get(conn: AsyncConnection, tenant: str, plan_id: str) -> PlanRow | None:
    """Return a plan of the tenant by its id or its digest (tenant `*`: any, for our own loops)."""
    column = "plan_digest" if plan_id.startswith("sha256:") else "plan_id::text"
    row = await db.one(
        conn,
        f"SELECT {PLAN_COLUMNS} FROM plan WHERE {column} = :id AND (tenant = :tenant OR :tenant = '*')",
        id=plan_id,
        tenant=tenant,
    )
    return None if row is None else plan_row(row)


async def steps_of(conn: AsyncConnection, plan_id: str) -> list[StepRow]:
    """Return a plan's steps in plan order."""
    found = await db.rows(
        conn, f"SELECT {STEP_COLUMNS} FROM step WHERE plan_id = :plan_id ORDER BY position", plan_id=plan_id
    )
    return [step_row(row) for row in found]


async def page(
    conn: AsyncConnection, tenant: str, *, state: str, subject: str | None, agent: str | None, before: str, most: int
) -> list[PlanRow]:
    """Return plans newest first (ids are time-ordered). subject, agent: only theirs, unless None."""
    found = await db.rows(
        conn,
        f"SELECT {PLAN_COLUMNS} FROM plan WHERE tenant = :tenant AND (:state = '' OR state = :state)"
        " AND (CAST(:subject AS text) IS NULL OR subject = :subject)"
        " AND (CAST(:agent AS text) IS NULL OR agent = :agent)"
        " AND (:before = '' OR plan_id < CAST(NULLIF(:before, '') AS uuid)) ORDER BY plan_id DESC LIMIT :most",
        tenant=tenant,
        state=state,
        subject=subject,
        agent=agent,
        before=before,
        most=most,
    )
    return [plan_row(row) for row in found]


async def events_after(conn: AsyncConnection, plan_id: str, after_seq: int, most: int) -> list[WatchEvent]:
    """Return the plan's events after a sequence number, in order."""
    found = await db.rows(
        conn,
        "SELECT seq, event_id::text, type, step_id, event_time_ms, data, state FROM event"
        " WHERE plan_id = :plan_id AND seq > :after ORDER BY seq LIMIT :most",
        plan_id=plan_id,
        after=after_seq,
        most=most,
    )
    return [WatchEvent(r.seq, r.event_id, r.type, r.step_id, r.event_time_ms, bytes(r.data), r.state) for r in found]


async def ledger_indices(conn: AsyncConnection, event_ids: Sequence[str]) -> dict[str, int]:
    """Return the ledger index of each event that the ledger has acknowledged."""
    found = await db.rows(
        conn,
        "SELECT event_id::text, log_index FROM outbox WHERE event_id = ANY(CAST(:ids AS uuid[]))"
        " AND log_index IS NOT NULL",
        ids=list(event_ids),
    )
    return {row[0]: row[1] for row in found}


async def request_seen(conn: AsyncConnection, tenant: str, request_id: str) -> bool:
    """Tell whether the request has a plan already, so that `request.received` is written once."""
    row = await db.one(
        conn,
        "SELECT 1 FROM plan WHERE tenant = :tenant AND request_id = :request_id LIMIT 1",
        tenant=tenant,
        request_id=request_id,
    )
    return row is not None


async def descriptors(conn: AsyncConnection, tenant: str, references: Sequence[str]) -> dict[str, ToolDescriptor]:
    """Return the live tools among `name@version` references."""
    found = await _tools(conn, tenant, references)
    return {tool.reference: tool for tool, retired in found if not retired}


async def pinned(conn: AsyncConnection, plan: Plan) -> dict[str, tuple[ToolDescriptor, bool]]:
    """Return every tool that the plan names: digest -> (descriptor, retired). A missing one is left out."""
    references = [step.tool for step in plan.steps] + [s.undoable.tool for s in plan.steps if s.undoable is not None]
    found = await _tools(conn, plan.tenant, references)
    return {tool.digest: (tool, retired) for tool, retired in found}


async def commit_of(conn: AsyncConnection, plan_id: str) -> CommitUse | None:
    """Return the plan's commit, or None."""
    return _commit(await db.one(conn, f"SELECT {_COMMIT} FROM commit_use WHERE plan_id = :plan_id", plan_id=plan_id))


async def commit_by_key(conn: AsyncConnection, tenant: str, key: str) -> CommitUse | None:
    """Return the commit that used an idempotency key, or None."""
    sql = f"SELECT {_COMMIT} FROM commit_use WHERE tenant = :tenant AND idempotency_key = :key"
    return _commit(await db.one(conn, sql, tenant=tenant, key=key))


async def attempt(conn: AsyncConnection, attempt_id: str) -> AttemptRow:
    """Return an attempt by its id."""
    row = await db.one(conn, f"SELECT {ATTEMPT_COLUMNS} FROM attempt WHERE attempt_id = :id", id=attempt_id)
    return attempt_row(row)


_COMMIT = "plan_id::text, idempotency_key, plan_digest, statement, signature, key"


def _commit(row: Any) -> CommitUse | None:
    if row is None:
        return None
    return CommitUse(row[0], row[1], row[2], bytes(row[3]), bytes(row[4]), row[5])


async def _tools(conn: AsyncConnection, tenant: str, references: Sequence[str]) -> list[tuple[ToolDescriptor, bool]]:
    found = await db.rows(
        conn,
        "SELECT body, retire_time FROM tool WHERE tenant = :tenant AND name || '@' || version = ANY(:references)",
        tenant=tenant,
        references=sorted(set(references)),
    )
    return [(parse_tool(bytes(row.body)), row.retire_time is not None) for row in found]
