"""A producer that is one release behind: audit is upgraded first, and takes what the accepted contract could say.

The producer's messages are not ours: they are built from `protos/baseline.binpb`, the contract as it was last accepted,
so that this test bites from the first field that is added on.
"""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from counterseal.api.audit.v1 import ledger_pb2
from counterseal.ledger.entry import parse
from counterseal.ledger.registry import REGISTRY
from counterseal.ledger.tree import leaf_hash
from support import incidents
from support.audit import AuditServer, audit_server
from support.entries import changed, received
from support.postgres import FreshDatabase
from support.requirements import requirement

BASELINE = Path(__file__).resolve().parents[3] / "protos" / "baseline.binpb"
PACKAGE = "counterseal.api.audit.v1"
OPTIONAL = ("txn", "trace_id", "retention")


class Older:
    """The message classes of the accepted contract."""

    def __init__(self) -> None:
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(BASELINE.read_bytes()).file:
            pool.Add(file)
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))

    def entry(self, new: ledger_pb2.NewEntry) -> Any:
        """The same entry as the older producer can say it: fields that it does not know are not there."""
        return json_format.ParseDict(json_format.MessageToDict(new), self.NewEntry(), ignore_unknown_fields=True)


async def send(server: AuditServer, older: Older, entries: list[Any], producer: str) -> Any:
    """One AppendBatch over the wire, both ways in the older messages."""
    async with server.channel(f"svc/{producer}") as channel:
        call = channel.unary_unary(
            f"/{PACKAGE}.LedgerService/AppendBatch",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=older.AppendBatchResponse.FromString,
        )
        return await call(older.AppendBatchRequest(entries=entries), timeout=30)


def strip(entry: ledger_pb2.NewEntry) -> None:
    """Take out everything that may be absent."""
    for name in OPTIONAL:
        entry.ClearField(name)  # type: ignore[arg-type]
    kind = entry.event.WhichOneof("event")
    assert kind is not None
    for name in REGISTRY[kind.replace("_", ".", 1)].clear.optional:
        getattr(entry.event, kind).ClearField(name)


@requirement("ledger:older-producer")
@pytest.mark.parametrize("bare", [False, True], ids=["as-it-was", "without-what-is-optional"])
async def test_entries_of_a_producer_one_release_behind_are_appended_and_its_answers_understood(
    fresh_database: FreshDatabase, bare: bool
) -> None:
    older = Older()
    kinds: dict[str, tuple[str, ledger_pb2.NewEntry]] = {}
    for producer, entry in incidents.requests():
        kinds.setdefault(entry.event.WhichOneof("event") or "", (producer, entry))
    assert len(kinds) > 15
    extra = [("executor", received()), ("executor", changed())]
    async with audit_server(fresh_database("audit"), publish=False, follow=False) as server:
        index = 1
        for producer, entry in [*kinds.values(), *extra]:
            if bare:
                strip(entry)
            old = older.entry(entry)
            (first,) = (await send(server, older, [old], producer)).results
            (again,) = (await send(server, older, [old], producer)).results
            assert first.WhichOneof("result") == "appended", (entry.event.WhichOneof("event"), first)
            assert (first.appended.index, again.appended.index) == (index, index)
            assert (first.appended.duplicate, again.appended.duplicate) == (False, True)
            assert first.appended.leaf_hash == leaf_hash(first.appended.entry)
            assert parse(first.appended.entry).event_id == entry.event_id
            index += 1
