"""One owned plan and everything a worker needs for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from counterseal.documents.plan import Plan, Step, parse_plan
from counterseal.documents.tool import ToolDescriptor
from counterseal.errors import ToolChanged
from counterseal_executor import database as db
from counterseal_executor.config import CHECKPOINTED, ExecutorConfig
from counterseal_executor.connectors.base import Call, Connector, Target
from counterseal_executor.decisions import Key
from counterseal_executor.logins import Logins
from counterseal_executor.peers import Broker, Policy
from counterseal_executor.plans import store
from counterseal_executor.plans.commit import plan_context
from counterseal_executor.plans.rows import AttemptRow, PlanRow, StepRow
from counterseal_executor.plans.signals import Signals
from counterseal_executor.plans.unit import Maker
from counterseal_executor.restore.check import RestoreCheck
from counterseal_executor.work.authority import Authority
from counterseal_executor.work.checkpoints import Checkpoints
from counterseal_executor.work.lease import Lease

IRREVERSIBLE = "R4"


@dataclass(frozen=True, slots=True)
class Means:
    """What all workers of a process share. owner: this process, in leases."""

    engine: AsyncEngine
    maker: Maker
    config: ExecutorConfig
    connectors: Mapping[str, Connector]
    policy: Policy
    broker: Broker
    logins: Logins
    key: Key
    signals: Signals
    checkpoints: Checkpoints
    restore: RestoreCheck
    owner: str


@dataclass(frozen=True, slots=True)
class Job:
    """One plan under one lease. `tools`: digest -> descriptor, as pinned by the plan."""

    means: Means
    lease: Lease
    plan: Plan
    tools: Mapping[str, ToolDescriptor]
    authority: Authority

    def tool(self, step: Step, *, undo: bool) -> ToolDescriptor:
        """Return the tool of a step or of its undo, exactly the pinned one."""
        digest = step.undoable.tool_digest if undo and step.undoable is not None else step.tool_digest
        tool = self.tools.get(digest or "")
        if tool is None:
            raise ToolChanged(f"the tool of step {step.id} is not registered under the plan's digest")
        return tool

    def checkpoint_wait(self, tool: ToolDescriptor) -> float:
        """Return for how many seconds an intent of the tool may wait for its checkpoint; 0: it needs none."""
        config = self.means.config
        waits = tool.reversibility == IRREVERSIBLE and config.r4_intents == CHECKPOINTED
        return config.checkpoint_wait_seconds if waits else 0.0

    def target(self, step: Step) -> Target:
        """Return the step's target."""
        return self.means.config.targets[step.target]

    def connector(self, step: Step) -> Connector:
        """Return the connector that reaches the step's target."""
        return self.means.connectors[self.target(step).kind]

    def call(self, step: Step, attempt: AttemptRow, *, before: list[dict[str, Any]] | None = None) -> Call:
        """Return the connector's view of an attempt."""
        return Call(
            attempt_id=attempt.attempt_id,
            effect_key=attempt.effect_key,
            tool=self.tool(step, undo=attempt.undo),
            target=self.target(step),
            args=attempt.args,
            pre=() if attempt.undo else step.pre,
            context=plan_context(self.plan),
            before=before,
            timeout_seconds=float(step.timeout_seconds),
        )


async def open_job(means: Means, lease: Lease) -> Job:
    """Load an owned plan. Its bytes are parsed again: nothing but them says what runs."""
    async with db.transaction(means.engine, lease.tenant) as conn:
        row = await store.get(conn, lease.tenant, lease.plan_id)
        commit = await store.commit_of(conn, lease.plan_id)
        if row is None or commit is None:
            raise ToolChanged("a plan without a commit has no worker")
        plan = parse_plan(row.body)
        pinned = await store.pinned(conn, plan)
    tools = {digest: tool for digest, (tool, _) in pinned.items()}
    authority = Authority(
        means.policy, means.broker, means.key, means.maker.clock, row, plan, list(tools.values()), commit
    )
    return Job(means, lease, plan, tools, authority)


async def look(job: Job) -> tuple[PlanRow, dict[str, StepRow]]:
    """Return the plan's row and steps as they are now."""
    async with db.transaction(job.means.engine, job.lease.tenant) as conn:
        row = await store.get(conn, job.lease.tenant, job.lease.plan_id)
        steps = await store.steps_of(conn, job.lease.plan_id)
    if row is None:
        raise ToolChanged("the plan is gone")
    return row, {step.step_id: step for step in steps}
