"""LedgerAdminService over the wire: who may do what, that two people did it, and what producers can hold against us."""

from typing import Any

import asyncpg
import grpc
import pytest

from counterseal.api.audit.v1 import ledger_admin_pb2 as pb
from counterseal.api.audit.v1 import ledger_admin_pb2_grpc
from counterseal.ids import new_id
from counterseal.ledger import entry as entries
from counterseal.rpc.status import from_rpc_error
from support.audit import AuditServer, append_one, audit_server
from support.entries import changed
from support.postgres import FreshDatabase
from support.requirements import requirement

ANA: dict[str, Any] = {"subject": "user:ana", "person_id": "ana", "roles": ("operator",)}
OLGA: dict[str, Any] = {"subject": "user:olga", "person_id": "olga", "roles": ("operator",)}


async def ask(server: AuditServer, method: str, request: Any, path: str = "cli", **claims: Any) -> Any:
    token = server.token(path, **{**ANA, **claims})
    async with server.channel(path) as channel:
        stub = ledger_admin_pb2_grpc.LedgerAdminServiceStub(channel)
        return await getattr(stub, method)(request, metadata=(("txn-token", token),), timeout=20)


async def reason(server: AuditServer, method: str, request: Any, path: str = "cli", **claims: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(server, method, request, path, **claims)
    return from_rpc_error(caught.value).reason


REQUESTS: dict[str, Any] = {
    "FreezeLog": pb.FreezeLogRequest(reason_code="OPERATOR"),
    "OpenShard": pb.OpenShardRequest(),
    "AdoptAnchor": pb.AdoptAnchorRequest(),
    "RotateLogKey": pb.RotateLogKeyRequest(),
    "ReconcileReceipts": pb.ReconcileReceiptsRequest(),
}


@requirement("ledger:operators-only")
@pytest.mark.parametrize("method", list(REQUESTS))
async def test_only_an_operator_in_person_administers_the_tenants_log(
    fresh_database: FreshDatabase, method: str
) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await append_one(server.parts, changed())
        await append_one(server.parts, changed(tenant="_system"))
        plain = REQUESTS[method]
        system = type(plain)()
        system.CopyFrom(plain)
        system.system = True
        assert await reason(server, method, plain, roles=()) == "ROLE_REQUIRED"
        assert await reason(server, method, plain, roles=("approver", "platform_operator")) == "ROLE_REQUIRED"
        assert await reason(server, method, system) == "ROLE_REQUIRED", "a tenant's operator on the environment's log"
        assert await reason(server, method, plain, path="agent/refund-bot") == "PEER_NOT_ALLOWED"
        assert await reason(server, method, plain, tenant="globex") == "NOT_FOUND"


@requirement("ledger:operators-only")
async def test_two_people_freeze_and_continue_a_log(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await append_one(server.parts, changed())
        first = await ask(server, "FreezeLog", REQUESTS["FreezeLog"])
        assert first.second_person.request_digest
        assert first.size == 0
        await append_one(server.parts, changed(seq=2))
        echo = pb.FreezeLogRequest(reason_code="OPERATOR", second_person=first.second_person)
        assert await reason(server, "FreezeLog", echo) == "SECOND_PERSON_REQUIRED"
        other = pb.FreezeLogRequest(reason_code="DRILL_ENDED", second_person=first.second_person)
        assert await reason(server, "FreezeLog", other, **OLGA) == "SECOND_PERSON_REQUIRED"
        assert await reason(server, "OpenShard", pb.OpenShardRequest()) == "WRONG_STATE"
        assert await reason(server, "FreezeLog", pb.FreezeLogRequest(reason_code="because")) == "INPUT_INVALID"
        frozen = await ask(server, "FreezeLog", echo, **OLGA)
        assert frozen.size == 4
        log = await server.parts.operations.newest("acme")
        await server.parts.demand.wait(log.log_id, 4, witnessed=False)
        opening = await ask(server, "OpenShard", pb.OpenShardRequest())
        opened = await ask(server, "OpenShard", pb.OpenShardRequest(second_person=opening.second_person), **OLGA)
        assert opened.shard == 1
        receipt = await append_one(server.parts, changed(seq=3))
        made = await server.parts.operations.newest("acme")
        assert (made.origin, made.vkey) == (opened.origin, opened.vkey)
        rows = await server.parts.reader.page(made.log_id, 0, 10)
        assert entries.parse(rows[0].entry).data["predecessor"] == opened.predecessor == opening.predecessor
        assert len(entries.parse(rows[1].entry).data["ordered_by"]) == 2
        assert receipt.index == 2


@requirement("ledger:operators-only")
async def test_two_people_adopt_an_anchor_that_was_deleted(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit"), publish=False) as server:
        await append_one(server.parts, changed())
        await server.parts.publisher.publish_once()
        log = await server.parts.log()
        assert await reason(server, "AdoptAnchor", pb.AdoptAnchorRequest()) == "WRONG_STATE"
        server.parts.anchors.delete(log.bucket)
        head = await ask(server, "AdoptAnchor", pb.AdoptAnchorRequest())
        assert not head.HasField("second_person")
        wanted = pb.AdoptAnchorRequest(size=head.size, root_hash=head.root_hash)
        first = await ask(server, "AdoptAnchor", wanted)
        wrong = pb.AdoptAnchorRequest(size=head.size, root_hash=b"\x01" * 32, second_person=first.second_person)
        assert await reason(server, "AdoptAnchor", wrong, **OLGA) == "SECOND_PERSON_REQUIRED"
        assert log.bucket not in server.parts.anchors.pages, "one person adopts nothing"
        wanted.second_person.CopyFrom(first.second_person)
        adopted = await ask(server, "AdoptAnchor", wanted, **OLGA)
        assert adopted.adopt_time.ToMilliseconds() > 0
        assert await server.parts.publisher.publish_once() == 1


@requirement("ledger:receipts-reconciled")
async def test_receipts_that_the_log_does_not_bear_out_are_named(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with audit_server(database, publish=False) as server:
        requests = [changed(stream=f"plan:{n}") for n in range(6)]
        taken = [await append_one(server.parts, request) for request in requests]
        receipts = [
            pb.Receipt(event_id=request.event_id, index=receipt.index, leaf_hash=receipt.leaf_hash)
            for request, receipt in zip(requests, taken, strict=True)
        ]
        answer = await ask(server, "ReconcileReceipts", pb.ReconcileReceiptsRequest(receipts=receipts))
        assert (answer.matched_count, list(answer.problems), answer.size) == (6, [], 7)
        admin = await asyncpg.connect(database.admin_dsn)
        await admin.execute("SET session_replication_role = replica")
        await admin.execute("DELETE FROM ledger_entry WHERE idx = $1", receipts[0].index)
        flip = "set_byte(entry, 30, get_byte(entry, 30) # 1)"
        await admin.execute(f"UPDATE ledger_entry SET entry = {flip} WHERE idx = $1", receipts[1].index)
        await admin.execute(
            "UPDATE ledger_entry SET (entry, leaf_hash) = ($2, $3) WHERE idx = $1",
            receipts[2].index,
            taken[3].entry,
            taken[3].leaf_hash,
        )
        await admin.close()
        receipts[5].index += 1
        unknown = pb.Receipt(event_id=new_id(), index=1, leaf_hash=b"\x01" * 32)
        answer = await ask(server, "ReconcileReceipts", pb.ReconcileReceiptsRequest(receipts=[*receipts, unknown]))
        found = {problem.receipt.event_id: problem.problem for problem in answer.problems}
        assert found == {
            receipts[0].event_id: "missing",
            receipts[1].event_id: "stored hash",
            receipts[2].event_id: "altered",
            receipts[5].event_id: "moved",
            unknown.event_id: "missing",
        }
        assert answer.matched_count == 2
        bad = pb.ReconcileReceiptsRequest(receipts=[pb.Receipt(event_id="x", index=1, leaf_hash=b"\x01" * 32)])
        assert await reason(server, "ReconcileReceipts", bad) == "INPUT_INVALID"
        many = pb.ReconcileReceiptsRequest(receipts=[unknown] * 1025)
        assert await reason(server, "ReconcileReceipts", many) == "INPUT_INVALID"
