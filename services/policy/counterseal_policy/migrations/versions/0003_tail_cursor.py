"""How far each tenant's log was read for what became of plans."""

from alembic import op

revision = "0003"
down_revision = "0002"

ROLE = "counterseal_policy"


def upgrade() -> None:
    """Make the table."""
    op.execute("CREATE TABLE tail_cursor (tenant text PRIMARY KEY, next_index bigint NOT NULL CHECK (next_index >= 0))")
    op.execute("ALTER TABLE tail_cursor ENABLE ROW LEVEL SECURITY")
    seen = "current_setting('counterseal.tenant', true) IN (tenant, '*')"
    op.execute(f"CREATE POLICY by_tenant ON tail_cursor TO {ROLE} USING ({seen}) WITH CHECK ({seen})")
    op.execute(f"GRANT SELECT, INSERT, UPDATE (next_index) ON tail_cursor TO {ROLE}")
