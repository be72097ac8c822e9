"""Documents, snapshots, activations, decisions, approvals, containment, two-person requests, outbox."""

from alembic import op

from counterseal.rpc.outbox import outbox_ddl

revision = "0001"
down_revision = None

ROLE = "counterseal_policy"

# Rows of a tenant are visible under that tenant's name only; '*' is what background work of all tenants says.
_BY_TENANT = (
    "policy_document",
    "snapshot",
    "activation",
    "admin_request",
    "decision",
    "approval_task",
    "approval_vote",
)
_STATEMENTS = (
    """CREATE TABLE policy_document (
        tenant text NOT NULL, digest text NOT NULL, kind text NOT NULL, scope text NOT NULL, name text NOT NULL,
        file_name text NOT NULL, source bytea NOT NULL, create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (tenant, digest))""",
    """CREATE TABLE snapshot (
        tenant text NOT NULL, snapshot_id text NOT NULL, documents text[] NOT NULL, scopes text[] NOT NULL,
        published_by text NOT NULL, create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (tenant, snapshot_id))""",
    # The newest row per scope_tenant is active. `_platform` carries the platform's rules for every tenant.
    """CREATE TABLE activation (
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant text NOT NULL, scope_tenant text NOT NULL,
        snapshot_id text NOT NULL, activated_by text[] NOT NULL, bootstrap boolean NOT NULL,
        create_time timestamptz NOT NULL DEFAULT clock_timestamp())""",
    "CREATE INDEX activation_newest ON activation (scope_tenant, seq DESC)",
    """CREATE TABLE admin_request (
        tenant text NOT NULL, request_digest text NOT NULL, person_id text NOT NULL, subject text NOT NULL,
        expire_time timestamptz NOT NULL, PRIMARY KEY (tenant, request_digest))""",
    """CREATE TABLE decision (
        decision_id uuid PRIMARY KEY, tenant text NOT NULL, purpose text NOT NULL, outcome text NOT NULL,
        reason_codes text[] NOT NULL, plan_digest text NOT NULL, request_id text NOT NULL, subject text NOT NULL,
        agent text NOT NULL, snapshot_id text NOT NULL, task_id uuid, event_id uuid NOT NULL,
        class_level int NOT NULL, steps bytea NOT NULL, record bytea NOT NULL, statement bytea,
        create_time timestamptz NOT NULL DEFAULT clock_timestamp())""",
    "CREATE INDEX decision_plan ON decision (tenant, plan_digest, create_time)",
    """CREATE TABLE approval_task (
        task_id uuid PRIMARY KEY, tenant text NOT NULL, plan_digest text NOT NULL, card_digest text NOT NULL,
        card bytea NOT NULL, decision_id uuid NOT NULL, state text NOT NULL, basis bytea NOT NULL,
        request_id text NOT NULL, subject text NOT NULL, agent text NOT NULL, excluded text[] NOT NULL,
        decide_by timestamptz NOT NULL, valid_for_ms bigint NOT NULL, valid_until timestamptz,
        summary text NOT NULL, decision_expire_time timestamptz,
        create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
        update_time timestamptz NOT NULL DEFAULT clock_timestamp(),
        CHECK (state IN ('PENDING','APPROVED','REJECTED','EXPIRED','WITHDRAWN','SUPERSEDED','USED')),
        CHECK (state <> 'APPROVED' OR valid_until IS NOT NULL))""",
    """CREATE UNIQUE INDEX approval_task_live ON approval_task (tenant, plan_digest)
        WHERE state IN ('PENDING','APPROVED')""",
    "CREATE INDEX approval_task_agent ON approval_task (tenant, agent) WHERE state = 'PENDING'",
    "CREATE INDEX approval_task_newest ON approval_task (tenant, create_time DESC, task_id)",
    "CREATE INDEX approval_task_due ON approval_task (decide_by, valid_until) WHERE state IN ('PENDING','APPROVED')",
    """CREATE TABLE approval_vote (
        vote_id uuid PRIMARY KEY, task_id uuid NOT NULL REFERENCES approval_task, tenant text NOT NULL,
        person_id text NOT NULL, approver text NOT NULL, roles text[] NOT NULL, approved boolean NOT NULL,
        digest text NOT NULL, document bytea NOT NULL, epochs bytea NOT NULL, signed boolean NOT NULL,
        create_time timestamptz NOT NULL DEFAULT clock_timestamp(), withdraw_time timestamptz)""",
    "CREATE UNIQUE INDEX approval_vote_once ON approval_vote (task_id, person_id) WHERE withdraw_time IS NULL",
    """CREATE TABLE containment (
        scope text PRIMARY KEY, tenant text NOT NULL, epoch bigint NOT NULL CHECK (epoch > 0), stopped boolean NOT NULL,
        reason_code text NOT NULL, update_time timestamptz NOT NULL DEFAULT clock_timestamp())""",
    f"GRANT SELECT, INSERT ON policy_document, snapshot, activation, decision TO {ROLE}",
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON admin_request TO {ROLE}",
    f"GRANT SELECT, INSERT, UPDATE (state, valid_until, update_time, decision_expire_time) ON approval_task TO {ROLE}",
    f"GRANT SELECT, INSERT, UPDATE (withdraw_time) ON approval_vote TO {ROLE}",
    f"GRANT SELECT, INSERT, UPDATE ON containment TO {ROLE}",
)


def upgrade() -> None:
    """Create everything, and grant the runtime role what it needs and no more."""
    for statement in (*_STATEMENTS, *outbox_ddl(ROLE)):
        op.execute(statement)
    for table in _BY_TENANT:
        also = " OR scope_tenant = '_platform'" if table == "activation" else ""
        seen = f"current_setting('counterseal.tenant', true) IN (tenant, '*'){also}"
        written = "current_setting('counterseal.tenant', true) IN (tenant, '*')"
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY by_tenant ON {table} TO {ROLE} USING ({seen}) WITH CHECK ({written})")
