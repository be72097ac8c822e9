"""All that a rule may know about one step, as plain values. `condition.py` turns them into typed messages."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Usage:
    """What one limit's bucket has used up, and the most it admits."""

    settled: int
    reserved: int
    max: int


@dataclass(frozen=True, slots=True)
class RuleFacts:
    """The values of one `RuleInput`. None and missing keys are absent facts: a rule that reads one is indeterminate.

    class_level and max_class_level are None while the class itself is being computed. now_ms: Unix milliseconds.
    """

    subject_id: str
    subject_kind: str
    subject_roles: tuple[str, ...]
    agent_id: str
    agent_version: str
    agent_owner: str
    agent_stage: int
    agent_model: str | None
    tenant: str
    environment: str
    freeze: bool
    tool_name: str
    tool_version: str
    tool_effect: str
    tool_reversibility: str
    tool_compensable: bool
    class_level: int | None
    plan_digest: str
    step_count: int
    step_index: int
    max_class_level: int | None
    tools: tuple[str, ...]
    confidence_ppm: int
    unverified: tuple[str, ...]
    tainted: tuple[str, ...]
    taint: bool
    now_ms: int
    num: Mapping[str, int] = field(default_factory=dict)
    text: Mapping[str, str] = field(default_factory=dict)
    flag: Mapping[str, bool] = field(default_factory=dict)
    list: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    resource_kind: str | None = None
    resource_id: str | None = None
    data_classes: tuple[str, ...] = ()
    total: Mapping[str, int] = field(default_factory=dict)
    usage: Mapping[str, Usage] = field(default_factory=dict)
