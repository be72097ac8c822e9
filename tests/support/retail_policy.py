"""The retail policy on policy's own engine, asked as the policy service asks it."""

from collections.abc import Mapping
from typing import Any

from examples.retail.catalogue import CONFIDENCE_PPM, draft, policy_files

from counterseal.documents.tool import ToolDescriptor
from counterseal_policy.decisions.assembler import Request, StepInput
from counterseal_policy.decisions.engine import Question, evaluate
from counterseal_policy.decisions.outcome import Evaluation
from counterseal_policy.rules.compile import Policy, compile_policy, parse_files
from counterseal_policy.rules.condition import ConditionEngine


def retail_policy() -> Policy:
    policy = compile_policy(parse_files(policy_files()), ConditionEngine())
    assert policy.findings == ()
    return policy


def ask(
    policy: Policy,
    tools: Mapping[str, ToolDescriptor],
    name: str,
    args: dict[str, Any],
    observed: Mapping[str, Any],
    user_id: str,
) -> Evaluation:
    """Judge the plan that the runner would make of one call."""
    tool = tools[name]
    undo = draft(tools, name, args).steps[0].undo
    steps = [_step(tool, args, observed, undo=False)]
    if undo is not None:
        assert undo.tool == tools["restore"].reference
        steps.append(_step(tools["restore"], undo.args, None, undo=True))
    request = Request(
        subject=f"user:{user_id}",
        subject_roles=("customer",),
        agent="shop-assistant",
        agent_version="1.0.0",
        agent_owner="user:omar",
        tenant="retail",
        environment="staging",
        constraints={},
        confidence_ppm=CONFIDENCE_PPM,
    )
    return evaluate(Question(policy, request, tuple(steps), "sha256:" + "0" * 64, 1_795_000_000_000, stage=3))


def _step(
    tool: ToolDescriptor, args: Mapping[str, Any], observed: Mapping[str, Any] | None, *, undo: bool
) -> StepInput:
    return StepInput(
        "s1", tool.reference, tool.digest, "shop", args, observed, tool.effect, tool.reversibility, not undo, undo
    )
