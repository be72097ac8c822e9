"""What an evaluation yields: verdicts, requirements, obligations, and outcomes that only ever rise."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from counterseal_policy.decisions.assembler import Facts

ALLOW, REQUIRE_APPROVAL, DENY = "ALLOW", "REQUIRE_APPROVAL", "DENY"
_ORDER = (ALLOW, REQUIRE_APPROVAL, DENY)


def strictest(outcomes: Iterable[str]) -> str:
    """Return the strictest of some outcomes: ALLOW < REQUIRE_APPROVAL < DENY; ALLOW when there are none."""
    return max(outcomes, key=_ORDER.index, default=ALLOW)


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What one candidate rule said. verdict: TRUE, FALSE, INDETERMINATE, or WAITING for observed facts on a draft."""

    name: str
    scope: str
    effect: str
    verdict: str
    cause: str
    shadow: bool


@dataclass(frozen=True, slots=True)
class Requirement:
    """Votes that are needed; each requirement is met on its own. `source`: the rule, gate or floor that demands it.

    reason: the reason code it stands for. Empty roles mean the default role. Times: milliseconds.
    """

    source: str
    reason: str
    need: int
    roles: tuple[str, ...]
    decide_within_ms: int
    valid_for_ms: int


@dataclass(frozen=True, slots=True)
class Owed:
    """An obligation: what the executor must do."""

    type: str
    properties: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepEvaluation:
    """One step's answer. `undo` marks the undo of the step with the same id. `rules` decided; `verdicts` are all."""

    id: str
    tool: str
    undo: bool
    outcome: str
    reason_codes: tuple[str, ...]
    class_level: int
    class_source: str
    stage: int
    verdicts: tuple[RuleVerdict, ...]
    rules: tuple[str, ...]
    requirements: tuple[Requirement, ...]
    obligations: tuple[Owed, ...]
    safer_alternative: str | None
    facts: Facts


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The whole plan's answer: the strictest of its steps."""

    outcome: str
    reason_codes: tuple[str, ...]
    steps: tuple[StepEvaluation, ...]
    class_level: int
    stage: int
    rules: tuple[str, ...]
    requirements: tuple[Requirement, ...]
    obligations: tuple[Owed, ...]
    safer_alternative: str | None
    message: str = ""

    @property
    def denied(self) -> bool:
        """Whether the outcome is DENY."""
        return self.outcome == DENY


def denied(code: str, message: str = "", steps: tuple[StepEvaluation, ...] = ()) -> Evaluation:
    """Return a DENY for one reason; `steps` are kept for the record."""
    return Evaluation(
        outcome=DENY,
        reason_codes=(code,),
        steps=steps,
        class_level=max((step.class_level for step in steps), default=4),
        stage=min((step.stage for step in steps), default=0),
        rules=(),
        requirements=(),
        obligations=(),
        safer_alternative=None,
        message=message,
    )
