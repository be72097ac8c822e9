"""Which scope `counterseal kill` and `counterseal lift` mean."""

import argparse

from counterseal.errors import InputInvalid


def add_scope(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a scope; exactly one is given."""
    scope = parser.add_mutually_exclusive_group(required=True)
    scope.add_argument("--scope", help="a scope as it is written, such as tenant:acme")
    scope.add_argument("--environment", action="store_true", help="the whole environment")
    scope.add_argument("--all-of-tenant", action="store_true", help="everything of the tenant")
    scope.add_argument("--agent", help="one agent of the tenant")
    scope.add_argument("--tool", help="one tool of the tenant, by name")
    scope.add_argument("--plan", metavar="DIGEST", help="one plan")
    scope.add_argument("--request", metavar="ID", help="one request of the tenant")


def scope_of(args: argparse.Namespace, environment: str, tenant: str | None) -> str:
    """Return the scope's text; raises InputInvalid when a tenant is needed and none is known."""
    if args.scope:
        return str(args.scope)
    if args.environment:
        return f"environment:{environment}"
    if args.plan:
        return f"plan:{args.plan}"
    if tenant is None:
        raise InputInvalid("no tenant: pass --tenant, or set `tenant` in the profile")
    if args.all_of_tenant:
        return f"tenant:{tenant}"
    kind, value = next((kind, getattr(args, kind)) for kind in ("agent", "tool", "request") if getattr(args, kind))
    return f"{kind}:{tenant}/{value}"
