"""What a barrier adopts, and whom a scope concerns. Pure."""

import re
from dataclasses import dataclass

from counterseal.errors import InputInvalid

_SCOPE = re.compile(
    r"environment:[a-z0-9-]{1,12}|tenant:[a-z0-9-]{1,24}|plan:sha256:[0-9a-f]{64}"
    r"|(agent|tool|request):[a-z0-9-]{1,24}/[A-Za-z0-9_.:/-]{1,128}"
)
SYSTEM_TENANT = "_system"


@dataclass(frozen=True, slots=True)
class ScopeState:
    """One scope here: its epoch, whether it is stopped, and why."""

    scope: str
    epoch: int
    stopped: bool
    reason_code: str
    update_ms: int = 0


def check_scope(scope: str) -> None:
    """Refuse text that names no scope. Raises InputInvalid."""
    if not _SCOPE.fullmatch(scope):
        raise InputInvalid("scope must be environment:, tenant:, agent:, tool:, plan: or request:", pointer="/scope")


def tenant_of(scope: str) -> str | None:
    """Return whose log a scope's entries belong to; None for a plan, whose tenant only the plan itself knows."""
    kind, _, rest = scope.partition(":")
    if kind == "environment":
        return SYSTEM_TENANT
    return None if kind == "plan" else rest.partition("/")[0]


def adopt(known: ScopeState | None, told: ScopeState) -> bool:
    """Tell whether `told` replaces what is known: epochs never fall, and at equal epochs *stopped* wins."""
    if known is None or told.epoch > known.epoch:
        return True
    return told.epoch == known.epoch and told.stopped and not known.stopped


def next_stop(known: ScopeState | None, scope: str, epoch: int, reason_code: str) -> ScopeState:
    """Return the state after a direct halt. epoch 0: policy is not there, take the next one."""
    current = known.epoch if known is not None else 0
    if epoch == 0:
        already = known is not None and known.stopped
        epoch = current if already else current + 1
    return ScopeState(scope, max(epoch, current), stopped=True, reason_code=reason_code)
