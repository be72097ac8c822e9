"""Barrier, grants, attempts, counters, published keys, outbox.

`one_live_effect` is the fence in SQL: no second writing credential for a step before the first is verified dead.
Tenants are kept apart by row-level security on top of the store's own conditions: `counterseal.tenant` is set per
transaction, and only the service's own loops set `*`.
"""

from alembic import op

from counterseal.rpc.outbox import outbox_ddl

revision = "0001"
down_revision = None

RUNTIME = "counterseal_credentials"

TABLES = """
CREATE TABLE barrier (
    scope text PRIMARY KEY, epoch bigint NOT NULL CHECK (epoch >= 0), stopped boolean NOT NULL,
    reason_code text NOT NULL DEFAULT '', update_time_ms bigint NOT NULL,
    credential_count integer NOT NULL DEFAULT 0, counted_epoch bigint NOT NULL DEFAULT 0,
    revoked_epoch bigint NOT NULL DEFAULT 0, revoked_time_ms bigint NOT NULL DEFAULT 0
);
CREATE TABLE signing_key (
    kid text PRIMARY KEY, use text NOT NULL CHECK (use IN ('context', 'decision', 'log')),
    public_key bytea NOT NULL CHECK (length(public_key) = 32),
    state text NOT NULL CHECK (state IN ('active', 'archived', 'compromised')), create_time timestamptz NOT NULL
);
CREATE TABLE attempt (
    tenant text NOT NULL, attempt_id uuid NOT NULL, tombstone_time timestamptz, PRIMARY KEY (tenant, attempt_id)
);
CREATE TABLE live_count (
    tenant text NOT NULL, agent text NOT NULL, n integer NOT NULL CHECK (n >= 0), PRIMARY KEY (tenant, agent)
);
CREATE TABLE grants (
    grant_id uuid PRIMARY KEY, tenant text NOT NULL, idempotency_key text NOT NULL, request_digest text NOT NULL,
    state text NOT NULL CHECK (state IN ('REQUESTED', 'BINDING', 'BOUND', 'REVOKING', 'REVOKED', 'FAILED')),
    purpose text NOT NULL CHECK (purpose IN ('READ', 'WRITE')), attempt_id uuid NOT NULL,
    plan_digest text NOT NULL, step text NOT NULL, tool text NOT NULL, tool_digest text NOT NULL,
    action text NOT NULL, mode text NOT NULL, tier integer NOT NULL, ttl_seconds integer NOT NULL, target text NOT NULL,
    decision_id text NOT NULL, decision_digest text NOT NULL, intent_event_id text,
    request_id text NOT NULL, txn text NOT NULL, subject text NOT NULL, agent text NOT NULL, act jsonb NOT NULL,
    scopes text[] NOT NULL, epochs bigint[] NOT NULL, holder text NOT NULL,
    vault_accessor text, lease_id text, not_after timestamptz NOT NULL,
    create_time timestamptz NOT NULL, bind_time timestamptz, redeem_time timestamptz, revoke_time timestamptz,
    verify_time timestamptz, revoke_reason text,
    tries integer NOT NULL DEFAULT 0, next_try_time timestamptz,
    UNIQUE (tenant, idempotency_key),
    CHECK (state NOT IN ('BOUND', 'REVOKING', 'REVOKED') OR vault_accessor IS NOT NULL),
    CHECK ((state IN ('REVOKED', 'FAILED')) = (verify_time IS NOT NULL)),
    CHECK (purpose = 'READ' OR intent_event_id IS NOT NULL)
);
CREATE UNIQUE INDEX one_live_effect ON grants (tenant, plan_digest, step)
    WHERE purpose = 'WRITE' AND state NOT IN ('REVOKED', 'FAILED');
CREATE INDEX grants_attempt ON grants (tenant, attempt_id);
CREATE INDEX grants_live ON grants (state, not_after) WHERE state NOT IN ('REVOKED', 'FAILED');
CREATE INDEX grants_newest ON grants (tenant, grant_id DESC);
"""

RIGHTS = f"""
GRANT SELECT, INSERT, UPDATE ON barrier, live_count TO {RUNTIME};
GRANT SELECT, INSERT, UPDATE (state) ON signing_key TO {RUNTIME};
GRANT SELECT, INSERT, UPDATE (tombstone_time) ON attempt TO {RUNTIME};
GRANT SELECT, INSERT, UPDATE (state, vault_accessor, lease_id, bind_time, redeem_time, revoke_time, verify_time,
    revoke_reason, tries, next_try_time) ON grants TO {RUNTIME};
"""


def upgrade() -> None:
    """Make everything."""
    for statement in (TABLES + RIGHTS).split(";\n"):
        if statement.strip():
            op.execute(statement)
    for table in ("grants", "attempt", "live_count"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY tenant_only ON {table} "
            "USING (current_setting('counterseal.tenant', true) IN (tenant, '*')) "
            "WITH CHECK (current_setting('counterseal.tenant', true) IN (tenant, '*'))"
        )
    for statement in outbox_ddl(RUNTIME):
        op.execute(statement)
