"""Erasing what this service keeps about a person: facts, cards (their nonce), signed statements, the text of votes.

Asked for once the executor has reported, as what is kept here is needed while the person's plans run. Tasks that wait
for people are left until they end. Ids, outcomes, codes and digests stay: they say nothing without what was erased.
"""

from alembic import op

from counterseal.rpc.erasure import erasure_ddl

revision = "0002"
down_revision = "0001"

ROLE = "counterseal_policy"

ERASE = """
CREATE FUNCTION erase_person(of_tenant text, who text, alias text, until timestamptz,
    OUT erased bigint, OUT live bigint, OUT newer bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE n bigint;
BEGIN
    UPDATE decision SET record = '', statement = NULL, subject = alias
     WHERE tenant = of_tenant AND subject = who AND create_time <= until;
    GET DIAGNOSTICS erased = ROW_COUNT;
    UPDATE approval_vote v SET person_id = alias, approver = alias, document = ''
      FROM approval_task t WHERE t.task_id = v.task_id AND t.state NOT IN ('PENDING', 'APPROVED')
       AND v.tenant = of_tenant AND v.approver = who AND v.create_time <= until;
    GET DIAGNOSTICS n = ROW_COUNT;
    erased := erased + n;
    UPDATE approval_vote v SET document = ''
      FROM approval_task t WHERE t.task_id = v.task_id AND t.state NOT IN ('PENDING', 'APPROVED')
       AND t.tenant = of_tenant AND t.subject = who AND t.create_time <= until;
    UPDATE approval_task SET card = '', summary = '', excluded = '{}', subject = alias
     WHERE tenant = of_tenant AND subject = who AND create_time <= until AND state NOT IN ('PENDING', 'APPROVED');
    GET DIAGNOSTICS n = ROW_COUNT;
    erased := erased + n;
    UPDATE snapshot SET published_by = alias WHERE tenant = of_tenant AND published_by = who;
    UPDATE activation SET activated_by = array_replace(activated_by, who, alias)
     WHERE tenant = of_tenant AND who = ANY(activated_by);
    DELETE FROM admin_request WHERE tenant = of_tenant AND who IN (person_id, subject);
    SELECT count(*) FILTER (WHERE d.create_time <= until), count(*) FILTER (WHERE d.create_time > until)
      INTO live, newer FROM (
        SELECT create_time FROM decision WHERE tenant = of_tenant AND subject = who
        UNION ALL SELECT create_time FROM approval_task WHERE tenant = of_tenant AND subject = who
        UNION ALL SELECT create_time FROM approval_vote WHERE tenant = of_tenant AND approver = who) d;
END $$"""


def upgrade() -> None:
    """Make the function and what the follower needs."""
    op.execute("CREATE INDEX decision_by_subject ON decision (tenant, subject)")
    op.execute("CREATE INDEX approval_vote_by_approver ON approval_vote (tenant, approver)")
    op.execute(ERASE)
    for statement in erasure_ddl(ROLE):
        op.execute(statement)
