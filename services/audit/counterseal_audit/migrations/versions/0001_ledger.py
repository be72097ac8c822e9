"""The ledger: logs, heads, entries, nodes, checkpoints.

Rows of entries, nodes, checkpoints and logs are never changed: the runtime role has no right to, and triggers refuse it
to everybody else. The triggers are *row* triggers, cloned to every partition: a statement trigger on the parent does
not fire when a partition is addressed directly. TRUNCATE has no row trigger, so each partition gets one of its own.
No partition has a grant: row-level security of the parent would not bind it.
"""

from alembic import op

revision = "0001"
down_revision = None

PARTITIONS = 8
RUNTIME = "counterseal_audit"
APPEND_ONLY = ("ledger_log", "ledger_entry", "ledger_node", "ledger_checkpoint", "ledger_secret")


def upgrade() -> None:
    """Make the tables, the guards, and exactly the rights that the runtime role needs."""
    op.execute("""
        CREATE TABLE ledger_log (
            log_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            tenant text NOT NULL,
            environment text NOT NULL,
            shard integer NOT NULL DEFAULT 0,
            origin text NOT NULL UNIQUE,
            vkey text NOT NULL,
            bucket integer NOT NULL,
            create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
            UNIQUE (tenant, environment, shard)
        )""")
    # The only hot row of a log: half-empty pages keep its updates HOT. `mac` is for the head MAC of a later issue.
    op.execute("""
        CREATE TABLE ledger_head (
            log_id bigint PRIMARY KEY REFERENCES ledger_log,
            open boolean NOT NULL DEFAULT true,
            size bigint NOT NULL,
            frontier bytea NOT NULL,
            root bytea NOT NULL,
            mac bytea
        ) WITH (fillfactor = 50)""")
    op.execute("""
        CREATE TABLE ledger_entry (
            log_id bigint NOT NULL,
            idx bigint NOT NULL,
            event_id uuid NOT NULL,
            req_hash bytea NOT NULL CHECK (octet_length(req_hash) = 32),
            leaf_hash bytea NOT NULL CHECK (octet_length(leaf_hash) = 32),
            entry bytea NOT NULL CHECK (octet_length(entry) <= 16384),
            PRIMARY KEY (log_id, idx),
            UNIQUE (log_id, event_id)
        ) PARTITION BY HASH (log_id)""")
    # A row per full 256-subtree of level 1 and up (C2SP tlog-tiles): what proofs and tiles are made of.
    op.execute("""
        CREATE TABLE ledger_node (
            log_id bigint NOT NULL,
            level smallint NOT NULL,
            n bigint NOT NULL,
            hash bytea NOT NULL CHECK (octet_length(hash) = 32),
            PRIMARY KEY (log_id, level, n)
        )""")
    op.execute("""
        CREATE TABLE ledger_checkpoint (
            log_id bigint NOT NULL REFERENCES ledger_log,
            size bigint NOT NULL,
            root bytea NOT NULL,
            frontier bytea NOT NULL,
            note bytea NOT NULL,
            publish_time timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (log_id, size)
        )""")
    op.execute("""
        CREATE TABLE ledger_bucket (
            bucket integer PRIMARY KEY,
            lease_by text NOT NULL DEFAULT '',
            lease_until timestamptz NOT NULL DEFAULT '-infinity'
        )""")
    op.execute("CREATE TABLE ledger_secret (name text PRIMARY KEY, wrapped text NOT NULL)")
    for number in range(PARTITIONS):
        op.execute(
            f"CREATE TABLE ledger_entry_{number} PARTITION OF ledger_entry"
            f" FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
        )
    _guard_rows()
    _guard_tenants()
    _grant()


def downgrade() -> None:
    """Refuse: a ledger is not dropped by a tool."""
    raise NotImplementedError("the ledger's tables are never dropped by a migration")


def _guard_rows() -> None:
    op.execute("""
        CREATE FUNCTION ledger_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'rows of % are append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
        END $$""")
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION ledger_append_only()"
        )
    partitions = [f"ledger_entry_{number}" for number in range(PARTITIONS)]
    for table in (*APPEND_ONLY, *partitions):
        op.execute(
            f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only()"
        )


def _guard_tenants() -> None:
    """Readers see one log at a time: the one that the transaction named. Appends name the log themselves."""
    for table in ("ledger_entry", "ledger_node", "ledger_checkpoint"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY one_log ON {table} FOR SELECT"
            " USING (log_id = NULLIF(current_setting('counterseal.log_id', true), '')::bigint)"
        )
        op.execute(f"CREATE POLICY append ON {table} FOR INSERT WITH CHECK (true)")


def _grant() -> None:
    op.execute(f"GRANT SELECT, INSERT ON {', '.join(APPEND_ONLY)} TO {RUNTIME}")
    op.execute(f"GRANT SELECT, INSERT ON ledger_head, ledger_bucket TO {RUNTIME}")
    op.execute(f"GRANT UPDATE (size, frontier, root, mac) ON ledger_head TO {RUNTIME}")
    op.execute(f"GRANT UPDATE (lease_by, lease_until) ON ledger_bucket TO {RUNTIME}")
