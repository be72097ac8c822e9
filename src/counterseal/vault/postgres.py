"""The SQL of lending PostgreSQL logins: what setup runs once per tenant, and what Vault runs per login.

Why each statement is as it is: `docs/decisions` and the traps below; each has a test that fails without its guard.
* Vault runs a revocation in one transaction: NOLOGIN is invisible until it commits, so a client that reconnects in a
  loop slips in after the terminate. Only the sweep afterwards makes a login *verified dead*.
* A non-superuser admin needs the login granted to itself, else DROP OWNED fails and the login survives its revocation.
* A login that was dropped by hand must not keep its lease alive for ever: hence the IF EXISTS form.
"""

from dataclasses import dataclass

from counterseal.vault.names import DatabaseRole, Tenant, part

SWEEP_SECONDS = 5


@dataclass(frozen=True, slots=True)
class RoleStatements:
    """What Vault runs to make a login and to end it."""

    creation: tuple[str, ...]
    revocation: tuple[str, ...]
    rollback: tuple[str, ...]


def identifier(name: str) -> str:
    """Quote an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote an SQL string; backslashes mean themselves."""
    return "'" + text.replace("'", "''") + "'"


def setup_statements(tenant: Tenant, database: str, admin_password: str | None) -> list[str]:
    """Return what a cluster's superuser runs once for a tenant whose target is `database`; safe to repeat.

    admin_password: for Vault's own login at the target; None leaves the one it has.
    """
    admin, group, db = identifier(tenant.admin), identifier(tenant.group), identifier(database)
    statements = [
        _ensure_role(tenant.admin, "LOGIN CREATEROLE"),
        _ensure_role(tenant.group, "NOLOGIN"),
        f"REVOKE CONNECT, TEMPORARY ON DATABASE {db} FROM PUBLIC",
        f"GRANT pg_signal_backend TO {admin}",
        f"GRANT CONNECT ON DATABASE {db} TO {admin} WITH GRANT OPTION",
        # As the admin, who must be able to take it back (the fence): a grant can be revoked by its grantor only.
        f"SET ROLE {admin}",
        f"GRANT CONNECT ON DATABASE {db} TO {group}",
        "RESET ROLE",
    ]
    if admin_password is not None:
        statements.insert(1, f"ALTER ROLE {admin} LOGIN CREATEROLE PASSWORD {literal(admin_password)}")
    return statements


def group_statements(role_group: str, tenant: Tenant, privileges: tuple[str, ...]) -> list[str]:
    """Return what makes an action's group and gives it its privileges, such as `SELECT ON TABLE orders`."""
    group = identifier(role_group)
    return [
        _ensure_role(role_group, "NOLOGIN"),
        f"GRANT {identifier(tenant.group)} TO {group}",
        f"GRANT {group} TO {identifier(tenant.admin)} WITH ADMIN OPTION",
        *(f"GRANT {privilege} TO {group}" for privilege in privileges),
    ]


def login_statements(role: DatabaseRole) -> RoleStatements:
    """Return the statements of a role that lends logins."""
    return RoleStatements(
        creation=(
            (
                "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' "
                "CONNECTION LIMIT 4 NOSUPERUSER NOCREATEDB NOCREATEROLE"
            ),
            'GRANT "{{name}}" TO CURRENT_USER',
            f'GRANT {identifier(role.group)} TO "{{{{name}}}}"',
        ),
        revocation=(
            (
                "DO $$ BEGIN IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{{name}}') THEN "
                'ALTER ROLE "{{name}}" NOLOGIN; '
                "PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'; "
                'DROP OWNED BY "{{name}}"; DROP ROLE "{{name}}"; END IF; END $$'
            ),
        ),
        rollback=('DROP ROLE IF EXISTS "{{name}}"',),
    )


def fence_statements(tenant: Tenant, database: str) -> RoleStatements:
    """Return the statements that take CONNECT from every login of a tenant. They end no session: the sweep does."""
    return _run_only(f"REVOKE CONNECT ON DATABASE {identifier(database)} FROM {identifier(tenant.group)}")


def sweep_statements() -> RoleStatements:
    """Return the statements that end every session whose login would be refused now.

    The list of sessions is read first, so that a newer login is never hit. Raises when it ended some: ask again.
    Background processes have no user or database; the prefix `g-` is reserved for our logins in the whole cluster.
    """
    return _run_only(
        "DO $$ DECLARE pids int[]; oids oid[]; dbs oid[]; n int; BEGIN "
        "SELECT array_agg(pid), array_agg(usesysid), array_agg(datid) INTO pids, oids, dbs "
        "FROM pg_stat_activity WHERE usesysid IS NOT NULL AND datid IS NOT NULL; "
        "SELECT count(pg_terminate_backend(u.p, 2000)) INTO n FROM unnest(pids, oids, dbs) u(p, o, d) "
        "LEFT JOIN pg_roles r ON r.oid = u.o "
        "WHERE r.oid IS NULL OR r.rolname LIKE 'g-%' AND (NOT r.rolcanlogin OR r.rolvaliduntil <= now() "
        "OR NOT has_database_privilege(u.o, u.d, 'CONNECT')); "
        "IF n > 0 THEN RAISE EXCEPTION 'counterseal: ended % sessions', n; END IF; END $$"
    )


def janitor_statements() -> RoleStatements:
    """Return the statements that drop logins expired for an hour, which a crash left without a lease."""
    return _run_only(
        "DO $$ DECLARE r name; BEGIN FOR r IN SELECT rolname FROM pg_roles WHERE rolname LIKE 'g-%' "
        "AND rolvaliduntil < now() - interval '1 hour' AND pg_has_role(current_user, oid, 'MEMBER') LOOP "
        "EXECUTE format('DROP OWNED BY %I', r); EXECUTE format('DROP ROLE %I', r); END LOOP; END $$"
    )


def service_login_statements(service: str, admin: str, runtime_role: str) -> list[str]:
    """Return what lets Vault rotate a service's own runtime login (PostgreSQL 16+: ADMIN OPTION)."""
    part(service)
    return [f"GRANT {identifier(runtime_role)} TO {identifier(admin)} WITH ADMIN OPTION, INHERIT FALSE, SET FALSE"]


def _run_only(statement: str) -> RoleStatements:
    """A role that makes no login: reading it runs one statement; its lease's end runs nothing."""
    return RoleStatements(creation=(statement,), revocation=("SELECT 1",), rollback=("SELECT 1",))


def _ensure_role(name: str, options: str) -> str:
    return (
        f"DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = {literal(name)}) THEN "
        f"CREATE ROLE {identifier(name)} {options}; END IF; END $$"
    )
