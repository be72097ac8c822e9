"""Vault policies of the services and of grants: exactly what each needs, nothing by template.

Names are explicit: identity templates take a tenant out of alias metadata, which a second login overwrites under
tokens already issued. No service may write policies: who can, grants itself anything.
"""

from collections.abc import Mapping

from counterseal.vault.names import DatabaseRole, Environment

Rules = Mapping[str, tuple[str, ...]]


def grant_policy(role: DatabaseRole) -> str:
    """Return the one policy of a grant's token: to read its credential."""
    return render({role.credential_path: ("read",)})


def service_policies(env: Environment) -> dict[str, Rules]:
    """Return path -> capabilities per service."""
    return {
        "policy": {
            **_common(env, "policy"),
            f"{env.transit}/sign/{env.key('decision')}": ("update",),
            f"{env.transit}/keys/{env.key('decision')}": ("read",),
        },
        "audit": {
            **_common(env, "audit"),
            f"{env.transit}/sign/{env.key('log')}": ("update",),
            f"{env.transit}/keys/{env.key('log')}": ("read",),
            f"{env.transit}/datakey/plaintext/kek--*": ("update",),
            f"{env.transit}/decrypt/kek--*": ("update",),
            f"{env.kv}/data/ledger/*": ("create", "read", "update"),
            f"{env.kv}/metadata/ledger/*": ("read",),
        },
        "executor": _common(env, "executor"),
        "credentials": {**_common(env, "credentials"), **broker_rules(env)},
    }


def broker_rules(env: Environment) -> Rules:
    """Return the broker's rights: it can make and kill grants' tokens and cannot read what they read."""
    tokens, logins = f"auth/token/create/grant--{env.name}--*", f"db/{env.name}/*"
    return {
        tokens: ("create", "update"),
        "auth/token/lookup-accessor": ("update",),
        "auth/token/revoke-accessor": ("update",),
        "sys/leases/lookup": ("update",),
        "sys/leases/revoke": ("update",),
        "sys/leases/count": ("read", "sudo"),
        **{f"db/{env.name}/+/creds/{name}": ("read",) for name in ("sweep", "fence", "janitor")},
        **{f"sys/leases/lookup/{prefix}": ("list", "sudo") for prefix in (tokens, logins)},
        **{f"sys/leases/revoke-prefix/{prefix}": ("update", "sudo") for prefix in (tokens, logins)},
        f"{env.transit}/sign/{env.key('ctx')}": ("update",),
        **{f"{env.transit}/keys/{env.key(use)}": ("read",) for use in ("ctx", "decision", "log")},
    }


def render(rules: Rules) -> str:
    """Return the HCL of a policy, sorted, so that equal rules are equal text."""
    blocks = []
    for path, capabilities in sorted(rules.items()):
        listed = ", ".join(f'"{name}"' for name in capabilities)
        blocks.append(f'path "{path}" {{\n  capabilities = [{listed}]\n}}\n')
    return "\n".join(blocks)


def _common(env: Environment, service: str) -> Rules:
    return {
        "auth/token/renew-self": ("update",),
        "auth/token/lookup-self": ("read",),
        f"{env.pki}/issue/svc-{service}": ("create", "update"),
        f"{env.pki}/issuers": ("list",),
        f"{env.pki}/issuer/+/json": ("read",),
        f"{env.service_databases}/static-creds/{service}": ("read",),
    }
