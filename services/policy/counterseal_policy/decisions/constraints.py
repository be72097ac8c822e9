"""What the caller of the agent forbade for one request. Checked before any rule; constraints only narrow.

One that is broken, unknown, or lacks the fact it needs violates: CONSTRAINT_VIOLATED.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from counterseal_policy.decisions.assembler import Facts, StepInput, unit_fact
from counterseal_policy.rules.compile import CompiledTool
from counterseal_policy.rules.forms import matches

Steps = Sequence[tuple[StepInput, CompiledTool, Facts]]


def violated(
    constraints: Mapping[str, Any], steps: Steps, environment_kind: str, *, draft: bool = False
) -> tuple[str, ...]:
    """Return the names of the constraints that the plan does not keep, sorted.

    draft: amounts that are read at the target are not known yet; they are judged after the read.
    """
    return tuple(
        name for name in sorted(constraints) if not _kept(name, constraints[name], steps, environment_kind, draft)
    )


def _kept(name: str, value: Any, steps: Steps, environment_kind: str, draft: bool) -> bool:
    if name == "read_only":
        return value is False or (value is True and not any(step.has_effect for step, _, _ in steps))
    if name == "forbid_tools":
        return _texts(value) and not any(
            matches(item, step.tool) or item == step.tool.partition("@")[0] for item in value for step, _, _ in steps
        )
    if name == "forbid_targets":
        return _texts(value) and not any(step.target in value for step, _, _ in steps)
    if name == "no_prod_deletes":
        return value is False or (value is True and (environment_kind != "prod" or _no_deletes(steps)))
    if name == "max_amount_minor":
        return (
            isinstance(value, dict)
            and all(type(most) is int for most in value.values())
            and _within(value, steps, draft)
        )
    return False


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _no_deletes(steps: Steps) -> bool:
    return all(tool.entry.deletes is False for step, tool, _ in steps if step.has_effect)


def _within(most: Mapping[str, Any], steps: Steps, draft: bool) -> bool:
    """Sum what the forward steps move, per unit. An effect whose amount or unit is unknown is over any maximum."""
    sums: dict[str, int] = {}
    for step, tool, facts in steps:
        if not step.has_effect or step.undo:
            continue
        amounts = [(fact, unit_fact(tool, fact)) for fact in tool.entry.facts if fact.kind == "num"]
        money = [(fact, unit) for fact, unit in amounts if unit is not None]
        if not money:
            return False
        observed = {fact.name for fact in tool.entry.facts if fact.observed} if draft else set()
        for fact, unit in money:
            if observed & {fact.name, unit}:
                continue
            if fact.name not in facts.num or unit not in facts.text:
                return False
            sums[facts.text[unit]] = sums.get(facts.text[unit], 0) + abs(facts.num[fact.name])
    return all(unit in most and amount <= most[unit] for unit, amount in sums.items())
