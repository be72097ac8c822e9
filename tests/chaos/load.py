"""The load of a chaos run: agents that propose, commit and wait, and write down only what they were told."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from chaos.history import KeptCheckpoint, Leftovers, Receipt
from counterseal.api.executor.v1 import plan_pb2
from counterseal.client import AgentRequest, Client, Draft, IdentityToken, Person, Proposal
from counterseal.errors import ServiceError
from counterseal.ids import new_id
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.note import VerifierKey
from support import bank
from support.suite import Suite

T = TypeVar("T")

RETRY_CODES = {"UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
CALL_SECONDS = 45.0
END_SECONDS = 30.0
RESTING = {"NEEDS_ATTENTION", "HALTED"}
PER_LOGIN = 40
"""Plans per user request: a request's tokens and its taint are its own."""


@dataclass
class ClientLog:
    """What clients were told. acknowledged: digests of plans whose commit was answered. ends: digest -> terminal state.

    alive: examples of what was alive meanwhile, by somebody who looked.
    """

    acknowledged: set[str] = field(default_factory=set)
    ends: dict[str, str] = field(default_factory=dict)
    receipts: set[Receipt] = field(default_factory=set)
    checkpoints: dict[int, KeptCheckpoint] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    alive: Leftovers = field(default_factory=Leftovers)

    def in_flight(self) -> int:
        """Return how many plans were committed whose end no client was told yet."""
        return len(self.acknowledged - self.ends.keys())


class Watched(AgentRequest):
    """A user request that writes down what it was told."""

    def __init__(self, client: Client, identity_token: IdentityToken, tenant: str, log: ClientLog) -> None:
        request_id = new_id()
        tokens = client.tokens(identity_token, tenant=tenant, request_id=request_id)
        super().__init__(client.connection, tokens, request_id)
        self._log = log

    async def propose(self, draft: Draft, *, idempotency_key: str | None = None) -> Proposal:
        proposal = await super().propose(draft, idempotency_key=idempotency_key)
        self._log.answers[f"proposed: {proposal.outcome}"] += 1
        return proposal

    async def commit(self, plan_id: str, plan_digest: str, *, idempotency_key: str | None = None) -> plan_pb2.Plan:
        plan = await super().commit(plan_id, plan_digest, idempotency_key=idempotency_key)
        if plan.state != "REJECTED":  # else policy denied at the gate
            self._log.acknowledged.add(plan_digest)
        return plan

    async def get(self, plan_id: str) -> plan_pb2.GetPlanResponse:
        answer = await super().get(plan_id)
        if answer.plan.terminal:
            self._log.ends[answer.plan.plan_digest] = answer.plan.state
        for step in answer.plan.steps:
            if step.HasField("intent_index"):
                self._log.receipts.add(Receipt(step.intent_index, step.intent_event_id))
            if step.HasField("outcome_index"):
                self._log.receipts.add(Receipt(step.outcome_index, step.outcome_event_id))
        return answer


async def patiently(work: Callable[[], Awaitable[T]], log: ClientLog, seconds: float = CALL_SECONDS) -> T:
    """Repeat a call that carries an idempotency key, or reads, while its failure says that a repeat may help."""
    deadline = asyncio.get_running_loop().time() + seconds
    pause = 0.1
    while True:
        try:
            return await work()
        except ServiceError as error:
            log.answers[f"{error.code} {error.reason}"] += 1
            helps = error.code in RETRY_CODES or error.next_action == "RETRY"
            if not helps or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(pause)
        pause = min(1.0, pause * 1.6)


def any_draft(chance: random.Random) -> Draft:
    """Return one of the workload's plans: mostly writes, some that fail midway, some that must be denied."""
    first, second, third = (f"a-{number}" for number in chance.sample(range(1, 51), 3))
    amount = chance.randint(1, 5000)
    kind = chance.random()
    if kind < 0.45:
        return bank.draft(bank.refund(first, amount), objective="one refund")
    if kind < 0.70:
        pair = (bank.refund(first, amount), bank.refund(second, amount, "s2", needs=("s1",)))
        return bank.draft(*pair, objective="two refunds")
    if kind < 0.90:
        # The third step is refused by the bank: the first two must be taken back.
        steps = (
            bank.refund(first, amount),
            bank.refund(third, amount, "s2", needs=("s1",)),
            bank.charge("empty", 1, "s3", needs=("s2",)),
        )
        return bank.draft(*steps, objective="two refunds and a charge that cannot be paid")
    if kind < 0.95:
        return bank.draft(bank.tool_step("bank.balance@1.0.0", {"account": first}), objective="one look")
    return bank.draft(bank.refund("ben-1", amount), objective="another customer's account")


async def agent(suite: Suite, number: int, seed: int, log: ClientLog, stop: asyncio.Event) -> None:
    """Run plans one after the other until told to stop."""
    chance = random.Random(f"{seed}/{number}")
    async with Client.open(suite.running.profile(f"agent-{bank.AGENT}")) as client:
        left = 0
        while not stop.is_set():
            if left == 0:
                request, left = Watched(client, suite.login(client, "ana"), bank.TENANT, log), PER_LOGIN
            left -= 1
            try:
                await one_plan(request, any_draft(chance), log, chance)
            except ServiceError as error:
                log.answers[f"gave up: {error.code} {error.reason}"] += 1
            except TimeoutError:
                log.answers["gave up: waiting"] += 1


async def one_plan(request: AgentRequest, draft: Draft, log: ClientLog, chance: random.Random) -> None:
    """Propose, commit and wait for the end."""
    propose_key, commit_key = new_id(), new_id()
    proposal = await patiently(lambda: request.propose(draft, idempotency_key=propose_key), log)
    if proposal.outcome != "ALLOW":
        return

    async def commit() -> Any:
        return await request.commit(proposal.plan_id, proposal.plan_digest, idempotency_key=commit_key)

    if (await patiently(commit, log)).state == "REJECTED":
        return
    if chance.random() < 0.05:
        await patiently(lambda: request.cancel(proposal.plan_id), log)
    plan = await _ended(request, proposal.plan_id, log)
    log.answers[f"ended: {plan.state} {plan.reason_code}".rstrip()] += 1


async def _ended(request: AgentRequest, plan_id: str, log: ClientLog) -> Any:
    deadline = asyncio.get_running_loop().time() + END_SECONDS
    while True:
        plan = (await patiently(lambda: request.get(plan_id), log)).plan
        if plan.terminal or plan.state in RESTING or asyncio.get_running_loop().time() > deadline:
            return plan
        await asyncio.sleep(0.15)


async def auditor(person: Person, log: ClientLog, stop: asyncio.Event) -> None:
    """Keep the log's signed heads while it grows, and what its entries are said to be."""
    while not stop.is_set():
        try:
            head = await person.checkpoint()
            checkpoint = open_checkpoint(bytes(head.checkpoint), [VerifierKey.parse(head.vkey)])
            log.checkpoints[checkpoint.size] = KeptCheckpoint(checkpoint.size, checkpoint.root)
        except ServiceError as error:
            log.answers[f"auditor: {error.code} {error.reason}"] += 1
        await asyncio.sleep(0.7)
