"""Anchors, signatures and rotation with a real Vault under the audit service's own policy, and with Vault away."""

import asyncio
import os
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.cli import main
from counterseal.embedded.layout import Running
from counterseal.errors import AnchorMissing, CheckpointStale, ServiceError
from counterseal.ledger import proof as proofs
from counterseal.ledger.checkpoint import open_checkpoint
from counterseal.ledger.entry import parse
from counterseal.ledger.note import VerifierKey, split
from counterseal.ledger.tree import root_of
from counterseal.rpc.ledger_client import Appended, LedgerClient
from counterseal.vault.names import Environment
from counterseal_audit.append.writer import Receipt
from counterseal_audit.logs.keys import VaultLogSigner
from support.audit import Replica, append_one, exported_verifies, replica_on_vault
from support.audit_process import Process, all_entries, append_until_taken, channel_to, producer_identity, stack
from support.entries import changed
from support.openbao import Provisioned
from support.postgres import FreshDatabase
from support.requirements import requirement
from support.vault_tap import VaultTap

ENV = Environment("prod")
PEOPLE = ("user:ana", "user:olga")
SYSTEM = "_system"  # the log of a tenant begins once in a Vault, and the others are taken by then
CHECKPOINTED = ledger_pb2.APPEND_MODE_CHECKPOINTED


async def key_of(running: Running) -> VerifierKey:
    """The log's key as its genesis entry names it."""
    return VerifierKey.parse(parse((await all_entries(running))[0]).data["vkey"])


async def grow(parts: Replica, name: str, tenant: str = "acme") -> None:
    await append_one(parts, changed(stream=f"plan:{name}", tenant=tenant))


async def signers_of_latest(parts: Replica, tenant: str = "acme") -> set[bytes]:
    """Who signed the latest checkpoint, after checking it against the stored bytes."""
    log = await parts.log(tenant)
    latest = await parts.checkpoints.latest(log.log_id)
    assert latest is not None
    ring = await parts.checkpoints.keyring(log)
    checkpoint = open_checkpoint(latest.published.note, ring.keys)
    rows = await parts.reader.page(log.log_id, 0, checkpoint.size)
    assert checkpoint.root == root_of(row.leaf_hash for row in rows)
    return {signature.key_id for signature in split(latest.published.note)[1]}


@requirement("ledger:anchor-missing-refused")
@requirement("ledger:rotation-from-the-genesis-key")
async def test_a_log_is_anchored_signed_rotated_and_adopted(
    fresh_database: FreshDatabase, provisioned: Provisioned
) -> None:
    database = fresh_database("audit")
    vault, operator = await provisioned.service("audit"), await provisioned.operator()
    async with replica_on_vault(database, vault) as parts:
        await grow(parts, "0")
        await grow(parts, "0", "evil")
        assert await parts.publisher.publish_once() == 2
        log = await parts.log()
        found = await vault.kv_get(ENV.kv, f"ledger/{log.bucket}")
        head = await parts.ledger.head(log)
        assert found is not None
        assert found[0][log.origin] == {"size": 2, "root": head.root.hex()}
        births = await vault.kv_get(ENV.kv, "ledger/log/acme")
        assert births is not None
        assert births[0]["0"]["origin"] == log.origin
        genesis_signers = await signers_of_latest(parts)

        await operator.call("POST", f"{ENV.transit}/keys/{ENV.key('log')}/rotate", {})
        rotated = await parts.operations.rotate(log)
        assert await parts.publisher.publish_once() == 1
        assert await signers_of_latest(parts) == genesis_signers, "the new key is covered by the old one first"
        await grow(parts, "1")
        assert await parts.publisher.publish_once() == 1
        assert await signers_of_latest(parts) == {log.key.key_id, rotated.key.key_id}
        parts.publisher.overlap_ms = 0
        await grow(parts, "2")
        assert await parts.publisher.publish_once() == 1
        assert await signers_of_latest(parts) == {rotated.key.key_id}

        await operator.call("DELETE", f"{ENV.kv}/data/ledger/{log.bucket}")
        await grow(parts, "3")
        assert await parts.publisher.publish_once() == 0
        async with replica_on_vault(database, vault) as fresh:
            with pytest.raises(AnchorMissing):
                await grow(fresh, "4")
        head = await parts.operations.adoptable(log)
        await parts.operations.adopt(log, head.frontier.size, head.root)
        await parts.operations.record_adoption(log, PEOPLE)
        assert await parts.publisher.publish_once() == 1
        async with replica_on_vault(database, vault) as fresh:
            await grow(fresh, "5")
    vault.close()
    operator.close()


async def test_one_call_signs_many_logs_and_a_version_that_is_not_there_signs_none(provisioned: Provisioned) -> None:
    vault = await provisioned.service("audit")
    signer = VaultLogSigner(vault, "prod")
    signatures = await signer.sign_batch([b"a\n", b"b\n"], 1)
    assert len(signatures) == 2
    assert all(signature is not None and len(signature) == 64 for signature in signatures)
    assert await signer.sign_batch([b"a\n", b"b\n"], 99) == [None, None], "answered with 200 all the same"
    vault.close()


@pytest.mark.slow
@requirement("ledger:rotation-from-the-genesis-key")
@pytest.mark.timeout(300)
async def test_the_genesis_key_verifies_across_rotations_in_vault_under_load(
    fresh_database: FreshDatabase, provisioned: Provisioned, tmp_path: Path
) -> None:
    database = fresh_database("audit")
    vault, operator = await provisioned.service("audit"), await provisioned.operator()
    async with replica_on_vault(database, vault) as one, replica_on_vault(database, vault) as two:
        stopping, done = asyncio.Event(), asyncio.Event()
        publishing = [asyncio.create_task(parts.publisher.run(stopping)) for parts in (one, two)]
        taken: list[Receipt] = []

        async def load(parts: Replica, name: str) -> None:
            n = 0
            while not done.is_set():
                taken.append(await append_one(parts, changed(stream=f"plan:{name}-{n}", tenant=SYSTEM)))
                n += 1

        work = [asyncio.create_task(load(parts, str(n))) for n, parts in enumerate((one, two, one, two))]
        log = await one.log(SYSTEM)
        for number in range(2, 5):
            await operator.call("POST", f"{ENV.transit}/keys/{ENV.key('log')}/rotate", {})
            rotated = await one.operations.rotate(log)
            async with asyncio.timeout(60):
                while len((await one.checkpoints.keyring(log)).keys) < number:
                    await asyncio.sleep(0.05)
        size = len(taken)
        async with asyncio.timeout(60):
            while len(taken) < size + 50:
                await asyncio.sleep(0.05)
        done.set()
        await asyncio.gather(*work)
        stopping.set()
        await asyncio.gather(*publishing)
        await one.publisher.publish_once()
        last = await one.checkpoints.latest(log.log_id)
        assert last is not None
        rows = await one.reader.page(log.log_id, 0, len(taken) + 100)
        assert [row.index for row in rows] == list(range(last.size))
        assert len(rows) == 1 + 3 + len(taken), "genesis, the announcements, and each entry once"
        assert all(rows[receipt.index].entry == receipt.entry for receipt in taken)
        assert rotated.key.key_id in await signers_of_latest(one, SYSTEM)
        assert await exported_verifies(one.engine, log, tmp_path / "export"), "who pinned the genesis key follows"
        (tmp_path / "export" / "rotation" / "1").unlink()
        command = ["audit", "verify", "log", str(tmp_path / "export"), "--vkey", log.vkey]
        assert await asyncio.to_thread(main, command) in (3, 4), "and not without the first step of the way"
    vault.close()
    operator.close()


AWAY_SECONDS = float(os.environ.get("COUNTERSEAL_TEST_VAULT_AWAY_SECONDS", "4"))


@pytest.mark.slow
@requirement("ledger:checkpointed-fails-closed")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["gone", "sealed", "silent"])
async def test_with_vault_away_durable_goes_on_and_everything_is_signed_after_it_is_back(how: str) -> None:
    away, back = threading.Event(), threading.Event()

    def gate(side: str, _method: str, _path: str) -> int | None:
        if side == "before" and away.is_set():
            if how == "sealed":
                return 503
            if how == "silent":
                back.wait(AWAY_SECONDS + 60)
            else:
                raise ConnectionAbortedError
        return None

    async with stack(("acme", "late")) as running, AsyncExitStack() as ending:
        tap = VaultTap(running.data_dir / "openbao", gate)
        tap.start()
        ending.callback(tap.stop)
        process = Process(running, {"COUNTERSEAL_VAULT__ADDRESS": tap.address})
        ending.callback(process.close)
        process.start()
        channel = await ending.enter_async_context(channel_to(process.address, await producer_identity(running)))
        client = LedgerClient(channel, timeout_seconds=20)
        ending.push_async_callback(client.close)
        await append_until_taken(client, "plan:first", 1)
        signed = await client.append_one(changed(stream="plan:signed"), CHECKPOINTED)
        away.set()
        began = time.monotonic()
        taken: list[Appended] = []
        while time.monotonic() - began < AWAY_SECONDS:
            taken.append(await client.append_one(changed(stream=f"plan:durable-{len(taken)}")))
        with pytest.raises(CheckpointStale, match="not checkpointed"):
            await client.append_one(changed(stream="plan:wanted"), CHECKPOINTED)
        if how != "silent":  # what nobody answers takes as long as the caller's patience
            with pytest.raises(ServiceError) as caught:
                await client.append_one(changed(stream="plan:late", tenant="late"))
            assert caught.value.reason == "SEAL_UNAVAILABLE", "a log that this process has not opened"
        away.clear()
        back.set()
        while True:
            try:
                last = await client.append_one(changed(stream="plan:after"), CHECKPOINTED)
                break
            except CheckpointStale:
                continue
        key = await key_of(running)
        for receipt in (signed, last):
            assert proofs.parse(receipt.tlog_proof).verify(receipt.entry, [key]).size > receipt.index
        assert len(taken) > AWAY_SECONDS
        assert proofs.parse(last.tlog_proof).verify(last.entry, [key]).size > taken[-1].index
        assert process.stop() == 0
