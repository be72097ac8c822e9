#!/bin/sh
# Runs once, inside PostgreSQL's container, when its data directory is new: one database for OpenBao, one per service.
# Two roles per service: the owner runs migrations, the runtime role gets its password from Vault's static role.
set -eu
sql() { psql --set ON_ERROR_STOP=1 --username postgres --no-psqlrc "$@"; }

sql --set password="$(cat /run/files/openbao-password)" <<'SQL'
CREATE ROLE openbao LOGIN PASSWORD :'password';
CREATE DATABASE openbao OWNER openbao;
REVOKE CONNECT, TEMPORARY ON DATABASE openbao FROM PUBLIC;
SQL
for service in policy credentials audit executor; do
  sql --set password="$(cat "/run/files/$service-owner-password")" --set owner="counterseal_${service}_owner" \
    --set name="counterseal_$service" <<'SQL'
CREATE ROLE :"owner" LOGIN PASSWORD :'password';
CREATE ROLE :"name" LOGIN;
CREATE DATABASE :"name" OWNER :"owner";
REVOKE CONNECT, TEMPORARY ON DATABASE :"name" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"name" TO :"name";
SQL
done

# What the runtime role becomes (SET LOCAL ROLE) for one transaction: no login, and nothing of it is inherited.
sql <<'SQL'
CREATE ROLE counterseal_audit_follower NOLOGIN;
CREATE ROLE counterseal_audit_retention NOLOGIN;
ALTER ROLE counterseal_audit NOINHERIT;
GRANT counterseal_audit_follower, counterseal_audit_retention TO counterseal_audit;
SQL
