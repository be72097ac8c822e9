"""The supervisor on the real stack: services come up ready, come back after SIGKILL, and are gone after the stop."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from counterseal.client import Profile
from counterseal.embedded.layout import SERVICES, Agent, Running, Wanted
from counterseal.embedded.stack import Stack
from counterseal.embedded.supervisor import ServiceFailed, Supervisor
from support.postgres import open_directory

SCRIPT = Path(__file__).with_name("bare_service.py")
WANTED = Wanted("prod", ("acme",), {"refund-bot": Agent("user:olga", ("acme",))}, durable=False)


def bare(service: str) -> list[str]:
    return [sys.executable, str(SCRIPT), service]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Running]:
    with open_directory("counterseal-supervisor-") as home:
        stack = Stack(home / "dev", WANTED)
        yield await stack.start()
        await stack.stop()


pytestmark = pytest.mark.asyncio(loop_scope="module")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
async def test_a_killed_service_comes_back_and_all_are_gone_after_the_stop(running: Running) -> None:
    said: list[str] = []
    supervisor = Supervisor(running, said.append, command=bare)
    await supervisor.start()
    pids = {name: supervisor.pid(name) for name in SERVICES}
    await supervisor.kill("policy")
    await asyncio.sleep(0.15)
    await supervisor.ready("policy")
    assert supervisor.pid("policy") != pids["policy"]
    assert supervisor.starts("policy") == 2
    assert f"policy ended (signal {int(signal.SIGKILL)}); starting it again" in said

    await supervisor.kill("executor", hold=True)
    await asyncio.sleep(0.3)
    assert supervisor.pid("executor") is None
    supervisor.release("executor")
    await supervisor.ready("executor")

    last = [supervisor.pid(name) for name in SERVICES]
    await supervisor.stop()
    assert not any(alive(pid) for pid in last if pid is not None)


@pytest.mark.slow
async def test_what_a_killed_supervisor_left_is_ended_by_the_next_start(running: Running) -> None:
    first = Supervisor(running, command=bare)
    await first.start()
    left = [first.pid(name) for name in SERVICES]
    for service in first._services.values():  # as if the supervisor itself had been killed
        assert service.keeper is not None
        service.keeper.cancel()
    second = Supervisor(running, command=bare)
    await second.start()
    for service in first._services.values():
        assert service.process is not None
        await asyncio.wait_for(service.process.wait(), 5)
    assert not any(alive(pid) for pid in left if pid is not None)
    await second.stop()


@pytest.mark.slow
async def test_a_service_that_never_gets_ready_is_named_with_its_log(running: Running) -> None:
    def broken(service: str) -> list[str]:
        if service == "audit":
            return [sys.executable, "-c", "raise SystemExit('no luck today')"]
        return bare(service)

    supervisor = Supervisor(running, command=broken)
    with pytest.raises(ServiceFailed, match=r"(?s)audit did not become ready; see .*audit.log.*no luck today"):
        await supervisor.start()
    assert all(supervisor.pid(name) is None for name in SERVICES)


async def test_the_generated_profiles_are_what_the_client_reads(running: Running) -> None:
    profile = Profile.load(running.profile("agent-refund-bot"))
    assert (profile.environment, profile.tenant, profile.client_id) == ("prod", "acme", "refund-bot")
    assert profile.spiffe_id == "spiffe://counterseal.dev/prod/agent/refund-bot"
    assert profile.services == running.addresses
    assert profile.login is not None
    assert profile.identity().cert_pem.startswith(b"-----BEGIN CERTIFICATE-----")
    assert Profile.load(running.profile("cli")).client_id == "counterseal-cli"
