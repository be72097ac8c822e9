"""Small policies and questions for tests of the policy engine."""

from collections.abc import Mapping
from typing import Any

from counterseal_policy.decisions.assembler import Request, StepInput
from counterseal_policy.decisions.engine import Question
from counterseal_policy.rules.compile import Policy, compile_policy, parse_files
from counterseal_policy.rules.condition import ConditionEngine, RuleInput
from counterseal_policy.rules.facts import RuleFacts

ENGINE = ConditionEngine()
DIGEST = "sha256:" + "ab" * 32
NOW = 1_795_330_000_000

PLATFORM = b"""
apiVersion: counterseal/policy.v1
kind: RuleSet
metadata: {name: floor, scope: platform}
match: {tools: ["*"]}
rules:
  - {id: freeze, effect: DENY, when: "scope.freeze && action.class_level >= 2", reason: {code: CHANGE_FREEZE}}
  - {id: tenants-decide, effect: DELEGATE, when: "action.class_level <= 4"}
"""
SETTINGS = b"""
apiVersion: counterseal/policy.v1
kind: Settings
metadata: {name: demo, scope: platform}
default_stage: 3
"""


def facts(**changes: Any) -> RuleFacts:
    values: dict[str, Any] = {
        "subject_id": "user:ana",
        "subject_kind": "user",
        "subject_roles": ("refund_operator",),
        "agent_id": "refund-bot",
        "agent_version": "3.2.1",
        "agent_owner": "user:olga",
        "agent_stage": 3,
        "agent_model": None,
        "tenant": "acme",
        "environment": "prod",
        "freeze": False,
        "tool_name": "shop.refund",
        "tool_version": "1.0.0",
        "tool_effect": "E1",
        "tool_reversibility": "R2",
        "tool_compensable": True,
        "class_level": 2,
        "plan_digest": DIGEST,
        "step_count": 1,
        "step_index": 0,
        "max_class_level": 2,
        "tools": ("shop.refund@1.0.0",),
        "confidence_ppm": 930_000,
        "unverified": (),
        "tainted": (),
        "taint": False,
        "now_ms": NOW,
    }
    return RuleFacts(**{**values, **changes})


def judge(text: str, **changes: Any) -> str:
    """Compile and evaluate a condition; returns the verdict's name."""
    return ENGINE.compile(text).evaluate(RuleInput(facts(**changes))).verdict.value


def catalogue(
    fact_lines: str = "",
    impact: str = "{reversibility: 2, cost: 0, compliance: 0, customer: 0, breadth: 0}",
    extra: str = "",
    tool: str = "shop.refund@1.0.0",
) -> bytes:
    return f"""
apiVersion: counterseal/policy.v1
kind: ToolCatalogue
metadata: {{name: shop, scope: tenant}}
tools:
  - tool: {tool}
    digest: "{DIGEST}"
    impact: {impact}
    {extra}
    facts: {{{fact_lines}}}
""".encode()


def rule_set(rules: str, *, name: str = "shop", scope: str = "tenant", more: str = "") -> bytes:
    return f"""
apiVersion: counterseal/policy.v1
kind: RuleSet
metadata: {{name: {name}, scope: {scope}}}
match: {{tools: ["shop.*"]}}
{more}
rules:
{rules}
""".encode()


def compiled(*documents: bytes, floor: bytes = PLATFORM, settings: bytes = SETTINGS) -> Policy:
    texts = [(f"file{index}.yaml", text) for index, text in enumerate((floor, settings, *documents)) if text]
    return compile_policy(parse_files(texts), ENGINE)


def step(**changes: Any) -> StepInput:
    values: dict[str, Any] = {
        "id": "s1",
        "tool": "shop.refund@1.0.0",
        "tool_digest": DIGEST,
        "target": "shop",
        "args": {},
        "observed": {},
        "effect": "E1",
        "reversibility": "R2",
        "compensable": False,
    }
    return StepInput(**{**values, **changes})


def request(**changes: Any) -> Request:
    values: dict[str, Any] = {
        "subject": "user:ana",
        "subject_roles": ("refund_operator",),
        "agent": "refund-bot",
        "agent_version": "3.2.1",
        "agent_owner": "user:olga",
        "tenant": "acme",
        "environment": "prod",
        "constraints": {},
        "confidence_ppm": 930_000,
    }
    return Request(**{**values, **changes})


def ask(policy: Policy, *steps: StepInput, asked: Mapping[str, Any] | None = None, **changes: Any) -> Question:
    return Question(
        policy=policy,
        request=request(**(asked or {})),
        steps=steps or (step(),),
        plan_digest=DIGEST,
        now_ms=NOW,
        **changes,
    )
