"""Erasure, retention and holds: who may remove payload, and what is noted while it goes.

Only the role `counterseal_audit_retention` changes payload and data keys. It has no login: the runtime role may become
it for a transaction (`SET LOCAL ROLE`) and inherits nothing from it. Whoever provisions the database makes the role.

A payload is taken only while its data key is live. The check is a trigger because it needs a snapshot of its own: by
then the append holds the head row, so a key that was destroyed under the same lock is seen by every append behind it.
"""

from alembic import op

from counterseal.rpc.outbox import outbox_ddl

revision = "0003"
down_revision = "0002"

RUNTIME = "counterseal_audit"
RETENTION = "counterseal_audit_retention"
_THIS_LOG = "log_id = NULLIF(current_setting('counterseal.log_id', true), '')::bigint"


def upgrade() -> None:
    """Make the tables, the guard, and exactly the rights that each role needs."""
    op.execute(f"""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{RETENTION}') THEN
                RAISE EXCEPTION 'the role {RETENTION} is missing'
                    USING HINT = 'as a superuser: CREATE ROLE {RETENTION} NOLOGIN; ALTER ROLE {RUNTIME} NOINHERIT;'
                        ' GRANT {RETENTION} TO {RUNTIME};';
            END IF;
        END $$""")
    _tables()
    _guards()
    _grants()
    for statement in outbox_ddl(RUNTIME):
        op.execute(statement)


def downgrade() -> None:
    """Refuse: what was ordered must stay known."""
    raise NotImplementedError("orders to erase are never dropped by a migration")


def _tables() -> None:
    op.execute("""
        CREATE TABLE ledger_erasure (
            job_id uuid PRIMARY KEY,
            tenant text NOT NULL,
            person text NOT NULL,
            state text NOT NULL CHECK (state IN ('ORDERED', 'ERASING', 'WAITING', 'SWEEPING', 'FINISHED')),
            event_id uuid NOT NULL,
            report_event_id uuid NOT NULL,
            order_time_ms bigint NOT NULL,
            deks text[] NOT NULL DEFAULT '{}',
            count bigint NOT NULL DEFAULT 0,
            reported text[] NOT NULL DEFAULT '{}',
            finish_time_ms bigint
        )""")
    # One erasure of a person at a time: the same order again is answered with the one that is under way.
    op.execute("CREATE UNIQUE INDEX ledger_erasure_open ON ledger_erasure (tenant, person) WHERE state <> 'FINISHED'")
    op.execute("CREATE INDEX ledger_erasure_newest ON ledger_erasure (tenant, job_id DESC)")
    op.execute("""
        CREATE TABLE ledger_erasure_log (
            job_id uuid NOT NULL REFERENCES ledger_erasure,
            log_id bigint NOT NULL REFERENCES ledger_log,
            next_idx bigint NOT NULL,
            end_idx bigint NOT NULL,
            seen_idx bigint NOT NULL DEFAULT 0,
            PRIMARY KEY (job_id, log_id)
        )""")
    op.execute("""
        CREATE TABLE ledger_hold (
            hold_id uuid PRIMARY KEY,
            tenant text NOT NULL,
            covers text NOT NULL CHECK (covers IN ('person', 'request_id', 'plan_digest')),
            value text NOT NULL,
            place_time_ms bigint NOT NULL,
            lift_time_ms bigint,
            count bigint NOT NULL DEFAULT 0
        )""")
    op.execute(
        "CREATE UNIQUE INDEX ledger_hold_standing ON ledger_hold (tenant, covers, value) WHERE lift_time_ms IS NULL"
    )
    op.execute("CREATE INDEX ledger_hold_newest ON ledger_hold (tenant, hold_id DESC)")
    op.execute("""
        CREATE TABLE ledger_hold_log (
            hold_id uuid NOT NULL REFERENCES ledger_hold,
            log_id bigint NOT NULL REFERENCES ledger_log,
            next_idx bigint NOT NULL,
            PRIMARY KEY (hold_id, log_id)
        )""")
    op.execute("""
        CREATE TABLE ledger_held (
            log_id bigint NOT NULL,
            idx bigint NOT NULL,
            hold_id uuid NOT NULL REFERENCES ledger_hold,
            PRIMARY KEY (log_id, idx, hold_id)
        )""")
    op.execute("CREATE INDEX ledger_held_by ON ledger_held (hold_id)")
    # A sweep that is under way; gone once its entry is in the outbox.
    op.execute("""
        CREATE TABLE ledger_sweep (
            log_id bigint PRIMARY KEY REFERENCES ledger_log,
            due_on date NOT NULL,
            count bigint NOT NULL DEFAULT 0
        )""")


def _guards() -> None:
    op.execute("CREATE INDEX ledger_dek_destroyed ON ledger_dek (destroy_time) WHERE destroy_time IS NOT NULL")
    op.execute("""
        CREATE FUNCTION ledger_key_live() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF EXISTS (
                SELECT 1 FROM added LEFT JOIN ledger_dek k
                    ON k.dek_id = added.dek_id AND k.log_id = added.log_id AND k.destroy_time IS NULL
                WHERE k.dek_id IS NULL
            ) THEN
                RAISE EXCEPTION 'a payload is sealed with a key that is not live' USING ERRCODE = 'CS001';
            END IF;
            RETURN NULL;
        END $$""")
    op.execute("""
        CREATE TRIGGER key_live AFTER INSERT ON ledger_payload REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION ledger_key_live()""")
    # A destroyed key's bytes stay in its page until the page is written anew, and only the owner may do that: CLUSTER
    # rewrites the table, which is small, and gives the old file back.
    op.execute("""
        CREATE FUNCTION ledger_scrub_keys() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, public AS $$
        BEGIN EXECUTE 'CLUSTER public.ledger_dek USING ledger_dek_pkey'; END $$""")
    op.execute("REVOKE ALL ON FUNCTION ledger_scrub_keys() FROM PUBLIC")


def _grants() -> None:
    op.execute(f"CREATE POLICY retention ON ledger_payload TO {RETENTION} USING ({_THIS_LOG}) WITH CHECK ({_THIS_LOG})")
    op.execute(f"GRANT SELECT, DELETE, UPDATE (held) ON ledger_payload TO {RETENTION}")
    op.execute(f"GRANT SELECT, UPDATE (wrapped, destroy_time) ON ledger_dek TO {RETENTION}")
    op.execute(f"GRANT EXECUTE ON FUNCTION ledger_scrub_keys() TO {RETENTION}")
    op.execute(f"GRANT SELECT, INSERT ON ledger_erasure, ledger_erasure_log, ledger_hold, ledger_hold_log TO {RUNTIME}")
    op.execute(f"GRANT UPDATE (state, deks, count, reported, finish_time_ms) ON ledger_erasure TO {RUNTIME}")
    op.execute(f"GRANT UPDATE (next_idx, end_idx, seen_idx) ON ledger_erasure_log TO {RUNTIME}")
    op.execute(f"GRANT UPDATE (lift_time_ms, count) ON ledger_hold TO {RUNTIME}")
    op.execute(f"GRANT UPDATE (next_idx) ON ledger_hold_log TO {RUNTIME}")
    op.execute(f"GRANT SELECT, INSERT, DELETE ON ledger_held TO {RUNTIME}")
    op.execute(f"GRANT SELECT, INSERT, DELETE, UPDATE (count) ON ledger_sweep TO {RUNTIME}")
