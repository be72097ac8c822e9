"""Irreversible steps wait for the signed checkpoint over their intent, under a real ledger whose key is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from counterseal.errors import CheckpointStale
from counterseal.ledger import entry as entries
from counterseal.ledger.errors import VerificationError
from counterseal_executor.work.checkpoints import check_proof
from support.audit import AuditServer, SealedSigner, append, audit_server
from support.entries import changed
from support.executor import LOG_KEY, SIM_TOOLS, Executor, Keys, World, refund, sim_tool, world
from support.postgres import FreshDatabase
from support.requirements import requirement

TOOLS = [
    *SIM_TOOLS,
    sim_tool("shop.row", "put", reversibility="R1"),
    sim_tool("shop.charge", "put", reversibility="R3"),
    sim_tool("shop.mail", "append", reversibility="R4"),
]
OTHER_KEY = bytes(SigningKey(b"\x07" * 32).verify_key)


def mail(key: str = "mail_1", **changes: Any) -> dict[str, Any]:
    return refund(tool="shop.mail@1.0.0", key=key, **changes)


def reversible() -> list[dict[str, Any]]:
    """A step of each of R0, R1, R2, R3."""
    look = {"id": "s1", "tool": "shop.look@1.0.0", "target": "shop", "args": {"key": "k0"}}
    writes = ("shop.row@1.0.0", "shop.refund@1.0.0", "shop.charge@1.0.0")
    return [look, *(refund(tool=tool, key=f"k{number}") for number, tool in enumerate(writes, 1))]


@dataclass
class Stage:
    """A ledger whose key can be away, and what surrounds executors."""

    server: AuditServer
    signer: SealedSigner
    world: World

    async def start(self, keys: Keys | None = None, **changes: Any) -> Executor:
        settings = {"r4_intents": "CHECKPOINTED", "checkpoint_wait_seconds": 2.0, "checkpoint_stale_seconds": 3600.0}
        return await self.world.start(keys, **{**settings, **changes})

    async def logged(self, plan_id: str, kind: str) -> list[dict[str, Any]]:
        """The data of a plan's entries of one type, in the order of the log."""
        await self.world.delivered()
        log = await self.server.parts.log()
        rows = await self.server.parts.reader.page(log.log_id, 0, 1000)
        listed = [entries.parse(row.entry) for row in rows]
        return [
            dict(one.data) for one in listed if one.document.get("stream") == f"plan:{plan_id}" and one.type == kind
        ]


@asynccontextmanager
async def stage(fresh_database: FreshDatabase, tmp_path: Path) -> AsyncIterator[Stage]:
    url, signer = fresh_database("executor").sqlalchemy_url, SealedSigner()
    async with (
        audit_server(fresh_database("audit"), signer=signer) as server,
        server.channel("svc/executor") as channel,
        world(url, tmp_path / "world.sqlite", channel) as surroundings,
    ):
        yield Stage(server, signer, surroundings)


async def until_intent(executor: Executor, plan_id: str) -> None:
    async with asyncio.timeout(20):
        while (await executor.get(plan_id)).plan.steps[0].state != "INTENT":
            await asyncio.sleep(0.01)


@requirement("effect:irreversible-checkpointed")
async def test_while_the_key_is_away_nothing_irreversible_is_sent_and_everything_else_goes_on(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with stage(fresh_database, tmp_path) as on:
        executor = await on.start()
        await executor.register(*TOOLS)
        on.signer.away = True
        final = await executor.propose(mail())
        others = [await executor.propose(step) for step in reversible()]
        await executor.commit(final)
        await until_intent(executor, final.plan_id)
        for other in others:  # while the irreversible one waits, on the same connection
            await executor.commit(other)
        for other in others:
            await executor.until(other.plan_id, "SUCCEEDED")
        plan = await executor.until(final.plan_id, "HALTED")
        assert (plan.reason_code, plan.steps[0].state) == ("CHECKPOINT_STALE", "READY")
        assert {effect.key for effect in on.world.sim.effects()} == {"k1", "k2", "k3"}
        outcomes = await on.logged(final.plan_id, "step.outcome")
        assert {(one["outcome"], one["reason_code"]) for one in outcomes} == {("not_sent", "CHECKPOINT_STALE")}

        on.signer.away = False
        await executor.until(final.plan_id, "SUCCEEDED", seconds=60)
        assert [effect.key for effect in on.world.sim.effects()].count("mail_1") == 1
        outcomes = await on.logged(final.plan_id, "step.outcome")
        intents = await on.logged(final.plan_id, "step.intent")
        assert [one["outcome"] for one in outcomes][-1] == "applied"
        assert [one["attempt_id"] for one in intents] == [one["attempt_id"] for one in outcomes], "one outcome each"


@requirement("effect:irreversible-checkpointed")
@pytest.mark.slow
async def test_whose_worker_ends_while_it_waits_is_sent_once_by_the_next(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with stage(fresh_database, tmp_path) as on:
        executor = await on.start(checkpoint_wait_seconds=20.0)
        await executor.register(*TOOLS)
        on.signer.away = True
        answer = await executor.propose(mail())
        await executor.commit(answer)
        await until_intent(executor, answer.plan_id)
        await asyncio.sleep(0.3)
        await on.world.stop(executor)
        assert on.world.sim.effects() == []
        on.signer.away = False
        other = await on.start()
        await other.until(answer.plan_id, "SUCCEEDED", seconds=60)
        assert [effect.key for effect in on.world.sim.effects()] == ["mail_1"]


@requirement("effect:irreversible-checkpointed")
async def test_a_proof_by_another_key_than_the_published_ones_is_not_believed(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with stage(fresh_database, tmp_path) as on:
        signer = on.world.policy.signer
        executor = await on.start(Keys(signer.public_key, [OTHER_KEY]))
        await executor.register(*TOOLS)
        answer = await executor.propose(mail())
        await executor.commit(answer)
        plan = await executor.until(answer.plan_id, "HALTED")
        assert plan.reason_code == "OPERATOR", "somebody has to look at a ledger that shows such a proof"
        assert on.world.sim.effects() == []
        (outcome,) = await on.logged(answer.plan_id, "step.outcome")
        assert (outcome["outcome"], outcome["reason_code"]) == ("not_sent", "LOG_FORKED")
        await on.world.stop(executor)

        rotated = await on.start(Keys(signer.public_key, [OTHER_KEY], rotated=[LOG_KEY]))
        again = await rotated.propose(mail("mail_2"))
        await rotated.commit(again)
        await rotated.until(again.plan_id, "SUCCEEDED")


async def test_by_default_a_durable_intent_is_enough(fresh_database: FreshDatabase, tmp_path: Path) -> None:
    async with stage(fresh_database, tmp_path) as on:
        executor = await on.world.start(checkpoint_stale_seconds=3600.0)
        await executor.register(*TOOLS)
        on.signer.away = True
        answer = await executor.propose(mail())
        await executor.commit(answer)
        await executor.until(answer.plan_id, "SUCCEEDED")


@requirement("effect:irreversible-checkpointed")
async def test_a_proof_holds_for_its_entry_index_and_key_alone(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server, server.producer() as client:
        await append(server.parts, [changed(stream=f"plan:{n}") for n in range(5)])
        receipt = await client.prove(changed(stream="plan:5"), 10)
        other = await client.prove(changed(stream="plan:6"), 10)
        assert check_proof(receipt, [OTHER_KEY, LOG_KEY]).size > receipt.index
        forged = receipt.tlog_proof.replace(b"\n\n", b"\n\nx", 1)
        for wrong, keys in (
            (receipt, []),
            (receipt, [OTHER_KEY]),
            (replace(receipt, index=receipt.index - 1), [LOG_KEY]),
            (replace(receipt, entry=other.entry), [LOG_KEY]),
            (replace(receipt, tlog_proof=other.tlog_proof), [LOG_KEY]),
            (replace(receipt, tlog_proof=forged), [LOG_KEY]),
            (replace(receipt, tlog_proof=b""), [LOG_KEY]),
        ):
            with pytest.raises(VerificationError):
                check_proof(wrong, keys)


async def test_the_deadline_ends_the_wait(fresh_database: FreshDatabase) -> None:
    signer = SealedSigner()
    async with audit_server(fresh_database("audit"), signer=signer) as server, server.producer() as client:
        await client.append_one(changed(stream="plan:0"))
        signer.away = True
        async with asyncio.timeout(2):
            with pytest.raises(CheckpointStale):
                await client.prove(changed(stream="plan:1"), 0.8)
