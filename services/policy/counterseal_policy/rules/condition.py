"""The one door to the CEL engine: compile a text to a condition, evaluate it to TRUE, FALSE or INDETERMINATE.

The engine holds the interpreter lock and knows no timeout, so caps and lints stand before it; its errors are *values*
(truthy texts), so nothing but `is True` and `is False` counts after it. A null result crashes CPython 3.11 after some
5,000 reads of `.value()` (a missing reference count), so the type is looked at first and nulls are never touched.
Inputs are protobuf messages only: a dict's strings are cut at NUL inside the engine. A text that a rule reads and that
is unset would read as its default, so every scalar of the read-set must be present. Source: policy design, section 1.
"""

import enum
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cel_expr_python import cel
from google.protobuf import descriptor_pool
from google.protobuf.message import Message

from counterseal.api.policy.v1 import rule_input_pb2 as pb
from counterseal.canonical import digest_of
from counterseal.errors import InputInvalid
from counterseal_policy.rules.catalogue import INT64_MAX, INT64_MIN, MAX_LIST
from counterseal_policy.rules.expression import Expression, inspect
from counterseal_policy.rules.facts import RuleFacts
from counterseal_policy.rules.forms import MAX_CONDITION

ENGINE = "cel-expr-python/0.1"
MAX_INPUT_BYTES = 64 * 1024

_PACKAGE = "counterseal.api.policy.v1."
_VARIABLES = {
    "subject": "RuleSubject",
    "agent": "RuleAgent",
    "scope": "RuleScope",
    "action": "RuleAction",
    "resource": "RuleResource",
    "plan": "RulePlan",
    "claims": "RuleClaims",
    "request": "RuleRequest",
    "limits": "RuleLimits",
}
VARIABLES = (*_VARIABLES, "now")
_MAPS = ("action.num", "action.text", "action.flag", "action.list", "plan.total", "claims.num", "limits.usage")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Verdict(enum.Enum):
    """Three values, never two: what cannot be evaluated is neither true nor false."""

    TRUE = "TRUE"
    FALSE = "FALSE"
    INDETERMINATE = "INDETERMINATE"


@dataclass(frozen=True, slots=True)
class Result:
    """A verdict; `cause` says what made it indeterminate, without any value of the input."""

    verdict: Verdict
    cause: str = ""


class ConditionProblem(Exception):
    """A text that is no usable condition; `problems` are (code, message)."""

    def __init__(self, problems: tuple[tuple[str, str], ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(message for _, message in problems))


class RuleInput:
    """One step's facts as typed messages, checked once, evaluated many times."""

    def __init__(self, facts: RuleFacts) -> None:
        """Raises InputInvalid for control characters, lone surrogates, integers beyond 64 bits and oversize."""
        self.message = _message(facts)
        if self.message.ByteSize() > MAX_INPUT_BYTES:
            raise InputInvalid(f"the rule input is larger than {MAX_INPUT_BYTES} bytes")
        self.data: dict[str, Message] = {name: getattr(self.message, name) for name in VARIABLES}

    def lacks(self, path: str) -> bool:
        """Tell whether the path names a scalar with presence that is unset: it would read as its default."""
        message: Any = self.message
        for part in path.split("."):
            field = message.DESCRIPTOR.fields_by_name.get(part)
            if field is None or _repeated(field):
                return False
            if not message.HasField(part):
                return True
            if field.message_type is None:
                return False
            message = getattr(message, part)
        return False


class Condition:
    """A compiled, statically boolean expression."""

    __slots__ = ("_compiled", "_scalars", "expression", "text")

    def __init__(self, text: str, compiled: Any, expression: Expression) -> None:
        self.text = text
        self.expression = expression
        self._compiled = compiled
        maps = tuple(f"{name}." for name in _MAPS)
        self._scalars = tuple(sorted(path for path in expression.reads if not path.startswith(maps)))

    def evaluate(self, facts: RuleInput) -> Result:
        """Return the verdict. Never raises: whatever the engine does is a verdict."""
        for path in self._scalars:
            if facts.lacks(path):
                return Result(Verdict.INDETERMINATE, f"{path} is absent")
        return _verdict(self._compiled, facts.data)


class ConditionEngine:
    """Compiles conditions over `RuleInput`; holds no state between evaluations."""

    def __init__(self) -> None:
        types = {name: cel.Type(_PACKAGE + message) for name, message in _VARIABLES.items()}
        self._env = cel.NewEnv(descriptor_pool.Default(), variables={**types, "now": cel.Type.TIMESTAMP})

    def compile(self, text: str) -> Condition:
        """Return the condition. Raises ConditionProblem: not CEL, not boolean, or a banned construct."""
        if len(text) > MAX_CONDITION or _CONTROL.search(text.replace("\n", " ").replace("\t", " ")):
            raise ConditionProblem((("TEXT", f"over {MAX_CONDITION} characters, or control characters"),))
        try:
            compiled = self._env.compile(text)
        except Exception as problem:  # noqa: BLE001 (a foreign parser on foreign text)
            lines = str(problem).removeprefix("INVALID_ARGUMENT: ").splitlines() or ["not compiled"]
            raise ConditionProblem((("COMPILE", lines[0].removeprefix("ERROR: ")[:300]),)) from None
        if compiled.return_type() != cel.Type.BOOL:
            raise ConditionProblem((("NOT_BOOL", f"the condition is {compiled.return_type().name()}, not BOOL"),))
        expression = inspect(compiled.serialize())
        if expression.problems:
            raise ConditionProblem(expression.problems)
        return Condition(text, compiled, expression)


def _verdict(compiled: Any, data: dict[str, Message]) -> Result:
    """Evaluate; the only place that looks into an engine value."""
    try:
        value = compiled.eval(data=data)
        if value.type() != cel.Type.BOOL:
            # An error's text may quote the input; only its first word, the status, is kept.
            return Result(Verdict.INDETERMINATE, _cause(value))
        answer = value.value()
    except Exception as problem:  # noqa: BLE001 (budget, surrogates, whatever the engine raises)
        return Result(Verdict.INDETERMINATE, type(problem).__name__)
    if answer is True:
        return Result(Verdict.TRUE)
    if answer is False:
        return Result(Verdict.FALSE)
    return Result(Verdict.INDETERMINATE, "not a boolean")


def _cause(value: Any) -> str:
    if value.type() != cel.Type.ERROR:
        return "not a boolean"
    text = str(value.value())
    missing = re.search(r'Key not found in map : "([a-z0-9_.]{1,64})"', text)
    return f"{missing[1]} is absent" if missing else text.partition(":")[0][:40]


@lru_cache(maxsize=1)
def input_digest() -> str:
    """Return the digest of RuleInput's shape: names, numbers, types and labels of every field it reaches.

    Part of each snapshot's identity. Protobuf's own bytes are never hashed: they are not canonical.
    """
    shapes: dict[str, Any] = {}
    pending = [pb.RuleInput.DESCRIPTOR]
    while pending:
        descriptor = pending.pop()
        if descriptor.full_name in shapes:
            continue
        fields = sorted(descriptor.fields, key=lambda field: field.number)
        shapes[descriptor.full_name] = [[f.name, f.number, f.type, _repeated(f), f.has_presence] for f in fields]
        pending += [field.message_type for field in fields if field.message_type is not None]
    return digest_of("policy-document", {"rule_input": shapes})


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _message(facts: RuleFacts) -> pb.RuleInput:
    message = pb.RuleInput()
    try:
        _fill(message, facts)
    except (TypeError, ValueError, UnicodeError):
        # protobuf refuses lone surrogates and integers beyond 64 bits
        raise InputInvalid("a fact has a value that no rule can read") from None
    _assert_present(message, facts)
    return message


def _fill(message: pb.RuleInput, facts: RuleFacts) -> None:
    message.subject.id = _text(facts.subject_id)
    message.subject.kind = _text(facts.subject_kind)
    message.subject.roles.extend(_texts(facts.subject_roles))
    message.agent.id = _text(facts.agent_id)
    message.agent.version = _text(facts.agent_version)
    message.agent.owner = _text(facts.agent_owner)
    message.agent.stage = facts.agent_stage
    if facts.agent_model is not None:
        message.agent.model = _text(facts.agent_model)
    message.scope.tenant = _text(facts.tenant)
    message.scope.environment = _text(facts.environment)
    message.scope.freeze = facts.freeze
    tool = message.action.tool
    tool.name, tool.version = _text(facts.tool_name), _text(facts.tool_version)
    tool.effect, tool.reversibility = _text(facts.tool_effect), _text(facts.tool_reversibility)
    tool.compensable = facts.tool_compensable
    if facts.class_level is not None:
        message.action.class_level = facts.class_level
    _fill_facts(message.action, facts)
    if facts.resource_kind is not None:
        message.resource.kind = _text(facts.resource_kind)
    if facts.resource_id is not None:
        message.resource.id = _text(facts.resource_id)
    message.resource.data_classes.extend(_texts(facts.data_classes))
    message.plan.plan_digest = _text(facts.plan_digest)
    message.plan.step_count, message.plan.step_index = facts.step_count, facts.step_index
    if facts.max_class_level is not None:
        message.plan.max_class_level = facts.max_class_level
    for name, total in facts.total.items():
        message.plan.total[_text(name)] = _integer(total)
    message.plan.tools.extend(_texts(facts.tools))
    message.claims.num["confidence_ppm"] = facts.confidence_ppm
    message.claims.unverified.extend(_texts(facts.unverified))
    message.claims.tainted.extend(_texts(facts.tainted))
    message.request.taint = facts.taint
    message.limits.SetInParent()
    for name, usage in facts.usage.items():
        entry = message.limits.usage[_text(name)]
        entry.settled, entry.reserved, entry.max = usage.settled, usage.reserved, usage.max
    message.now.FromMilliseconds(facts.now_ms)


def _fill_facts(action: pb.RuleAction, facts: RuleFacts) -> None:
    for name, number in facts.num.items():
        action.num[_text(name)] = _integer(number)
    for name, text in facts.text.items():
        action.text[_text(name)] = _text(text)
    for name, flag in facts.flag.items():
        action.flag[_text(name)] = flag
    for name, values in facts.list.items():
        action.list[_text(name)].values.extend(_texts(values))


def _assert_present(message: pb.RuleInput, facts: RuleFacts) -> None:
    """Every scalar that is always known must be set: unset ones would read as 0, false and empty text."""
    known = {
        "agent.model": facts.agent_model is not None,
        "resource.kind": facts.resource_kind is not None,
        "resource.id": facts.resource_id is not None,
        "action.class_level": facts.class_level is not None,
        "plan.max_class_level": facts.max_class_level is not None,
    }
    parts = [(name, getattr(message, name)) for name in _VARIABLES] + [("action.tool", message.action.tool)]
    for name, part in parts:
        for field in part.DESCRIPTOR.fields:
            path = f"{name}.{field.name}"
            if not _repeated(field) and known.get(path, True) and not part.HasField(field.name):
                raise InputInvalid(f"{path} is not set")


def _integer(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not INT64_MIN <= value <= INT64_MAX:
        raise InputInvalid("an integer fact is beyond 64 bits")
    return value


def _text(value: str) -> str:
    if _CONTROL.search(value):
        raise InputInvalid("a fact holds control characters")
    return value


def _texts(values: tuple[str, ...]) -> list[str]:
    if len(values) > MAX_LIST:
        raise InputInvalid(f"a list has more than {MAX_LIST} items")
    return [_text(value) for value in values]
