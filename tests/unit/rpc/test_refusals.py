"""Refused calls in the ledger: each is counted, and a flood is one entry per second."""

import asyncio

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.ids import new_id
from counterseal.rpc.interceptor import Refusal
from counterseal.rpc.refusals import RefusalRecorder


def refusal(reason: str = "PEER_NOT_ALLOWED", tenant: str = "acme", agent: str | None = "refund-bot") -> Refusal:
    return Refusal("/a.b.C/Method", "spiffe://counterseal.test/prod/agent/refund-bot", reason, tenant, "r 1", agent)


async def test_a_flood_is_one_entry_at_once_and_one_with_the_count_after_the_window() -> None:
    put: list[ledger_pb2.NewEntry] = []

    async def keep(entry: ledger_pb2.NewEntry) -> None:
        put.append(entry)

    recorder = RefusalRecorder(keep, environment="prod", clock=lambda: 1, new_id=new_id, window_seconds=0.05)
    for _ in range(500):
        await recorder(refusal())
    await recorder(refusal("TOKEN_INVALID", tenant="", agent=None))
    assert [entry.event.call_refused.count for entry in put] == [1, 1]
    assert [entry.tenant for entry in put] == ["acme", "_system"]
    assert put[0].request_id == "r_1"
    await asyncio.sleep(0.2)
    assert [entry.event.call_refused.count for entry in put] == [1, 1, 499]
    await recorder(refusal())
    assert len(put) == 4, "the window has closed: the next refusal is recorded at once"
    await asyncio.sleep(0.12)
