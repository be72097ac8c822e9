"""Scopes, epochs, and whom a scope concerns. Pure.

Epochs only rise; at equal epochs *stopped* wins, so that a message that comes late or twice can never lift anything.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from counterseal.errors import InputInvalid
from counterseal.identity import Caller

SYSTEM_TENANT = "_system"

_SCOPE = re.compile(
    r"environment:[a-z0-9-]{1,12}|tenant:[a-z0-9-]{1,24}|plan:sha256:[0-9a-f]{64}"
    r"|(agent|tool|request):[a-z0-9-]{1,24}/[A-Za-z0-9_.:/@-]{1,128}"
)


@dataclass(frozen=True, slots=True)
class ScopeState:
    """One scope here: its epoch, whether it is stopped, why, and since when (ms since 1970)."""

    scope: str
    epoch: int
    stopped: bool
    reason_code: str = ""
    update_time_ms: int = 0


def check_scope(scope: str) -> str:
    """Return a scope of a known form. Raises InputInvalid."""
    if not _SCOPE.fullmatch(scope):
        raise InputInvalid("the scope has no form that is known", field="scope")
    return scope


def next_stop(known: ScopeState | None, told: ScopeState) -> ScopeState:
    """Return the state after a direct order to stop. Epoch 0 takes the next one: policy is not there to give it."""
    present = known.epoch if known else 0
    epoch = told.epoch or (present if known and known.stopped else present + 1)
    if known is not None and (epoch < known.epoch or (epoch == known.epoch and known.stopped)):
        # An older order finds a newer state: a stop below a later lift must not be lost, so it stops the later epoch.
        return known if known.stopped else ScopeState(told.scope, known.epoch, True, told.reason_code)
    return ScopeState(told.scope, epoch, True, told.reason_code)


def adopts(known: ScopeState | None, told: ScopeState) -> bool:
    """Tell whether what policy streams changes what is known."""
    if known is None:
        return told.epoch > 0 or told.stopped
    return told.epoch > known.epoch or (told.epoch == known.epoch and told.stopped and not known.stopped)


def tenant_of(scope: str) -> str | None:
    """Return the tenant that a scope names; None for environment and plan scopes."""
    kind, _, rest = scope.partition(":")
    if kind == "tenant":
        return rest
    return rest.partition("/")[0] if kind in ("agent", "tool", "request") else None


def token_scopes(environment: str, tenant: str, agents: Iterable[str], request_id: str) -> tuple[str, ...]:
    """Return the scopes that a token falls under: environment, tenant, request, every agent of its chain."""
    return (
        f"environment:{environment}",
        f"tenant:{tenant}",
        f"request:{tenant}/{request_id}",
        *(f"agent:{tenant}/{agent}" for agent in agents),
    )


def epochs_of(scopes: Iterable[str], states: Mapping[str, ScopeState]) -> dict[str, int]:
    """Return scope -> epoch for a new token; 0 where a scope was never tripped."""
    return {scope: states[scope].epoch if scope in states else 0 for scope in scopes}


def stopped_in(scopes: Iterable[str], states: Mapping[str, ScopeState]) -> str | None:
    """Return the first stopped scope, or None."""
    return next((scope for scope in scopes if scope in states and states[scope].stopped), None)


def outdated(caller: Caller, states: Mapping[str, ScopeState]) -> str | None:
    """Return the scope by which an agent's token is dead: stopped, or newer here than in the token; None if none."""
    if not caller.chain:
        return None  # people must look, and lift
    agents = [str(link.get("sub", "")) for link in caller.chain]
    for scope in token_scopes(caller.environment, caller.tenant, agents, caller.request_id):
        state = states.get(scope)
        if state is not None and (state.stopped or state.epoch > caller.epochs.get(scope, 0)):
            return scope
    return None
