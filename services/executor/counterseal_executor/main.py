"""The executor's main: configuration -> dependencies -> servicers."""

import asyncio
import secrets
from collections.abc import Coroutine, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.api.executor.v1 import operator_pb2_grpc, plan_pb2_grpc, tool_pb2_grpc
from counterseal.documents.effects import PLAN_COMMITTED
from counterseal.rpc.erasure import ErasureFollower, remember
from counterseal.rpc.ledger_client import Appended, LedgerClient
from counterseal.rpc.ledger_wire import kind_of
from counterseal.rpc.outbox import Outbox
from counterseal.rpc.refusals import RefusalRecorder, into_outbox
from counterseal.rpc.runtime import Registration, Runtime, run_service
from counterseal_executor import database as db
from counterseal_executor.config import ExecutorConfig, bind_config
from counterseal_executor.connectors import connectors
from counterseal_executor.containment.barrier import Barrier
from counterseal_executor.containment.follower import follow
from counterseal_executor.containment.service import OperatorService
from counterseal_executor.logins import Logins, Unwrapper
from counterseal_executor.peers import Broker, Ledger, Policy
from counterseal_executor.plans.commit import Gate
from counterseal_executor.plans.propose import Proposer
from counterseal_executor.plans.reading import Reader
from counterseal_executor.plans.service import PlanService
from counterseal_executor.plans.signals import Signals
from counterseal_executor.plans.unit import Maker
from counterseal_executor.restore.behind import Behind
from counterseal_executor.restore.check import RestoreCheck
from counterseal_executor.tools.service import ToolService
from counterseal_executor.work.checkpoints import Checkpoints
from counterseal_executor.work.job import Means
from counterseal_executor.work.recovery import Recovery


async def build(rt: Runtime) -> Sequence[Registration]:
    """Make the executor's servicers and start its loops."""
    return await assemble(rt, bind_config(rt.config), rt.vault)


async def assemble(rt: Runtime, config: ExecutorConfig, vault: Unwrapper) -> Sequence[Registration]:
    """Wire everything together."""
    background: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        background.add(task)
        task.add_done_callback(background.discard)

    ledger = LedgerClient(lambda: rt.channel("audit"))
    behind = Behind()
    restore = RestoreCheck(rt.engine, lambda: rt.channel("audit"), behind)
    outbox = Outbox(rt.engine, ledger, on_ack=acknowledge_commits, on_refused=restore.suspect)
    maker = Maker(rt.environment, rt.clock, rt.new_id, secrets.token_bytes, outbox)
    policy, broker = Policy(rt.channel("policy")), Broker(rt.channel("credentials"))
    logins = Logins(broker, vault)
    known = connectors()
    signals = Signals()
    barrier = Barrier(rt.engine, maker, spawn, config.containment_stale_seconds, restore)
    reader = Reader(known, config.targets, logins, broker, rt.new_id, spawn)
    me = rt.instance_id
    checkpoints = Checkpoints(ledger, rt.keys, rt.environment, config.checkpoint_wait_seconds)
    means = Means(
        rt.engine, maker, config, known, policy, broker, logins, rt.keys.get, signals, checkpoints, restore, me
    )
    recovery = Recovery(means)
    behind.on_found += [recovery.stop, rt.unfit.set]
    proposer = Proposer(rt.engine, maker, config, policy, reader, rt.keys.get, secrets.token_bytes)
    gate = Gate(
        rt.engine,
        maker,
        policy,
        Ledger(lambda: rt.channel("audit")),
        reader,
        rt.keys.get,
        barrier,
        config.checkpoint_stale_seconds,
    )
    plans = PlanService(rt.engine, maker, proposer, gate, signals, restore, recovery.start, rt.stopping)
    await barrier.refresh()
    rt.hooks.check_caller = barrier.check_caller
    rt.hooks.on_refused = RefusalRecorder(
        into_outbox(rt.engine, outbox), environment=rt.environment, clock=rt.clock, new_id=rt.new_id
    )
    erasures = ErasureFollower(
        rt.engine, lambda: rt.channel("audit"), outbox, rt.environment, rt.backup_days, rt.clock, rt.new_id
    )
    rt.spawn("outbox", outbox.relay(rt.stopping))
    rt.spawn("erasures", erasures.run(rt.stopping))
    rt.spawn("containment", follow(rt.channel("policy"), barrier, rt.stopping))
    rt.spawn("restore-check", restore.loop(rt.stopping))
    rt.spawn("recovery", recovery.loop(rt.stopping))
    rt.spawn("drain", _drain(rt.stopping, recovery, reader, ledger))
    return (
        (plan_pb2_grpc.add_PlanServiceServicer_to_server, plans),
        (tool_pb2_grpc.add_ToolServiceServicer_to_server, ToolService(rt.engine, maker, config, known, restore)),
        (
            operator_pb2_grpc.add_OperatorServiceServicer_to_server,
            OperatorService(rt.engine, maker, barrier, recovery, restore),
        ),
    )


async def acknowledge_commits(
    conn: AsyncConnection, acknowledged: Sequence[tuple[ledger_pb2.NewEntry, Appended]]
) -> None:
    """Let workers claim plans whose commit the ledger holds; part of the transaction that notes the receipt."""
    await remember(conn, acknowledged)
    plans = [entry.stream.removeprefix("plan:") for entry, _ in acknowledged if kind_of(entry) == PLAN_COMMITTED]
    if plans:
        await db.run(conn, f"SELECT set_config('counterseal.tenant', '{db.EVERY_TENANT}', true)")
        await db.run(
            conn, "UPDATE plan SET committed_ack = true WHERE plan_id = ANY(CAST(:plans AS uuid[]))", plans=plans
        )


async def _drain(stopping: asyncio.Event, recovery: Recovery, reader: Reader, ledger: LedgerClient) -> None:
    await stopping.wait()
    await recovery.close()
    await reader.close()
    await ledger.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the executor; returns the exit code."""
    return run_service("executor", build, argv, check_own=bind_config)
