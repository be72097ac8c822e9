"""Erasing what this service keeps about a person, once the person's plans have ended.

The runtime role cannot change a plan's bytes, arguments or signed statements, so the erasure is a function of the
owner's: it knows which states are ends and takes nothing of a plan that is not in one. What is left of an erased plan
is what a second proposal, commit or restore check has to find: ids, digests, states. Readers no longer see it.
"""

from alembic import op

from counterseal.rpc.erasure import erasure_ddl

revision = "0003"
down_revision = "0002"

RUNTIME = "counterseal_executor"
ENDED = ("SUCCEEDED", "ROLLED_BACK", "FAILED_NO_EFFECT", "REJECTED", "EXPIRED", "WITHDRAWN", "CANCELLED", "RESOLVED")

_ENDED = ", ".join(f"'{state}'" for state in ENDED)
ERASE = f"""
CREATE FUNCTION erase_person(of_tenant text, who text, alias text, until timestamptz,
    OUT erased bigint, OUT live bigint, OUT newer bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE ids uuid[];
BEGIN
    SELECT coalesce(array_agg(p.plan_id), '{{}}') INTO ids FROM plan p
     WHERE p.tenant = of_tenant AND p.subject = who AND p.create_time <= until
       AND p.state IN ({_ENDED}) AND p.open_steps = 0
       AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.plan_id = p.plan_id AND a.grant_id IS NOT NULL
                                                  AND a.revoke_time IS NULL);
    UPDATE attempt SET args = '{{}}', marker = NULL, before_image = NULL, result = NULL WHERE plan_id = ANY(ids);
    UPDATE step SET output = NULL WHERE plan_id = ANY(ids);
    UPDATE event SET data = '{{}}' WHERE plan_id = ANY(ids);
    UPDATE commit_use SET statement = '', signature = '', idempotency_key = 'erased:' || plan_id
     WHERE plan_id = ANY(ids);
    UPDATE plan SET body = '', rationale = NULL, decision = NULL, subject = alias, request_digest = '', txn = '',
                    idempotency_key = 'erased:' || plan_id, erase_time = clock_timestamp()
     WHERE plan_id = ANY(ids);
    UPDATE tool SET registered_by = array_replace(registered_by, who, alias)
     WHERE tenant = of_tenant AND who = ANY(registered_by);
    DELETE FROM admin_request WHERE tenant = of_tenant AND person_id = who;
    erased := cardinality(ids);
    SELECT count(*) FILTER (WHERE create_time <= until), count(*) FILTER (WHERE create_time > until)
      INTO live, newer FROM plan WHERE tenant = of_tenant AND subject = who;
END $$"""


def upgrade() -> None:
    """Make the function, what the follower needs, and hide what was erased from every reader."""
    op.execute("ALTER TABLE plan ADD erase_time timestamptz")
    op.execute("CREATE INDEX plan_by_subject ON plan (tenant, subject)")
    op.execute(
        "ALTER POLICY by_tenant ON plan"
        " USING (current_setting('counterseal.tenant', true) IN (tenant, '*') AND erase_time IS NULL)"
    )
    op.execute(ERASE)
    for statement in erasure_ddl(RUNTIME):
        op.execute(statement)
