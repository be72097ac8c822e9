"""The append client against a ledger that lies, reorders, falls silent and comes back."""

import asyncio
import gc
import socket

import grpc
import pytest

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.errors import IdempotencyKeyReused, InputInvalid, LedgerUnavailable, LogForked
from counterseal.ledger import disclosure
from counterseal.ledger import entry as entries
from counterseal.ledger.tree import leaf_hash
from counterseal.rpc.ledger_client import LedgerClient, Refused, outcome_of
from counterseal.rpc.ledger_wire import new_entry
from counterseal.rpc.tls import CHANNEL_OPTIONS
from support.entries import DIGEST, NOW, changed, received
from support.ledger import TinyLedger, pseudonym, serve


async def test_concurrent_appends_are_answered_each_with_its_own_receipt() -> None:
    ledger = TinyLedger()
    async with serve(ledger) as channel:
        client = LedgerClient(channel)
        requests = [changed(stream=f"plan:{n}") for n in range(50)]
        receipts = await asyncio.gather(*(client.append_one(request) for request in requests))
        assert [receipt.event_id for receipt in receipts] == [request.event_id for request in requests]
        assert sorted(receipt.index for receipt in receipts) == list(range(50))
        await client.close()


async def test_a_sealed_field_is_only_a_digest_in_the_entry_and_a_person_a_pseudonym() -> None:
    ledger = TinyLedger()
    async with serve(ledger) as channel:
        client = LedgerClient(channel)
        request = received()
        receipt = await client.append_one(request)
        await client.close()
    assert b"ana" not in receipt.entry
    assert receipt.pseudonyms == {"user:ana": pseudonym("user:ana")}
    document = entries.parse(receipt.entry).document
    assert document["_sd"] == [disclosure.digest(text) for text in request.disclosures]


async def test_a_silent_ledger_is_unavailable_and_the_next_append_works() -> None:
    ledger = TinyLedger()
    async with serve(ledger) as channel:
        client = LedgerClient(channel)
        ledger.down = True
        with pytest.raises(LedgerUnavailable):
            await client.append([changed()])
        ledger.down = False
        assert (await client.append_one(changed())).index == 0
        await client.close()


async def test_a_stream_that_was_retired_is_opened_again_without_an_error() -> None:
    ledger = TinyLedger()
    async with serve(ledger) as channel:
        client = LedgerClient(channel)
        await client.append_one(changed())
        ledger.lose_answers = 1
        receipt = await client.append_one(changed(seq=2))
        assert receipt.duplicate, "the entry was there already: the retry used the same event id"
        assert len(ledger.log) == 2
        await client.close()


async def test_no_server_at_all_is_unavailable() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        client = LedgerClient(lambda: channel, timeout_seconds=2)
        with pytest.raises(LedgerUnavailable):
            await client.append([changed()])
        await client.close()


async def test_a_ledger_that_starts_a_moment_after_the_connection_was_refused_is_waited_for() -> None:
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{kept.getsockname()[1]}"
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        client = LedgerClient(channel)
        while channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            await asyncio.sleep(0.01)
        append = asyncio.create_task(client.append_one(changed()))
        await asyncio.sleep(0.3)
        async with serve(TinyLedger(), address):
            assert (await append).index == 0
            await client.close()


async def test_a_refusal_is_the_ledgers_reason_and_holds_up_nobody_else() -> None:
    ledger = TinyLedger()
    async with serve(ledger) as channel:
        client = LedgerClient(channel)
        bad, good = changed(), changed(seq=2)
        ledger.refuse[bad.event_id] = "IDEMPOTENCY_KEY_REUSED"
        first, second = await client.append([bad, good])
        assert isinstance(first, Refused)
        assert isinstance(first.error, IdempotencyKeyReused)
        assert not isinstance(second, Refused)
        await client.close()


def receipt_for(request: ledger_pb2.NewEntry, stored: bytes) -> ledger_pb2.AppendResult:
    appended = ledger_pb2.AppendedEntry(index=0, leaf_hash=leaf_hash(stored), entry=stored)
    return ledger_pb2.AppendResult(event_id=request.event_id, appended=appended)


def stored_by_an_honest_ledger(request: ledger_pb2.NewEntry) -> bytes:
    return TinyLedger().append(request).appended.entry


def test_other_content_than_was_sent_is_a_fork() -> None:
    sent, other = changed(), changed(seq=2)
    other.event_id = sent.event_id
    with pytest.raises(LogForked, match="other content"):
        outcome_of(sent, receipt_for(sent, stored_by_an_honest_ledger(other)))


def test_a_leaf_hash_of_other_bytes_is_a_fork() -> None:
    sent = changed()
    result = receipt_for(sent, stored_by_an_honest_ledger(sent))
    result.appended.leaf_hash = b"\0" * 32
    with pytest.raises(LogForked, match="leaf hash"):
        outcome_of(sent, result)


def test_dropping_a_sealed_field_or_swapping_a_person_is_a_fork() -> None:
    sent = received(subject="user:ana")
    without = received(subject="user:ana", sealed={}, event_id=sent.event_id)
    with pytest.raises(LogForked, match="other content"):
        outcome_of(sent, receipt_for(sent, stored_by_an_honest_ledger(without)))
    vote = new_entry(
        "containment.lifted",
        {"scope": "tenant:acme", "epoch": 2, "lifted_by": ["user:ana", "user:olga"]},
        event_id=sent.event_id,
        event_time_ms=NOW,
        tenant="acme",
        environment="prod",
        plan_digest=DIGEST,
    )
    ledger = TinyLedger(producer="policy")
    stored = ledger.append(vote).appended.entry
    outcome_of(vote, receipt_for(vote, stored))
    same = stored.replace(pseudonym("user:olga").encode(), b"user:olga-in-clear.........")
    with pytest.raises(LogForked):
        outcome_of(vote, receipt_for(vote, same))


def test_an_entry_that_no_message_can_carry_is_refused_before_it_is_stored() -> None:
    with pytest.raises(InputInvalid, match="at most"):
        received(sealed=dict.fromkeys(("user_request", "prompt", "intent"), "x" * 1000000))


def test_new_entry_names_the_field_that_is_wrong() -> None:
    with pytest.raises(InputInvalid, match="colour"):
        new_entry("plan.changed", {"colour": "red"}, event_id="x", event_time_ms=1, tenant="a", environment="b")
    with pytest.raises(InputInvalid, match="event type"):
        new_entry("plan.exploded", {}, event_id="x", event_time_ms=1, tenant="a", environment="b")
    with pytest.raises(InputInvalid, match="event_id"):
        new_entry("log.heartbeat", {"size": 1}, event_id="not-a-uuid", event_time_ms=1, tenant="a", environment="b")


async def test_a_stream_that_broke_leaves_no_task_behind(caplog: pytest.LogCaptureFixture) -> None:
    ledger = TinyLedger()
    async with serve(ledger) as channel:
        client = LedgerClient(channel)
        await client.append_one(changed())
        for seq in range(2, 6):
            ledger.lose_answers = 1
            await client.append_one(changed(seq=seq))
        await client.close()
        async with asyncio.timeout(10):
            while any("_consume_request" in repr(task) for task in asyncio.all_tasks()):
                gc.collect()
                await asyncio.sleep(0.01)
    assert not [record.getMessage() for record in caplog.records if record.name == "asyncio"]


async def test_a_channel_that_was_closed_is_unavailable() -> None:
    async with serve(TinyLedger()) as channel:
        client = LedgerClient(channel)
    with pytest.raises(LedgerUnavailable, match="closed"):
        await client.append_one(changed())
