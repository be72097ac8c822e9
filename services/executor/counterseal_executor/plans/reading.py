"""Reading preconditions: what the target looked like when the plan was made, and whether it still does."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterseal.clock import monotonic_ms
from counterseal.documents.plan import Condition, Step
from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import BreakerOpen, PlanInvalid, PreconditionChanged, ServiceError
from counterseal_executor.connectors.base import (
    TOOL_STATE,
    Call,
    Connector,
    Credential,
    Target,
    TargetError,
    changed_precondition,
)
from counterseal_executor.decisions import Decision
from counterseal_executor.logins import Logins, Need
from counterseal_executor.peers import READ, Broker

READ_SECONDS = 45
"""How long a draft's login is kept for the re-read at the commit; the grant itself ends after 60 s."""
REUSE_MARGIN_MS = 5_000

log = logging.getLogger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None]], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """For whom a target is read: the context that tools see."""

    tenant: str
    context: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class _Kept:
    """Logins that readings of one plan share. readers: how many use them now; the last one gives them back."""

    attempt_id: str
    tenant: str
    until_ms: int
    logins: dict[tuple[str, str], Credential | None]
    readers: int = 0


class Reader:
    """Observes targets through read-only logins; one serves all steps of a draft with the same role and target."""

    def __init__(
        self,
        connectors: Mapping[str, Connector],
        targets: Mapping[str, Target],
        logins: Logins,
        broker: Broker,
        new_id: Callable[[], str],
        spawn: Spawn,
    ) -> None:
        self._connectors = connectors
        self._targets = targets
        self._logins = logins
        self._broker = broker
        self._new_id = new_id
        self._spawn = spawn
        self._kept: dict[str, _Kept] = {}

    def needs_reading(self, steps: Sequence[Step], tools: Mapping[str, ToolDescriptor]) -> list[Step]:
        """Return the steps whose tool names values of its target."""
        return [step for step in steps if TOOL_STATE in tools[step.tool].pre_kinds]

    async def observe(
        self,
        key: str,
        steps: Sequence[Step],
        tools: Mapping[str, ToolDescriptor],
        subject: Subject,
        body: bytes,
        decision: Decision,
        token: str,
    ) -> dict[str, tuple[Condition, ...]]:
        """Return the named values of each step's target as preconditions, in order of their names.

        key: the plan id, under which the logins are kept for a while. body: the draft or plan under the decision.
        Raises PlanInvalid when the target cannot answer these arguments, BreakerOpen when it cannot answer now.
        """
        found: dict[str, tuple[Condition, ...]] = {}
        with self._shared(key, subject.tenant) as kept:
            for step in steps:
                tool = tools[step.tool]
                target = self._targets[step.target]
                role = (tool.credential_role, step.target)
                if role not in kept.logins:
                    need = Need(kept.attempt_id, body, decision, step.id, tool, target, token)
                    kept.logins[role] = await self._logins.read(need, READ_SECONDS + 10)
                call = Call(
                    attempt_id=kept.attempt_id,
                    effect_key="",
                    tool=tool,
                    target=target,
                    args=step.args,
                    pre=(),
                    context=subject.context,
                    before=None,
                    timeout_seconds=min(step.timeout_seconds, READ_SECONDS),
                )
                try:
                    observed = await self._connectors[target.kind].observe(call, kept.logins[role])
                except TargetError as error:
                    raise _unreadable(step, error) from None
                found[step.id] = tuple(
                    Condition(TOOL_STATE, name, value) for name, value in sorted(observed.values.items())
                )
        return found

    @contextlib.contextmanager
    def _shared(self, key: str, tenant: str) -> Iterator[_Kept]:
        """Read with the plan's logins, new ones where those kept are about to end; whoever is last gives them back."""
        kept = self._kept.get(key)
        if kept is None or kept.until_ms < monotonic_ms() + REUSE_MARGIN_MS:
            self.give_back(key)
            kept = _Kept(self._new_id(), tenant, monotonic_ms() + READ_SECONDS * 1000, {})
            self._kept[key] = kept
            self._spawn(self._give_back_later(key, kept))
        kept.readers += 1
        try:
            yield kept
        finally:
            kept.readers -= 1
            if self._kept.get(key) is not kept:  # given back by somebody else meanwhile
                self._end(kept)

    async def check_again(
        self,
        key: str,
        steps: Sequence[Step],
        tools: Mapping[str, ToolDescriptor],
        subject: Subject,
        body: bytes,
        decision: Decision,
        token: str,
    ) -> None:
        """Read the preconditions of these steps again. Raises PreconditionChanged, naming step and value.

        Only the check inside the write is safe; this one spares a commit that is bound to fail.
        """
        for step_id, values in (await self.observe(key, steps, tools, subject, body, decision, token)).items():
            step = next(item for item in steps if item.id == step_id)
            changed = changed_precondition(step.pre, {condition.ref: condition.value for condition in values})
            if changed is not None:
                raise PreconditionChanged(
                    f"step {step_id}: {changed} is no longer as it was when the plan was made",
                    step=step_id,
                    fact=changed,
                )

    def give_back(self, key: str) -> None:
        """End a plan's read-only logins in the background, as soon as nobody reads with them.

        Of many commits of one plan the first to finish must not take the login from under the others: what they would
        read then looks like a fault of the plan.
        """
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._end(kept)

    def _end(self, kept: _Kept) -> None:
        if not kept.readers and any(login is not None for login in kept.logins.values()):
            self._spawn(self._revoke(kept))

    async def close(self) -> None:
        """End every login that is still kept."""
        kept, self._kept = list(self._kept.values()), {}
        await asyncio.gather(*(self._revoke(item) for item in kept))

    async def _give_back_later(self, key: str, kept: _Kept) -> None:
        await asyncio.sleep(READ_SECONDS)
        if self._kept.get(key) is kept:
            self.give_back(key)

    async def _revoke(self, kept: _Kept) -> None:
        try:
            await self._broker.revoke(kept.attempt_id, kept.tenant, "DONE", READ)
        except ServiceError as error:
            log.warning("a read-only grant was not given back; it ends by itself", extra={"reason": error.reason})


def _unreadable(step: Step, error: TargetError) -> ServiceError:
    if error.retryable:
        return BreakerOpen(f"step {step.id}: the target cannot be read now ({error.error_code})", step=step.id)
    where = f"step {step.id}"
    return PlanInvalid(f"{where}: the target cannot be read with these arguments ({error.error_code})", step=step.id)
