"""Sealed payloads and their keys, rotations of log keys, cosigned checkpoints, requests that need two people.

Payload rows and keys are inserted by the appending role, which can neither change nor remove them. A log is closed by
clearing `open`; a trigger refuses to set it again, so that a closed log has a last checkpoint. The trigger fires only
for statements that name the column, which no append does.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

RUNTIME = "counterseal_audit"


def upgrade() -> None:
    """Make the tables and exactly the rights that the runtime role needs."""
    op.execute("""
        CREATE TABLE ledger_dek (
            dek_id uuid PRIMARY KEY,
            log_id bigint NOT NULL REFERENCES ledger_log,
            subject text NOT NULL,
            wrapped text,
            create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
            destroy_time timestamptz,
            CHECK ((wrapped IS NULL) = (destroy_time IS NOT NULL))
        )""")
    # The planner's statistics are copies of values: of keys and payloads there must be none that outlives them.
    op.execute("ALTER TABLE ledger_dek ALTER COLUMN wrapped SET STATISTICS 0")
    op.execute("CREATE UNIQUE INDEX ledger_dek_live ON ledger_dek (log_id, subject) WHERE destroy_time IS NULL")
    op.execute("""
        CREATE TABLE ledger_payload (
            log_id bigint NOT NULL,
            idx bigint NOT NULL,
            ord smallint NOT NULL,
            due_on date,
            held boolean NOT NULL DEFAULT false,
            dek_id uuid NOT NULL,
            ciphertext bytea NOT NULL,
            PRIMARY KEY (log_id, idx, ord)
        )""")
    op.execute("ALTER TABLE ledger_payload ALTER COLUMN ciphertext SET STATISTICS 0")
    op.execute("CREATE INDEX ledger_payload_due ON ledger_payload (due_on) WHERE due_on IS NOT NULL")
    op.execute("CREATE INDEX ledger_payload_dek ON ledger_payload (dek_id)")
    # A row per `key.rotated` entry of a log, written together with the checkpoint by the older key that covers it.
    op.execute("""
        CREATE TABLE ledger_rotation (
            log_id bigint NOT NULL REFERENCES ledger_log,
            n integer NOT NULL CHECK (n >= 1),
            idx bigint NOT NULL,
            public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
            note bytea NOT NULL,
            publish_time timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (log_id, n)
        )""")
    op.execute("""
        CREATE TABLE admin_request (
            tenant text NOT NULL,
            request_digest text NOT NULL,
            person_id text NOT NULL,
            subject text NOT NULL,
            expire_time timestamptz NOT NULL,
            PRIMARY KEY (tenant, request_digest)
        )""")
    op.execute("ALTER TABLE ledger_checkpoint ADD cosigned bytea, ADD witnessed boolean NOT NULL DEFAULT false")
    for event in ("BEFORE UPDATE OR DELETE", "BEFORE TRUNCATE"):
        each, name = ("STATEMENT", "no_truncate") if "TRUNCATE" in event else ("ROW", "append_only")
        op.execute(
            f"CREATE TRIGGER {name} {event} ON ledger_rotation FOR EACH {each} EXECUTE FUNCTION ledger_append_only()"
        )
    op.execute("""
        CREATE TRIGGER closed_for_ever BEFORE UPDATE OF open ON ledger_head
        FOR EACH ROW WHEN (NEW.open) EXECUTE FUNCTION ledger_append_only()""")
    for table in ("ledger_payload", "ledger_rotation"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY one_log ON {table} FOR SELECT"
            " USING (log_id = NULLIF(current_setting('counterseal.log_id', true), '')::bigint)"
        )
        op.execute(f"CREATE POLICY append ON {table} FOR INSERT WITH CHECK (true)")
    op.execute(f"GRANT SELECT, INSERT ON ledger_dek, ledger_payload, ledger_rotation TO {RUNTIME}")
    op.execute(f"GRANT SELECT, INSERT, DELETE ON admin_request TO {RUNTIME}")
    op.execute(f"GRANT UPDATE (person_id, subject, expire_time) ON admin_request TO {RUNTIME}")
    op.execute(f"GRANT UPDATE (open) ON ledger_head TO {RUNTIME}")


def downgrade() -> None:
    """Refuse: a ledger is not dropped by a tool."""
    raise NotImplementedError("the ledger's tables are never dropped by a migration")
