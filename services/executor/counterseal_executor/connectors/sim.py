"""The `sim` connector: a small scripted world in one SQLite file.

It behaves as targets of every effect class do (E0 to E4), refuses, loses answers, stalls and crashes on demand, and
keeps a log of its effects that outlives the executor: what SDK conformance, the demo and crash tests run against. The
scripts lie in the world's own file (`SimWorld.script`), never in the executor.

    connector.config   {"op": "read" | "put" | "delete" | "append", "key": pointer, "value": pointer?}

`key` and `value` point into the step's arguments; the key is text, the value any JSON. `put` and `delete` replace one
object, `append` adds to a list: the one that is not idempotent by nature.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from counterseal.canonical import JsonObject, pointer
from counterseal.documents.fields import Fields
from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import InputInvalid
from counterseal_executor.connectors.base import (
    Answer,
    Applied,
    Attempt,
    Call,
    Credential,
    Fence,
    Observation,
    Probe,
    Refused,
    Target,
    TargetError,
    Unknown,
    Verdict,
    changed_precondition,
    refused_by_fence,
)
from counterseal_executor.connectors.sim_world import Fault, SimWorld

T = TypeVar("T")
OPS = ("read", "put", "delete", "append")


@dataclass(frozen=True, slots=True)
class SimTool:
    """A descriptor's `connector.config`."""

    op: str
    key: str
    value: str | None


def read_sim_tool(tool: ToolDescriptor) -> SimTool:
    """Read a descriptor's configuration. Raises InputInvalid with a JSON pointer."""
    fields: Fields[Any] = Fields(tool.connector.config, "/connector/config", InputInvalid)
    config = SimTool(fields.one_of("op", OPS), fields.text("key"), fields.text("value", None))
    fields.done()
    if (config.op == "read") != tool.reads_only:
        raise fields.error("`read` belongs to E0 and to nothing else", "op")
    if (config.value is not None) != (config.op in ("put", "append")):
        raise fields.error("is what `put` and `append` need, and nothing else", "value")
    return config


class SimConnector:
    """Runs tools against a `SimWorld`. Targets: `[executor.targets.<alias>] kind = "sim", path = FILE`."""

    kind = "sim"

    def __init__(self) -> None:
        # One thread: SQLite serialises writers anyway, and a stalled world must not take the loop with it.
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sim")

    def check(self, tool: ToolDescriptor) -> None:
        """Refuse a descriptor whose configuration is not complete. Raises InputInvalid with a JSON pointer."""
        read_sim_tool(tool)

    async def observe(self, call: Call, credential: Credential | None) -> Observation:  # noqa: ARG002
        """Return `exists`, `version` and, where the object exists, its `value`."""
        key = _key(call)
        item = await self._run(lambda: _world(call.target).get(key))
        values: JsonObject = {"exists": item is not None, "version": item.version if item else 0}
        return Observation(values if item is None else values | {"value": item.value})

    async def execute(self, call: Call, credential: Credential | None, fence: Fence) -> Answer:
        """Do it, as scripted. A lost answer is Unknown, whether or not the effect happened."""
        tool = read_sim_tool(call.tool)
        if call.tool.reads_only:
            observation = await self.observe(call, credential)
            return Applied(dict(observation.values), (), {})
        world, key = _world(call.target), _key(call)
        fault = await self._run(lambda: world.next_fault(call.tool.name))
        if fault is not None and fault.action == "refuse":
            return Refused(fault.detail or "SIM_REFUSED", "the scripted world refused", fault.retryable)
        if fault is not None and fault.action == "delay":
            await asyncio.sleep(fault.seconds)
        current = await self._run(lambda: world.get(key))
        before = [] if current is None else [{"key": key, "value": current.value, "version": current.version}]
        known = await self._run(lambda: world.effect_of(call.effect_key)) if call.tool.effect == "E2" else None
        if known is None:
            values = (await self.observe(call, credential)).values
            changed = changed_precondition(call.pre, values)
            if changed is not None:
                return Refused("PRECONDITION_CHANGED", f"{changed} is no longer as it was when the plan was made")
        marker: JsonObject = {"effect_key": call.effect_key, "before": before}
        try:
            await fence.before_commit(marker)
        except Exception as error:  # noqa: BLE001 (whatever the fence's reason is, nothing was done)
            return refused_by_fence(error)
        if fault is not None and fault.action == "lose_request":
            return Unknown("the scripted world lost the request")
        output = await self._run(lambda: _apply(world, tool, call, key, fault))
        if fault is not None and fault.action == "lose_answer":
            return Unknown("the scripted world lost its answer")
        return Applied(output, before, marker)

    async def probe(self, attempt: Attempt, credential: Credential | None) -> Probe:  # noqa: ARG002
        """Look for the attempt's marker in the effect log; an opaque tool (E4) has none."""
        if attempt.marker is None:
            return Probe.ABSENT
        if attempt.tool.effect == "E4":
            return Probe.CANNOT_TELL
        found = await self._run(lambda: _world(attempt.target).effect_of(attempt.effect_key))
        return Probe.ABSENT if found is None else Probe.APPLIED

    async def verify(self, call: Call, result: JsonObject, credential: Credential | None) -> Verdict:  # noqa: ARG002
        """Compare the object with what the call meant it to be."""
        tool = read_sim_tool(call.tool)
        key = _key(call)
        item = await self._run(lambda: _world(call.target).get(key))
        evidence: JsonObject = {"exists": item is not None, "version": item.version if item else 0}
        if tool.op == "delete":
            return Verdict(ok=item is None, evidence=evidence)
        if tool.op == "append":
            return Verdict(ok=item is not None and _value(tool, call) in item.value, evidence=evidence)
        return Verdict(
            ok=tool.op == "read" or (item is not None and item.value == _value(tool, call)), evidence=evidence
        )

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except OSError as error:
            raise TargetError("TARGET_UNREACHABLE", "the world's file cannot be opened", retryable=True) from error


def _apply(world: SimWorld, tool: SimTool, call: Call, key: str, fault: Fault | None) -> JsonObject:
    """Change the world in one transaction; a scripted crash ends this process on the stated side of the effect."""
    if fault is not None and fault.action == "crash_before":
        world.die()
    value = _value(tool, call) if tool.value is not None else None
    output = world.apply(
        tool.op,
        key,
        value,
        effect_key=call.effect_key,
        attempt_id=call.attempt_id,
        tool=call.tool.name,
        keyed=call.tool.effect == "E2",
    )
    if fault is not None and fault.action == "crash_after":
        world.die()
    return output


def _world(target: Target) -> SimWorld:
    fields: Fields[Any] = Fields(target.settings, f"/targets/{target.alias}", InputInvalid)
    path = fields.text("path")
    fields.done()
    return SimWorld(Path(path))


def _key(call: Call) -> str:
    value = _argument(call.args, read_sim_tool(call.tool).key)
    if not isinstance(value, str):
        raise TargetError("ARGUMENT_INVALID", "the key is not text")
    return value


def _value(tool: SimTool, call: Call) -> Any:
    return _argument(call.args, tool.value or "")


def _argument(args: Mapping[str, Any], path: str) -> Any:
    try:
        return pointer(dict(args), path)
    except KeyError:
        raise TargetError("ARGUMENT_MISSING", f"the arguments hold nothing at {path}") from None
