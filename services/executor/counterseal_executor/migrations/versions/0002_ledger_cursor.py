"""How far each tenant's log was compared with this database (I12)."""

from alembic import op

revision = "0002"
down_revision = "0001"

RUNTIME = "counterseal_executor"


def upgrade() -> None:
    """Create the table; a tenant without a row is compared from its log's first entry."""
    op.execute(
        "CREATE TABLE ledger_cursor (tenant text PRIMARY KEY, next_index bigint NOT NULL CHECK (next_index >= 0))"
    )
    op.execute("ALTER TABLE ledger_cursor ENABLE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY by_tenant ON ledger_cursor USING (current_setting('counterseal.tenant', true) IN (tenant, '*'))"
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE (next_index) ON ledger_cursor TO {RUNTIME}")
