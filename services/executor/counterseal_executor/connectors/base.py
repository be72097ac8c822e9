"""What a connector is: the one kind of object that touches a target, and the only words in which it answers.

A connector holds no state between calls and decides nothing. `execute` is the only line of the suite that can change
the world; everything else reads. The answers keep three things apart that must never be mixed up:

    Applied    it happened, and here is what came back
    Refused    it did not happen, for sure
    Unknown    nobody can say from here; the executor fences the credential and then asks `probe`

An exception out of `execute` (a cancellation too) counts as Unknown.
Source: the executor's design, sections 5 to 7 and 10.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from counterseal.canonical import JsonObject, canonical
from counterseal.documents.plan import Condition
from counterseal.documents.tool import ToolDescriptor

CONTEXT_KEYS = ("subject", "tenant", "environment", "agent", "request_id")
"""What the executor tells a target about the caller, from the plan's own server fields."""

TOOL_STATE = "tool_state"
"""The kind of precondition that `observe` fills: one named value of the tool's own snapshot."""


@dataclass(frozen=True, slots=True)
class Target:
    """One configured target: `[executor.targets.<alias>]` without `kind`. Holds no secret."""

    alias: str
    kind: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Credential:
    """The short-lived login of one grant. It never appears in a message, a repr or a log."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call as the executor means it.

    `args` are fully resolved. `context` holds CONTEXT_KEYS. `pre` are the plan's preconditions of this step (empty for
    an undo). `before` is the before-image that an earlier `execute` of the same call returned; only `verify` gets one.
    `timeout_seconds` bounds everything `execute` does, from connecting to the answer to COMMIT.
    """

    attempt_id: str
    effect_key: str
    tool: ToolDescriptor
    target: Target
    args: Mapping[str, Any]
    pre: Sequence[Condition]
    context: Mapping[str, Any]
    before: Sequence[Mapping[str, Any]] | None
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is stored of an attempt whose answer was lost. `marker` is None when `before_commit` never returned."""

    attempt_id: str
    effect_key: str
    tool: ToolDescriptor
    target: Target
    marker: Mapping[str, Any] | None
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Observation:
    """Named values of the target before the call; each becomes one `pre[]` entry of kind `tool_state`."""

    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Applied:
    """The effect happened (or the read was done). `output` is what the agent may see after redaction.

    `before` is the before-image, a list of rows. `marker` is what `before_commit` was given, or empty.
    """

    output: JsonObject
    before: Sequence[Mapping[str, Any]]
    marker: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing happened, for sure. `error_code` is stable; the message holds no value, host or secret.

    `retryable`: the same call may succeed later without anybody changing it (a lock, a lost connection).
    """

    error_code: str
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may or may not have happened."""

    message: str


Answer = Applied | Refused | Unknown


class Probe(enum.Enum):
    """What a target says of a lost attempt, asked after its credential is verified dead."""

    APPLIED = "PROBE_APPLIED"
    ABSENT = "PROBE_ABSENT"
    CANNOT_TELL = "CANNOT_TELL"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The read-back: whether the world is as the call meant it, and the values that say so."""

    ok: bool
    evidence: JsonObject


class Fence(Protocol):
    """The executor's last word before an effect becomes durable."""

    async def before_commit(self, marker: Mapping[str, Any]) -> None:
        """Store `marker` durably and check lease, epoch and barrier once more; raise to abort the effect.

        The marker is a JSON object: how to find the effect again, its before-image and its output, so that neither is
        lost with the answer.
        """
        ...


class Connector(Protocol):
    """One way to reach targets. All methods are safe to call concurrently."""

    kind: str

    def check(self, tool: ToolDescriptor) -> None:
        """Refuse a descriptor whose `connector.config` is not complete. Raises InputInvalid with a JSON pointer."""
        ...

    async def observe(self, call: Call, credential: Credential | None) -> Observation:
        """Read the tool's named values. Never writes. Raises TargetError when nothing can be said."""
        ...

    async def execute(self, call: Call, credential: Credential | None, fence: Fence) -> Answer:
        """Do it, checking the preconditions inside the write. The only method with an effect."""
        ...

    async def probe(self, attempt: Attempt, credential: Credential | None) -> Probe:
        """Say whether a lost attempt took effect. Never guesses: in any doubt CANNOT_TELL."""
        ...

    async def verify(self, call: Call, result: JsonObject, credential: Credential | None) -> Verdict:
        """Read the effect back. Raises TargetError when nothing can be said."""
        ...


class TargetError(Exception):
    """A read that gave no answer. The text holds no value, host or secret."""

    def __init__(self, error_code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.message = message
        self.retryable = retryable


class Fenced(Exception):
    """Raised by a fence: this worker may not make the effect durable any more. `error_code` names why."""

    def __init__(self, error_code: str, message: str) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.message = message


def refused_by_fence(error: Exception) -> Refused:
    """Say what a fence's refusal means: the effect was rolled back, so it did not happen."""
    if isinstance(error, Fenced):
        return Refused(error.error_code, error.message)
    return Refused("FENCED", "the executor could not record the attempt before the effect", retryable=True)


def context_of(call: Call, before: Any = None, result: Any = None) -> JsonObject:
    """Return the context object that target code sees; what is not known at that moment is null."""
    document: JsonObject = {key: call.context.get(key) for key in CONTEXT_KEYS}
    return document | {
        "attempt_id": call.attempt_id,
        "effect_key": call.effect_key,
        "before": before,
        "result": result,
    }


def changed_precondition(pre: Sequence[Condition], values: Mapping[str, Any]) -> str | None:
    """Return the name of the first precondition that `values` no longer meet, or None.

    Values are compared by their canonical bytes: `1` is not `true`, and a missing value is not null.
    """
    for condition in pre:
        if condition.kind != TOOL_STATE:
            return f"{condition.kind}:{condition.ref}"
        if condition.ref not in values or _bytes(values[condition.ref]) != _bytes(condition.value):
            return condition.ref
    return None


def _bytes(value: Any) -> bytes:
    return canonical({"value": value})
