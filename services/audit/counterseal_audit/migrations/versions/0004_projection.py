"""The search projection: what the entries say in clear, by field and value, filled by followers under their own role.

`ledger_search` is an inverted index: one row per entry and searchable value. Under row-level security PostgreSQL uses
an index only for operators that are marked leakproof; equality and order of bigint and text are, containment of arrays
is not, so lists (tools, reason codes) are rows like everything else.

The role `counterseal_audit_follower` has no login: the runtime role may become it (`SET LOCAL ROLE`) and inherits
nothing from it. Whoever provisions the database makes the role, as migrations run without the right to make roles.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

RUNTIME = "counterseal_audit"
FOLLOWER = "counterseal_audit_follower"
_THIS_LOG = "log_id = NULLIF(current_setting('counterseal.log_id', true), '')::bigint"


def upgrade() -> None:
    """Make the tables and the follower's rights."""
    op.execute(f"""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{FOLLOWER}') THEN
                RAISE EXCEPTION 'the role {FOLLOWER} is missing'
                    USING HINT = 'as a superuser: CREATE ROLE {FOLLOWER} NOLOGIN; ALTER ROLE {RUNTIME} NOINHERIT;'
                        ' GRANT {FOLLOWER} TO {RUNTIME};';
            END IF;
        END $$""")
    op.execute("""
        CREATE TABLE ledger_search (
            log_id bigint NOT NULL,
            field smallint NOT NULL,
            value text COLLATE "C" NOT NULL,
            idx bigint NOT NULL,
            event_time_ms bigint NOT NULL,
            PRIMARY KEY (log_id, field, value, idx)
        )""")
    # Every entry has exactly one row of field 0, which stands for the entry. No index leads by idx alone: without
    # statistics the planner would walk that one for a rare value and filter the whole log.
    op.execute("CREATE INDEX ledger_search_time ON ledger_search (log_id, event_time_ms) WHERE field = 0")
    op.execute("""
        CREATE TABLE ledger_follower (
            name text NOT NULL,
            log_id bigint NOT NULL REFERENCES ledger_log,
            next_idx bigint NOT NULL,
            PRIMARY KEY (name, log_id)
        ) WITH (fillfactor = 50)""")
    for table in ("ledger_search", "ledger_follower"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY one_log ON {table} USING ({_THIS_LOG}) WITH CHECK ({_THIS_LOG})")
    op.execute(f"GRANT SELECT ON ledger_search, ledger_follower TO {RUNTIME}")
    op.execute(f"GRANT SELECT, INSERT, DELETE ON ledger_search TO {FOLLOWER}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE (next_idx) ON ledger_follower TO {FOLLOWER}")
    op.execute(f"GRANT SELECT ON ledger_entry TO {FOLLOWER}")
    op.execute(f"GRANT SELECT (log_id, size) ON ledger_head TO {FOLLOWER}")


def downgrade() -> None:
    """Drop the projection: all of it can be made again from the entries."""
    op.execute("DROP TABLE ledger_search, ledger_follower")
    op.execute(f"REVOKE SELECT ON ledger_entry FROM {FOLLOWER}")
    op.execute(f"REVOKE SELECT (log_id, size) ON ledger_head FROM {FOLLOWER}")
