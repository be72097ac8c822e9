"""Tools, plans, steps, attempts, commits, events and the barrier.

What is signed or hashed is `bytea` and is never updated: the runtime role has no right to. `event` is what Watch
streams; the entries themselves lie in `outbox`. Tenants are kept apart by row-level security on top of the store's own
conditions: `counterseal.tenant` is set per transaction, and only the service's own loops set `*`.
"""

from alembic import op

from counterseal.rpc.outbox import outbox_ddl

revision = "0001"
down_revision = None

RUNTIME = "counterseal_executor"

TABLES = """
CREATE TABLE tool (
    tenant text NOT NULL, name text NOT NULL, version text NOT NULL, tool_digest text NOT NULL, body bytea NOT NULL,
    registered_by text[] NOT NULL, create_time timestamptz NOT NULL, retire_time timestamptz,
    PRIMARY KEY (tenant, name, version)
);
CREATE TABLE admin_request (
    tenant text NOT NULL, request_digest text NOT NULL, person_id text NOT NULL, expire_time timestamptz NOT NULL,
    PRIMARY KEY (tenant, request_digest)
);
CREATE TABLE plan (
    plan_id uuid PRIMARY KEY, tenant text NOT NULL, plan_digest text NOT NULL UNIQUE, body bytea NOT NULL,
    nonce_digest text NOT NULL, rationale bytea, idempotency_key text NOT NULL, request_digest text NOT NULL,
    subject text NOT NULL, agent text, agent_version text, request_id text NOT NULL, txn text NOT NULL,
    scopes text[] NOT NULL, not_before_time timestamptz, expire_time timestamptz NOT NULL,
    deadline_seconds int NOT NULL, create_time timestamptz NOT NULL,
    state text NOT NULL, reason_code text NOT NULL DEFAULT '', halt_reason text NOT NULL DEFAULT '',
    decision bytea, disclosed bool NOT NULL DEFAULT false,
    seq bigint NOT NULL DEFAULT 0, open_steps int NOT NULL DEFAULT 0, committed_ack bool NOT NULL DEFAULT false,
    cancel_requested bool NOT NULL DEFAULT false, commit_time timestamptz, deadline_time timestamptz,
    end_time timestamptz,
    lease_epoch bigint NOT NULL DEFAULT 0, owner text, lease_until timestamptz, next_try_time timestamptz,
    tries int NOT NULL DEFAULT 0,
    UNIQUE (tenant, idempotency_key)
);
CREATE INDEX plan_by_tenant ON plan (tenant, plan_id DESC);
CREATE INDEX plan_by_request ON plan (tenant, request_id);
CREATE INDEX plan_to_drive ON plan (lease_until)
    WHERE open_steps > 0 OR state IN ('COMMITTED', 'RUNNING', 'COMPENSATING', 'HALTED');
CREATE INDEX plan_to_expire ON plan (expire_time) WHERE state = 'PROPOSED';
CREATE TABLE step (
    plan_id uuid NOT NULL REFERENCES plan, step_id text NOT NULL, position int NOT NULL, tool text NOT NULL,
    tool_digest text NOT NULL, target text NOT NULL, effect text NOT NULL, state text NOT NULL,
    logical_attempt int NOT NULL DEFAULT 1, undo_logical_attempt int NOT NULL DEFAULT 1,
    attempt_count int NOT NULL DEFAULT 0, current_attempt uuid, forward_attempt uuid,
    reason_code text NOT NULL DEFAULT '', error_code text NOT NULL DEFAULT '', output bytea,
    intent_event_id uuid, outcome_event_id uuid,
    PRIMARY KEY (plan_id, step_id)
);
CREATE TABLE attempt (
    attempt_id uuid PRIMARY KEY, plan_id uuid NOT NULL REFERENCES plan, step_id text NOT NULL, n int NOT NULL,
    undo bool NOT NULL, tool_digest text NOT NULL, effect_key text NOT NULL, args bytea NOT NULL,
    intent_event_id uuid NOT NULL, start_time timestamptz NOT NULL, timeout_seconds int NOT NULL,
    grant_id uuid, marker bytea, before_image bytea, result bytea, revoke_time timestamptz,
    UNIQUE (plan_id, step_id, n)
);
CREATE INDEX attempt_to_revoke ON attempt (start_time) WHERE revoke_time IS NULL;
CREATE TABLE commit_use (
    plan_id uuid PRIMARY KEY REFERENCES plan, tenant text NOT NULL, nonce_digest text NOT NULL UNIQUE,
    idempotency_key text NOT NULL, plan_digest text NOT NULL, decision_id text NOT NULL, statement bytea NOT NULL,
    signature bytea NOT NULL, key text NOT NULL, commit_time timestamptz NOT NULL,
    UNIQUE (tenant, idempotency_key)
);
CREATE TABLE event (
    plan_id uuid NOT NULL REFERENCES plan, seq bigint NOT NULL, tenant text NOT NULL, event_id uuid NOT NULL UNIQUE,
    type text NOT NULL, step_id text NOT NULL, event_time_ms bigint NOT NULL, data bytea NOT NULL, state text NOT NULL,
    PRIMARY KEY (plan_id, seq)
);
CREATE TABLE barrier (
    scope text PRIMARY KEY, epoch bigint NOT NULL, stopped bool NOT NULL, reason_code text NOT NULL,
    update_time timestamptz NOT NULL
);
"""

TENANT_TABLES = ("tool", "admin_request", "plan", "commit_use", "event")

PLAN_COLUMNS = """state, reason_code, halt_reason, decision, disclosed, seq, open_steps, committed_ack,
 cancel_requested, commit_time, deadline_time, end_time, lease_epoch, owner, lease_until, next_try_time, tries"""
STEP_COLUMNS = """state, logical_attempt, undo_logical_attempt, attempt_count, current_attempt, forward_attempt,
 reason_code, error_code, output, intent_event_id, outcome_event_id"""

GRANTS = f"""
GRANT USAGE ON SCHEMA public TO {RUNTIME};
GRANT SELECT, INSERT ON tool, admin_request, plan, step, attempt, commit_use, event, barrier TO {RUNTIME};
GRANT DELETE ON admin_request TO {RUNTIME};
GRANT UPDATE (person_id, expire_time) ON admin_request TO {RUNTIME};
GRANT UPDATE (retire_time) ON tool TO {RUNTIME};
GRANT UPDATE ({PLAN_COLUMNS}) ON plan TO {RUNTIME};
GRANT UPDATE ({STEP_COLUMNS}) ON step TO {RUNTIME};
GRANT UPDATE (grant_id, marker, before_image, result, revoke_time) ON attempt TO {RUNTIME};
GRANT UPDATE (epoch, stopped, reason_code, update_time) ON barrier TO {RUNTIME};
"""


def upgrade() -> None:
    """Create everything."""
    for statement in _statements(TABLES):
        op.execute(statement)
    for table in TENANT_TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY by_tenant ON {table} USING (current_setting('counterseal.tenant', true) IN (tenant, '*'))"
        )
    for statement in _statements(GRANTS):
        op.execute(statement)
    for statement in outbox_ddl(RUNTIME):
        op.execute(statement)


def _statements(script: str) -> list[str]:
    return [statement.strip() for statement in script.split(";") if statement.strip()]
