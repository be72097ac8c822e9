"""The commit gate under a real ledger whose publisher stands still, as it does while Vault is sealed."""

import asyncio
from pathlib import Path

from counterseal.clock import system_clock
from counterseal.errors import CheckpointStale, ServiceError
from counterseal_executor.peers import Ledger
from counterseal_executor.plans.commit import STALE_RETRY_MS
from support.audit import audit_server
from support.executor import SIM_TOOLS, Executor, refund, world
from support.postgres import FreshDatabase
from support.requirements import requirement


async def _refusal(executor: Executor, plan: object) -> ServiceError | None:
    try:
        await executor.commit(plan)
    except ServiceError as error:
        return error
    return None


@requirement("commit:ledger-signs")
async def test_nothing_is_committed_while_the_ledger_signs_nothing_and_the_same_call_passes_once_it_does(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    url = fresh_database("executor").sqlalchemy_url
    async with (
        audit_server(fresh_database("audit"), publish=False) as server,
        server.channel("svc/executor") as channel,
        world(url, tmp_path / "world.sqlite", channel) as surroundings,
    ):
        patient = await surroundings.start(checkpoint_stale_seconds=3600.0)
        strict = await surroundings.start(checkpoint_stale_seconds=0.0)
        await patient.register(*SIM_TOOLS)
        first, second = await patient.propose(), await patient.propose(refund(key="ch_2"))
        await surroundings.delivered()
        await asyncio.sleep(0.01)  # the bound of the strict one is "older than now"

        refused = await _refusal(strict, first)  # never signed at all
        assert isinstance(refused, CheckpointStale)
        assert refused.retry_after_ms == STALE_RETRY_MS, "the client is told when to come again"
        assert "no signed checkpoint covers" in refused.message
        assert (await strict.get(first.plan_id)).plan.state == "PROPOSED"

        assert await _refusal(patient, second) is None, "unsigned, but not for longer than the bound"
        await patient.until(second.plan_id, "SUCCEEDED", seconds=60)

        await server.parts.publisher.publish_once()
        await strict.propose()  # the log goes on behind the checkpoint
        await surroundings.delivered()
        await asyncio.sleep(0.01)
        assert isinstance(await _refusal(strict, first), CheckpointStale), "signed once, and not since"

        await surroundings.delivered()
        await server.parts.publisher.publish_once()
        assert await _refusal(strict, first) is None


@requirement("commit:ledger-signs")
async def test_an_idle_log_with_an_old_checkpoint_is_not_stale(fresh_database: FreshDatabase, tmp_path: Path) -> None:
    """What counts is the age of the oldest unsigned entry: the entry after an idle night is new, its checkpoint old."""
    url = fresh_database("executor").sqlalchemy_url
    async with (
        audit_server(fresh_database("audit"), publish=False) as server,
        server.channel("svc/executor") as channel,
        world(url, tmp_path / "world.sqlite", channel) as surroundings,
    ):
        executor = await surroundings.start()
        await executor.register(*SIM_TOOLS)
        await surroundings.delivered()
        await server.parts.publisher.publish_once()
        ledger = Ledger(lambda: channel)
        assert await ledger.unsigned_since("acme", system_clock() + 1000) is None, "old, and covers everything"
        await asyncio.sleep(0.01)
        between = system_clock()
        await asyncio.sleep(0.01)
        await executor.propose()
        await surroundings.delivered()
        assert await ledger.unsigned_since("acme", between) is None, "an old checkpoint, a new entry"
        since = await ledger.unsigned_since("acme", system_clock() + 1000)
        assert since is not None
        assert since > between
        assert await ledger.unsigned_since("nobody", system_clock() + 1000) is None, "no log, nothing to sign"
