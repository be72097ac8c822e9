"""By what right a worker acts: a signed decision that still lives, and a continuation token that it buys.

No bearer token is stored. The commit's decision is: it can always be exchanged for a token of the same request, under
which policy is asked again when the decision at hand would not outlive the step.
"""

from collections.abc import Sequence
from typing import Any

from counterseal.clock import Clock
from counterseal.documents.decision import parse_statement
from counterseal.documents.plan import Plan
from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import Contained, DecisionInvalid, PolicyChanged
from counterseal_executor.decisions import Decision, Key, check_plan, open_decision
from counterseal_executor.peers import COMMIT, COMPENSATE, Broker, Policy, Token
from counterseal_executor.plans.rows import PlanRow
from counterseal_executor.plans.store import CommitUse

MARGIN_MS = 10_000
TOKEN_MARGIN_MS = 30_000
PURPOSES: dict[str, Any] = {"COMMIT": COMMIT, "COMPENSATE": COMPENSATE}


class Authority:
    """The decisions and tokens of one plan, for one worker."""

    def __init__(
        self,
        policy: Policy,
        broker: Broker,
        key: Key,
        clock: Clock,
        row: PlanRow,
        plan: Plan,
        tools: Sequence[ToolDescriptor],
        commit: CommitUse,
    ) -> None:
        self._policy = policy
        self._broker = broker
        self._key = key
        self._clock = clock
        self._row = row
        self._plan = plan
        self._tools = tools
        self._commit = Decision(parse_statement(commit.statement), commit.signature, commit.key)
        self._decisions: dict[str, Decision] = {"COMMIT": self._commit}
        self._token: Token | None = None

    async def decision(self, purpose: str, seconds: int, *, fresh: bool = False) -> Decision:
        """Return a decision for `COMMIT` or `COMPENSATE` that outlives a step of `seconds` where it can.

        Raises Contained or PolicyChanged when policy no longer allows the plan.
        """
        known = self._decisions.get(purpose)
        needed = seconds * 1000 + MARGIN_MS
        if known is not None and not fresh and known.lives_until(self._clock(), needed):
            return known
        answer = await self._policy.authorize(
            self._row.body,
            self._row.plan_digest,
            PURPOSES[purpose],
            self._tools,
            self._row.rationale,
            await self.token(),
        )
        if answer.outcome != "ALLOW":
            codes = ", ".join(answer.view.reason_codes)
            if "CONTAINED" in answer.view.reason_codes:
                raise Contained("a scope of the plan is stopped")
            raise PolicyChanged(f"policy no longer allows the plan: {codes}", outcome=answer.outcome)
        if answer.signed is None:
            raise DecisionInvalid("policy allowed the plan without signing the decision")
        decision = await open_decision(answer.signed, self._key, self._plan.environment, self._clock)
        check_plan(decision, self._plan, purpose)
        self._decisions[purpose] = decision
        return decision

    async def token(self) -> str:
        """Return a continuation token that lives for a while yet."""
        if self._token is None or self._token.expire_time_ms - self._clock() < TOKEN_MARGIN_MS:
            self._token = await self._broker.continuation(self._commit, self._row.body)
        return self._token.text
