"""What an environment demands of each action class, whatever the rules say: gates, confidence, stages, freezes.

The defaults are the table of the policy design, section 5. `Settings` may tighten them; outside of prod they may also
lower the confidence minima. An environment nobody classified is treated as prod.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from counterseal_policy.rules.files import Approvers, Freeze, Settings, StageRule, matches

DEFAULT_ROLE = "approver"
DEFAULT_STAGE = 1
"""A new agent version starts at S1: every effect is approved."""
_HOUR_MS = 3_600_000
_NEED = {"prod": {3: 1, 4: 2}, "staging": {3: 1, 4: 1}, "sandbox": {}}
_CONFIDENCE_PPM = {0: 0, 1: 500_000, 2: 700_000, 3: 850_000, 4: 950_000}
_STRICTEST = ("prod", "staging", "sandbox")


@dataclass(frozen=True, slots=True)
class Governance:
    """The merged settings of one environment: the tightest of platform and tenant."""

    kind: str
    gates: tuple[Approvers | None, ...]
    confidence_ppm: tuple[int, ...]
    signed_votes: frozenset[int]
    freezes: tuple[Freeze, ...]
    sandbox_c4: tuple[str, ...]
    stage_rules: tuple[tuple[int | None, tuple[StageRule, ...]], ...]

    def freeze(self, now_ms: int) -> bool:
        """Whether a change freeze is in force."""
        return any(freeze.from_ms <= now_ms < freeze.until_ms for freeze in self.freezes)

    def stage(self, agent: str, version: str, tool: str) -> int:
        """Return the autonomy stage, 0 to 4: the lowest that any settings file gives."""
        stated = (self._stage(item, agent, version, tool) for item in self.stage_rules)
        return min((stage for stage in stated if stage is not None), default=DEFAULT_STAGE)

    def _stage(self, item: tuple[int | None, tuple[StageRule, ...]], agent: str, version: str, tool: str) -> int | None:
        default, rules = item
        hits = [
            rule.stage
            for rule in rules
            if _glob(rule.agent, agent) and _glob(rule.version, version) and matches(rule.tool, tool)
        ]
        return min(hits) if hits else default


def governance(settings: Sequence[tuple[str, Settings]], environment: str) -> Governance:
    """Merge (scope, settings) for an environment; the order does not matter."""
    kind = _kind(settings, environment)
    values = [item for _, item in settings]
    return Governance(
        kind=kind,
        gates=tuple(_gate(values, kind, level) for level in range(5)),
        confidence_ppm=tuple(_confidence(values, kind, level) for level in range(5)),
        signed_votes=frozenset(level for item in values for level in item.signed_votes),
        freezes=tuple(freeze for item in values for freeze in item.freezes),
        sandbox_c4=tuple(pattern for item in values for pattern in item.sandbox_c4),
        stage_rules=tuple((item.default_stage, item.stages) for item in values),
    )


def _kind(settings: Sequence[tuple[str, Settings]], environment: str) -> str:
    if environment in _STRICTEST:
        return environment
    # A tenant must not call production a sandbox: only the platform classifies environments.
    named = [item.kinds[environment] for scope, item in settings if scope == "platform" and environment in item.kinds]
    return min(named, key=_STRICTEST.index) if named else "prod"


def _gate(settings: Sequence[Settings], kind: str, level: int) -> Approvers | None:
    stated = [item.gates[kind][level] for item in settings if level in item.gates.get(kind, {})]
    need = max([_NEED[kind].get(level, 0), *(gate.need for gate in stated)])
    if need == 0:
        return None
    return Approvers(
        need=need,
        roles=tuple(dict.fromkeys(role for gate in stated for role in gate.roles)),
        decide_within_ms=min([_HOUR_MS, *(gate.decide_within_ms for gate in stated)]),
        valid_for_ms=min([_HOUR_MS, *(gate.valid_for_ms for gate in stated)]),
    )


def _confidence(settings: Sequence[Settings], kind: str, level: int) -> int:
    stated = [item.confidence_ppm[level] for item in settings if level in item.confidence_ppm]
    default = _CONFIDENCE_PPM[level]
    if not stated:
        return default
    return max([default, *stated]) if kind == "prod" else max(stated)


def _glob(pattern: str, text: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == text
