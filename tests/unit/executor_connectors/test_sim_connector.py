"""The scripted world: every effect class, every fault, and a log that tells the truth about both."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import InputInvalid
from counterseal_executor.connectors.base import Applied, Call, Fenced, Probe, Refused, Target, Unknown
from counterseal_executor.connectors.sim import SimConnector
from counterseal_executor.connectors.sim_world import Fault, SimWorld
from support.connectors import RecordingFence, attempt, call, tool

PUT = {"op": "put", "key": "/id", "value": "/value"}
APPEND = {"op": "append", "key": "/id", "value": "/value"}
ARGS = {"id": "k", "value": {"n": 1}}
CONNECTOR = SimConnector()


@pytest.fixture
def world(tmp_path: Path) -> SimWorld:
    return SimWorld(tmp_path / "world.sqlite")


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target("bank", "sim", {"path": str(tmp_path / "world.sqlite")})


def sim(config: Mapping[str, Any] = PUT, effect: str = "E3") -> ToolDescriptor:
    return tool("sim", config, effect=effect, name="sim.put")


def made(target: Target, effect: str = "E3", config: Mapping[str, Any] = PUT, **options: Any) -> Call:
    return call(sim(config, effect), target, ARGS, **options)


@pytest.mark.parametrize("effect", ["E1", "E2", "E3", "E4"])
async def test_a_write_happens_once_and_is_read_back(world: SimWorld, target: Target, effect: str) -> None:
    one = made(target, effect)
    answer = await CONNECTOR.execute(one, None, RecordingFence())
    assert isinstance(answer, Applied)
    assert answer.output == {"key": "k", "version": 1}
    assert len(world.effects()) == 1
    assert (await CONNECTOR.verify(one, answer.output, None)).ok
    world.put("k", "something else")
    assert not (await CONNECTOR.verify(one, answer.output, None)).ok


async def test_a_read_returns_the_object_and_logs_no_effect(world: SimWorld, target: Target) -> None:
    world.put("k", [1, 2])
    answer = await CONNECTOR.execute(made(target, "E0", {"op": "read", "key": "/id"}), None, RecordingFence())
    assert isinstance(answer, Applied)
    assert answer.output == {"exists": True, "version": 1, "value": [1, 2]}
    assert world.effects() == []


async def test_an_undo_restores_the_before_image(world: SimWorld, target: Target) -> None:
    world.put("k", "old")
    answer = await CONNECTOR.execute(made(target), None, RecordingFence())
    assert isinstance(answer, Applied)
    assert answer.before == [{"key": "k", "value": "old", "version": 1}]
    undo = call(sim(), target, {"id": "k", "value": answer.before[0]["value"]}, key="undo-1")
    assert isinstance(await CONNECTOR.execute(undo, None, RecordingFence()), Applied)
    item = world.get("k")
    assert item is not None
    assert item.value == "old"


async def test_only_a_target_that_honours_keys_forgives_a_second_send(world: SimWorld, target: Target) -> None:
    for effect, count in (("E2", 1), ("E4", 2)):
        for _ in range(2):
            await CONNECTOR.execute(made(target, effect, APPEND, key=effect), None, RecordingFence())
        assert len([e for e in world.effects() if e.effect_key == effect]) == count


async def test_a_changed_precondition_is_refused_inside_the_write(world: SimWorld, target: Target) -> None:
    pre = (await CONNECTOR.observe(made(target), None)).values
    world.put("k", "somebody else's")
    answer = await CONNECTOR.execute(made(target, "E1", pre=pre), None, RecordingFence())
    assert isinstance(answer, Refused)
    assert answer.error_code == "PRECONDITION_CHANGED"
    assert world.effects() == []


async def test_a_fence_that_refuses_prevents_the_effect(world: SimWorld, target: Target) -> None:
    answer = await CONNECTOR.execute(made(target), None, RecordingFence(Fenced("LEASE_LOST", "too late")))
    assert answer == Refused("LEASE_LOST", "too late")
    assert world.effects() == []


async def test_a_scripted_refusal_is_definite_and_used_up(world: SimWorld, target: Target) -> None:
    world.script("sim.put", Fault("refuse", detail="NO_FUNDS", retryable=True))
    answer = await CONNECTOR.execute(made(target), None, RecordingFence())
    assert isinstance(answer, Refused)
    assert (answer.error_code, answer.retryable) == ("NO_FUNDS", True)
    assert isinstance(await CONNECTOR.execute(made(target), None, RecordingFence()), Applied)


@pytest.mark.parametrize(("action", "verdict"), [("lose_answer", Probe.APPLIED), ("lose_request", Probe.ABSENT)])
async def test_a_lost_answer_is_unknown_until_the_probe_says_what_happened(
    world: SimWorld, target: Target, action: str, verdict: Probe
) -> None:
    fence = RecordingFence()
    world.script("sim.put", Fault(action))
    assert isinstance(await CONNECTOR.execute(made(target), None, fence), Unknown)
    assert await CONNECTOR.probe(attempt(made(target), fence), None) is verdict
    assert await CONNECTOR.probe(attempt(made(target, "E4"), fence), None) is Probe.CANNOT_TELL


@pytest.mark.parametrize(("action", "effects"), [("crash_before", 0), ("crash_after", 1)])
def test_a_scripted_crash_ends_the_process_and_the_world_survives_it(
    world: SimWorld, tmp_path: Path, action: str, effects: int
) -> None:
    world.script("sim.put", Fault(action))
    program = f"""
import asyncio, sys
sys.path[:0] = {sys.path!r}
from support.connectors import RecordingFence, call, tool
from counterseal_executor.connectors.base import Target
from counterseal_executor.connectors.sim import SimConnector
target = Target("bank", "sim", {{"path": {str(tmp_path / "world.sqlite")!r}}})
made = call(tool("sim", {PUT!r}, name="sim.put"), target, {ARGS!r})
asyncio.run(SimConnector().execute(made, None, RecordingFence()))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 137
    assert len(world.effects()) == effects


@pytest.mark.parametrize(
    ("config", "effect"),
    [
        ({"op": "read", "key": "/id"}, "E3"),
        (PUT, "E0"),
        ({"op": "put", "key": "/id"}, "E3"),
        ({"op": "delete", "key": "/id", "value": "/v"}, "E3"),
        ({"op": "melt", "key": "/id"}, "E3"),
        (PUT | {"faults": []}, "E3"),
    ],
)
def test_an_incomplete_descriptor_is_refused(config: Mapping[str, Any], effect: str) -> None:
    with pytest.raises(InputInvalid):
        CONNECTOR.check(tool("sim", config, effect=effect))
