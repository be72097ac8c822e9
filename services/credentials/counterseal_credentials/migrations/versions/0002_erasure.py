"""Erasing what this service keeps about a person: subject, chain and txn of dead grants are blanked."""

from alembic import op

from counterseal.rpc.erasure import erasure_ddl

revision = "0002"
down_revision = "0001"

RUNTIME = "counterseal_credentials"

ERASE = """
CREATE FUNCTION erase_person(of_tenant text, who text, alias text, until timestamptz,
    OUT erased bigint, OUT live bigint, OUT newer bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    UPDATE grants SET subject = alias, act = '{}', txn = ''
     WHERE tenant = of_tenant AND subject = who AND create_time <= until AND state IN ('REVOKED', 'FAILED');
    GET DIAGNOSTICS erased = ROW_COUNT;
    SELECT count(*) FILTER (WHERE create_time <= until), count(*) FILTER (WHERE create_time > until)
      INTO live, newer FROM grants WHERE tenant = of_tenant AND subject = who;
END $$"""


def upgrade() -> None:
    """Make the function and what the follower needs."""
    op.execute("CREATE INDEX grants_by_subject ON grants (tenant, subject)")
    op.execute(ERASE)
    for statement in erasure_ddl(RUNTIME):
        op.execute(statement)
