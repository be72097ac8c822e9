"""The rows of the Exchange table as pure functions: who asks, what they show, what token comes of it.

The actor is always the mTLS peer's registration, never a field. A replacement keeps `txn`, subject, tenant and
context, and narrows scope and life. An agent never holds a token that carries roles.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from counterseal.documents.decision import Statement
from counterseal.documents.plan import Plan
from counterseal.errors import DecisionInvalid, InputInvalid, PeerNotAllowed, TenantMismatch, TokenInvalid
from counterseal.ids import is_id
from counterseal.rpc.txn_token import MAX_ACTORS, TokenClaims
from counterseal_credentials.config import Workload
from counterseal_credentials.tokens.constraints import narrow
from counterseal_credentials.tokens.oidc import Person

LIFE_SECONDS = 300
UNDO_SECONDS = 30 * 24 * 3600
"""How long after a plan's deadline its effects may still be taken back under its own decision."""

_SESSION = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass(frozen=True, slots=True)
class Domain:
    """The token service itself. issuer: its SPIFFE id; audience: `<trust domain>/<environment>`."""

    issuer: str
    audience: str
    environment: str


@dataclass(frozen=True, slots=True)
class Request:
    """What an Exchange asks for, beside its subject token."""

    tenant: str = ""
    request_id: str = ""
    session_id: str = ""
    scopes: tuple[str, ...] = ()
    constraints: Mapping[str, Any] | None = None
    agent_version: str = ""


def for_person(
    domain: Domain, workload: Workload, person: Person, request: Request, txn: str, now_ms: int
) -> TokenClaims:
    """Return the claims for a person's OIDC token shown by an agent (an actor, no roles) or a person's own client.

    Raises PeerNotAllowed for a tenant that is not the workload's, TenantMismatch for one that is not the person's,
    TokenInvalid for a token of another client, InputInvalid.
    """
    _check_tenant(workload, request.tenant)
    if person.tenants is not None and request.tenant not in person.tenants:
        raise TenantMismatch("the person does not belong to this tenant")
    if person.client not in workload.client_ids:
        raise TokenInvalid("the subject token was issued for another client")
    if not is_id(request.request_id):
        raise InputInvalid("request_id must be a UUID in lower-case text", field="request_id")
    if request.session_id and not _SESSION.fullmatch(request.session_id):
        raise InputInvalid("session_id has characters or a length that is not accepted", field="session_id")
    now = now_ms // 1000
    claims = TokenClaims(
        issuer=domain.issuer,
        audience=domain.audience,
        issue_time=now,
        expire_time=min(now + LIFE_SECONDS, person.expire_time),
        txn=txn,
        subject=person.subject,
        requester=workload.spiffe_id,
        tenant=request.tenant,
        environment=domain.environment,
        request_id=request.request_id,
        scope=_scopes(request.scopes, workload.scopes),
        session_id=request.session_id or None,
        person_id=person.person_id,
        constraints=narrow({}, request.constraints or {}),
    )
    if workload.kind == "agent":
        return replace(claims, chain=(_actor(workload, request.agent_version),), subject_roles=person.roles)
    if request.agent_version:
        raise InputInvalid("only an agent has a version", field="agent_version")
    return replace(claims, roles=person.roles, auth_time=person.auth_time)


def for_next_agent(domain: Domain, workload: Workload, old: TokenClaims, request: Request, now_ms: int) -> TokenClaims:
    """Return the claims for a txn-token shown by another agent, which joins the chain as its outermost actor.

    Raises PeerNotAllowed, TokenInvalid when the token carries no agent, the agent is in the chain already, or the
    chain would grow beyond eight; InputInvalid when the request says something else than the token.
    """
    if workload.kind != "agent":
        raise PeerNotAllowed("only an agent can join a chain")
    _check_tenant(workload, old.tenant)
    for name in ("tenant", "request_id", "session_id"):
        said = getattr(request, name)
        if said and said != getattr(old, name):
            raise InputInvalid(f"{name} is not the token's", field=name)
    if not old.chain:
        raise TokenInvalid("a person's own token cannot be handed to an agent")
    if any(link.get("sub") == workload.agent for link in old.chain):
        raise TokenInvalid("the agent is in the chain already")
    if len(old.chain) >= MAX_ACTORS:
        raise TokenInvalid("the chain is too long")
    now = now_ms // 1000
    return replace(
        old,
        issuer=domain.issuer,
        issue_time=now,
        expire_time=min(now + LIFE_SECONDS, old.expire_time),
        requester=workload.spiffe_id,
        scope=_scopes(request.scopes, tuple(scope for scope in workload.scopes if scope in old.scope)),
        chain=(_actor(workload, request.agent_version), *old.chain),
        roles=(),
        auth_time=None,
        constraints=narrow(old.constraints or {}, request.constraints or {}),
    )


def for_continuation(domain: Domain, executor: str, decision: Statement, plan: Plan, now_ms: int) -> TokenClaims:
    """Return the claims for work after the commit, out of a signed decision and the plan bytes that it names.

    Until the deadline in the plan bytes the scope is `plan:<digest>`; then for 30 days `undo:<digest>`. The decision's
    own life does not count, its signature does (the caller has verified it). Raises DecisionInvalid.
    """
    if decision.plan_digest != plan.digest or decision.tenant != plan.tenant:
        raise DecisionInvalid("the decision is about another plan")
    if decision.environment != domain.environment or "credentials" not in decision.audience:
        raise DecisionInvalid("the decision is not meant for this environment's token service")
    if decision.outcome != "ALLOW" or decision.purpose not in ("COMMIT", "COMPENSATE"):
        raise DecisionInvalid("only a decision that allows a commit or a compensation can be continued")
    now = now_ms // 1000
    deadline = plan.expire_time_ms // 1000 + plan.content.deadline_seconds
    if now < deadline:
        scope, end = f"plan:{plan.digest}", deadline
    else:
        scope, end = f"undo:{plan.digest}", deadline + UNDO_SECONDS
    if now >= end:
        raise DecisionInvalid("the plan's deadline is too long ago")
    context = decision.context
    return TokenClaims(
        issuer=domain.issuer,
        audience=domain.audience,
        issue_time=now,
        expire_time=min(now + LIFE_SECONDS, end),
        txn=decision.txn,
        subject=decision.subject,
        requester=executor,
        tenant=decision.tenant,
        environment=domain.environment,
        request_id=decision.request_id,
        scope=(scope,),
        chain=flatten(decision.act),
        session_id=context.session_id,
        roles=context.roles,
        subject_roles=context.subject_roles,
        person_id=context.person_id,
        constraints=dict(context.constraints),
    )


def flatten(act: Mapping[str, Any] | None) -> tuple[Mapping[str, Any], ...]:
    """Return an `act` claim (RFC 8693 section 4.1) as a chain, outermost actor first."""
    chain = []
    while act is not None:
        chain.append({key: value for key, value in act.items() if key != "act"})
        inner = act.get("act")
        act = inner if isinstance(inner, Mapping) else None
    return tuple(chain)


def _actor(workload: Workload, version: str) -> dict[str, str]:
    wanted = version or (workload.versions[0] if len(workload.versions) == 1 else "")
    if wanted not in workload.versions:
        raise InputInvalid("agent_version must be one of the agent's registered versions", field="agent_version")
    return {"sub": workload.agent, "version": wanted, "owner": workload.owner}


def _check_tenant(workload: Workload, tenant: str) -> None:
    if tenant not in workload.tenants:
        raise PeerNotAllowed("the workload is not registered for this tenant")


def _scopes(wanted: Sequence[str], allowed: tuple[str, ...]) -> tuple[str, ...]:
    if not set(wanted) <= set(allowed):
        raise InputInvalid("a scope was asked for that the caller does not have", field="scopes")
    return tuple(sorted(set(wanted or allowed)))
