"""Scopes and epochs. Pure.

Epochs only rise, by a lift too; at equal epochs *stopped* wins. Source: architecture, section 8.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from counterseal.errors import InputInvalid

SYSTEM = "_system"
_NAME = r"[A-Za-z0-9_.-]{1,128}"
_SCOPES = {
    "environment": re.compile(r"[a-z0-9-]{1,64}"),
    "tenant": re.compile(_NAME),
    "agent": re.compile(f"{_NAME}/{_NAME}"),
    "tool": re.compile(f"{_NAME}/{_NAME}"),
    "plan": re.compile(r"sha256:[0-9a-f]{64}"),
    "request": re.compile(f"{_NAME}/[A-Za-z0-9_.:-]{{1,128}}"),
}


@dataclass(frozen=True, slots=True)
class State:
    """One scope. `tenant` owns it; the environment's is `_system`. update_time_ms: Unix milliseconds."""

    scope: str
    tenant: str
    epoch: int
    stopped: bool
    reason_code: str
    update_time_ms: int


def owner(scope: str, environment: str, plan_tenant: str | None = None) -> str:
    """Return the tenant that a scope belongs to; `plan_tenant` is that of the plan a plan scope names.

    Raises InputInvalid for anything that is no scope of this environment.
    """
    kind, _, name = scope.partition(":")
    pattern = _SCOPES.get(kind)
    if pattern is None or not pattern.fullmatch(name):
        raise InputInvalid(f"{scope[:80]!r} is not a containment scope")
    if kind == "environment":
        if name != environment:
            raise InputInvalid("that is not this deployment's environment")
        return SYSTEM
    if kind == "plan":
        if plan_tenant is None:
            raise InputInvalid("no plan of yours has that digest")
        return plan_tenant
    return name.partition("/")[0]


def plan_scopes(
    environment: str, tenant: str, agent: str, tools: Iterable[str], plan_digest: str, request_ids: Iterable[str]
) -> tuple[str, ...]:
    """Return every scope that covers a plan. tools: names without version. request_ids: the plan's and the token's."""
    scopes = [f"environment:{environment}", f"tenant:{tenant}"]
    if agent:
        scopes.append(f"agent:{tenant}/{agent}")
    scopes += [f"tool:{tenant}/{tool}" for tool in dict.fromkeys(tools)]
    scopes.append(f"plan:{plan_digest}")
    scopes += [f"request:{tenant}/{request_id}" for request_id in dict.fromkeys(request_ids) if request_id]
    return tuple(scopes)


def newer(theirs: tuple[int, bool], ours: tuple[int, bool] | None) -> bool:
    """Tell whether (epoch, stopped) replaces ours: a higher epoch, or the same one and stopped."""
    return ours is None or theirs[0] > ours[0] or (theirs[0] == ours[0] and theirs[1] and not ours[1])


def rose(now: Mapping[str, int], then: Mapping[str, int]) -> bool:
    """Tell whether any scope was tripped or lifted between two readings."""
    return any(epoch > then.get(scope, 0) for scope, epoch in now.items())
