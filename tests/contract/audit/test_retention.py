"""Erasure, holds, disclosure and checks over the wire: who may, what two people do, what durable means."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc, retention_pb2_grpc
from counterseal.api.audit.v1 import retention_pb2 as pb
from counterseal.errors import LedgerUnavailable
from counterseal.ids import new_id
from counterseal.ledger import disclosure
from counterseal.ledger import entry as entries
from counterseal.ledger import proof as proofs
from counterseal.ledger.entry import Entry
from counterseal.ledger.note import VerifierKey
from counterseal.ledger.verify import verify_log
from counterseal.rpc.ledger_client import Appended
from counterseal.rpc.status import from_rpc_error
from counterseal_audit.retention import reapply
from support.audit import AuditServer, audit_server, replica
from support.erasing import finish, order
from support.payloads import admin, asked, opened, search
from support.postgres import FreshDatabase, ServiceDatabase
from support.requirements import requirement
from support.shapes import ENVIRONMENT

OPERATOR: dict[str, Any] = {"roles": ("operator",), "subject": "user:olga", "person_id": "p-olga"}
SECOND: dict[str, Any] = {"roles": ("operator",), "subject": "user:pat", "person_id": "p-pat"}
AUDITOR: dict[str, Any] = {"roles": ("auditor",), "subject": "user:aud", "person_id": "p-aud"}


async def retention(server: AuditServer, method: str, request: Any, path: str = "cli", **claims: Any) -> Any:
    metadata = () if path.startswith("svc/") else (("txn-token", server.token(path, **claims)),)
    async with server.channel(path) as channel:
        stub = retention_pb2_grpc.RetentionServiceStub(channel)
        return await getattr(stub, method)(request, metadata=metadata, timeout=20)


async def disclose(server: AuditServer, request: Any, **claims: Any) -> Any:
    metadata = (("txn-token", server.token("cli", **claims)),)
    async with server.channel("cli") as channel:
        stub = reader_pb2_grpc.LedgerReaderServiceStub(channel)
        return await stub.DiscloseEntry(request, metadata=metadata, timeout=20)


async def check(server: AuditServer, **claims: Any) -> list[pb.CheckPayloadsResponse]:
    metadata = (("txn-token", server.token("cli", **claims)),)
    async with server.channel("cli") as channel:
        stub = retention_pb2_grpc.RetentionServiceStub(channel)
        return [one async for one in stub.CheckPayloads(pb.CheckPayloadsRequest(), metadata=metadata, timeout=20)]


async def reason(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value).reason


async def sealed(server: AuditServer, subject: str = "user:ana", text: str = "secret", **more: Any) -> Appended:
    async with server.producer() as client:
        return await client.append_one(asked(subject, text, **more))


@requirement("erasure:two-people")
async def test_two_people_order_an_erasure_and_every_step_shows(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server:
        first = await sealed(server)
        asking = pb.EraseSubjectRequest(subject="user:ana", note="letter of 1 May")
        asked_for = await retention(server, "EraseSubject", asking, **OPERATOR)
        digest = asked_for.second_person.request_digest
        assert digest.startswith("sha256:")
        assert asked_for.person.startswith("p_")
        assert not (await retention(server, "ListErasures", pb.ListErasuresRequest())).erasures, "nothing was done"
        again = pb.EraseSubjectRequest(subject="user:ana")
        again.second_person.request_digest = digest
        assert await reason(retention(server, "EraseSubject", again, **OPERATOR)) == "SECOND_PERSON_REQUIRED"
        other = pb.EraseSubjectRequest(subject="user:bob")
        other.second_person.request_digest = digest
        assert await reason(retention(server, "EraseSubject", other, **SECOND)) == "SECOND_PERSON_REQUIRED"
        erasure = (await retention(server, "EraseSubject", again, **SECOND)).erasure
        assert erasure.state == pb.ERASURE_STATE_ORDERED
        assert list(erasure.missing) == ["audit", "credentials", "executor", "policy"]
        row = await server.parts.reader.by_event_id((await server.parts.log()).log_id, erasure.event_id)
        assert row is not None, "the order is durable before the answer"
        document = entries.parse(row.entry).document
        assert document["data"]["person"] == asked_for.person
        assert len(document["data"]["ordered_by"]) == 2
        await finish(server.parts, erasure.job_id)
        done = await retention(server, "GetErasure", pb.GetErasureRequest(job_id=erasure.job_id))
        assert done.erasure.state == pb.ERASURE_STATE_FINISHED
        assert (done.erasure.count, list(done.erasure.missing)) == (2, [])
        assert await opened(server.parts, first.index) == {}
        listed = await retention(server, "ListErasures", pb.ListErasuresRequest(unfinished_only=True))
        assert not listed.erasures


async def test_who_may_not_order_is_refused(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await sealed(server)
        erase, hold = pb.EraseSubjectRequest(subject="user:ana"), pb.PlaceHoldRequest(request_id="r-1")
        for claims in ({}, AUDITOR, {**OPERATOR, "chain": ({"sub": "refund-bot"},)}):
            assert await reason(retention(server, "EraseSubject", erase, **claims)) == "ROLE_REQUIRED"
            assert await reason(retention(server, "PlaceHold", hold, **claims)) == "ROLE_REQUIRED"
            lift = pb.LiftHoldRequest(hold_id=new_id())
            assert await reason(retention(server, "LiftHold", lift, **claims)) == "ROLE_REQUIRED"
        for method, request in (("ListErasures", pb.ListErasuresRequest()), ("ListHolds", pb.ListHoldsRequest())):
            assert await reason(retention(server, method, request, scope=())) == "ROLE_REQUIRED"
        for method, other in (("EraseSubject", erase), ("PlaceHold", hold), ("ListHolds", pb.ListHoldsRequest())):
            assert await reason(retention(server, method, other, "svc/policy")) == "PEER_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("EraseSubject", pb.EraseSubjectRequest()),
        ("EraseSubject", pb.EraseSubjectRequest(subject="a" * 300)),
        ("EraseSubject", pb.EraseSubjectRequest(subject="user:\x1b[2Jana")),
        ("EraseSubject", pb.EraseSubjectRequest(subject="user:ana", note="n" * 3000)),
        ("GetErasure", pb.GetErasureRequest(job_id="x")),
        ("PlaceHold", pb.PlaceHoldRequest()),
        ("PlaceHold", pb.PlaceHoldRequest(request_id="free text")),
        ("PlaceHold", pb.PlaceHoldRequest(plan_digest="sha256:zz")),
        ("LiftHold", pb.LiftHoldRequest(hold_id="x")),
        ("ListErasures", pb.ListErasuresRequest(page_size=-1)),
        ("ListHolds", pb.ListHoldsRequest(page_token="x' OR 1")),
    ],
)
async def test_bad_input_has_a_reason(fresh_database: FreshDatabase, method: str, request_: Any) -> None:
    async with audit_server(fresh_database("audit"), publish=False) as server:
        assert await reason(retention(server, method, request_, **OPERATOR)) == "INPUT_INVALID"


async def test_another_tenants_erasures_and_holds_are_absent(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit"), publish=False) as server:
        await sealed(server)
        job = await order(server.parts)
        hold = (await retention(server, "PlaceHold", pb.PlaceHoldRequest(request_id="r-2"), **OPERATOR)).hold
        stranger = {**OPERATOR, "tenant": "globex"}
        get = pb.GetErasureRequest(job_id=job.job_id)
        assert await reason(retention(server, "GetErasure", get, **stranger)) == "NOT_FOUND"
        lift = pb.LiftHoldRequest(hold_id=hold.hold_id)
        assert await reason(retention(server, "LiftHold", lift, **stranger)) == "NOT_FOUND"
        assert not (await retention(server, "ListErasures", pb.ListErasuresRequest(), **stranger)).erasures
        assert not (await retention(server, "ListHolds", pb.ListHoldsRequest(), **stranger)).holds
        pages = await check(server, **stranger)
        assert (pages[-1].size, pages[-1].finding_count) == (0, 0)


async def test_holds_are_placed_listed_and_lifted(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit"), publish=False) as server:
        await sealed(server, retention="r30d")
        placed = [
            (await retention(server, "PlaceHold", request, **OPERATOR)).hold
            for request in (
                pb.PlaceHoldRequest(request_id="r-1", note="court"),
                pb.PlaceHoldRequest(subject="user:ana"),
                pb.PlaceHoldRequest(plan_digest="sha256:" + "ab" * 32),
            )
        ]
        assert [hold.count for hold in placed] == [2, 2, 0]
        assert [hold.WhichOneof("covers") for hold in placed] == ["request_id", "person", "plan_digest"]
        page = await retention(server, "ListHolds", pb.ListHoldsRequest(page_size=2))
        rest = await retention(server, "ListHolds", pb.ListHoldsRequest(page_token=page.next_page_token))
        assert [h.hold_id for h in (*page.holds, *rest.holds)] == [h.hold_id for h in reversed(placed)]
        lifted = await retention(server, "LiftHold", pb.LiftHoldRequest(hold_id=placed[0].hold_id), **OPERATOR)
        assert lifted.hold.HasField("lift_time")
        assert len((await retention(server, "ListHolds", pb.ListHoldsRequest())).holds) == 2
        assert len((await retention(server, "ListHolds", pb.ListHoldsRequest(include_lifted=True))).holds) == 3


@requirement("disclosure:recorded-first")
async def test_an_auditor_with_a_purpose_gets_the_chosen_fields_and_the_log_says_so(
    fresh_database: FreshDatabase,
) -> None:
    async with audit_server(fresh_database("audit")) as server:
        first = await sealed(server, text="give me my money back")
        vkey = (await server.parts.log()).vkey
        async with asyncio.timeout(20):
            while (last := await server.parts.checkpoints.latest((await server.parts.log()).log_id)) is None or (
                last.size <= first.index
            ):
                await asyncio.sleep(0.02)
        request = reader_pb2.DiscloseEntryRequest(
            index=first.index, names=["user_request"], purpose="case-4711", note="complaint of the customer"
        )
        answer = await disclose(server, request, **AUDITOR)
        (shown,) = answer.disclosures
        assert disclosure.parse(shown).value == "give me my money back"
        document = entries.parse(answer.entry.entry).document
        assert disclosure.digest(shown) in document["_sd"]
        proofs.parse(answer.tlog_proof).verify(answer.entry.entry, [VerifierKey.parse(vkey)])
        row = await server.parts.reader.by_event_id((await server.parts.log()).log_id, answer.disclosed_event_id)
        assert row is not None
        said = entries.parse(row.entry)
        assert said.type == "access.disclosed"
        assert (said.data["purpose"], said.data["count"]) == ("case-4711", 1)
        assert said.data["manifest_digest"] == answer.manifest_digest
        assert await opened(server.parts, row.index) == {
            "statement": {"names": ["user_request"], "note": "complaint of the customer"}
        }


async def test_a_disclosure_needs_role_purpose_and_a_field_that_is_there(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit"), publish=False) as server:
        first = await sealed(server)
        good = {"index": first.index, "names": ["user_request"], "purpose": "case-1"}

        async def why(claims: dict[str, Any], **changes: Any) -> str:
            return await reason(disclose(server, reader_pb2.DiscloseEntryRequest(**{**good, **changes}), **claims))

        assert await why({}) == "ROLE_REQUIRED"
        assert await why(OPERATOR) == "ROLE_REQUIRED"
        assert await why({**AUDITOR, "scope": ()}) == "ROLE_REQUIRED"
        assert await why({**AUDITOR, "chain": ({"sub": "refund-bot"},)}) == "ROLE_REQUIRED"
        assert await why(AUDITOR, purpose="") == "INPUT_INVALID"
        assert await why(AUDITOR, purpose="just looking") == "INPUT_INVALID"
        assert await why(AUDITOR, names=[]) == "INPUT_INVALID"
        assert await why(AUDITOR, names=["user_request"] * 2) == "INPUT_INVALID"
        assert await why(AUDITOR, names=["rationale"]) == "NOT_FOUND"
        assert await why(AUDITOR, index=99) == "NOT_FOUND"
        assert await why({**AUDITOR, "tenant": "globex"}) == "NOT_FOUND"
        assert (await server.parts.reader.size((await server.parts.log()).log_id)) == 2, "nothing was recorded"
        await finish(server.parts, (await order(server.parts)).job_id)
        assert await why(AUDITOR) == "FACTS_ERASED"


@requirement("disclosure:recorded-first")
async def test_no_field_leaves_without_a_durable_entry_about_it(fresh_database: FreshDatabase) -> None:
    """The connection to the database is cut behind the read: the entry cannot be written, so nothing is answered."""
    database = fresh_database("audit")
    async with audit_server(database, publish=False) as server:
        first = await sealed(server)
        log = await server.parts.log()
        before = await server.parts.reader.size(log.log_id)
        await admin(database, "REVOKE INSERT ON ledger_entry FROM counterseal_audit")
        request = reader_pb2.DiscloseEntryRequest(index=first.index, names=["user_request"], purpose="case-1")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await disclose(server, request, **AUDITOR)
        assert b"secret" not in repr(caught.value).encode()
        await admin(database, "GRANT INSERT ON ledger_entry TO counterseal_audit")
        assert await server.parts.reader.size(log.log_id) == before


@requirement("payload:undeclared-loss-is-found")
async def test_a_check_counts_and_names_what_is_missing(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with audit_server(database, publish=False) as server:
        await sealed(server)
        pages = await check(server)
        assert (pages[-1].checked_count, pages[-1].size, pages[-1].intact_count) == (2, 2, 2)
        await admin(database, "DELETE FROM ledger_payload WHERE ord = 0")
        last = (await check(server))[-1]
        assert (last.finding_count, [(f.kind, f.index) for f in last.findings]) == (1, [("tampered", 1)])
        await finish(server.parts, (await order(server.parts)).job_id)
        assert (await check(server))[-1].finding_count == 0, "an erasure covers what was missing before it, too"


async def test_services_tail_erasures_of_every_log_gapless(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit"), publish=False) as server:
        await sealed(server)
        await sealed(server, tenant="globex")
        job = await order(server.parts)

        @contextlib.asynccontextmanager
        async def tail(*positions: pb.LogPosition) -> AsyncIterator[Any]:
            async with server.channel("svc/policy") as channel:
                stub = retention_pb2_grpc.RetentionServiceStub(channel)
                call = stub.TailErasures(pb.TailErasuresRequest(positions=positions))
                yield call
                call.cancel()

        seen: dict[str, Any] = {}
        async with asyncio.timeout(20), tail() as call:
            async for message in call:
                if message.position.origin:
                    seen[message.tenant] = message
                if len(seen) == 2:
                    break
        types = [entries.parse(one.entry).type for one in seen["acme"].entries]
        assert (types, list(seen["globex"].entries)) == (["erasure.ordered"], [])
        async with asyncio.timeout(20), tail(*(one.position for one in seen.values())) as call:
            await finish(server.parts, job.job_id)
            found: list[Entry] = []
            async for message in call:
                found += [entries.parse(one.entry) for one in message.entries]
                if len(found) == 4:
                    break
        assert [one.type for one in found] == ["payload.erased"] * 4
        assert {one.producer for one in found} == {"audit", "policy", "credentials", "executor"}
        async with server.channel("cli") as channel:
            stub = retention_pb2_grpc.RetentionServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError):
                async for _ in stub.TailErasures(pb.TailErasuresRequest()):
                    pass


@requirement("erasure:survives-a-restore")
async def test_a_restored_backup_is_erased_again_from_the_exported_log(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    database = fresh_database("audit")
    async with audit_server(database) as server:
        first = await sealed(server, text="the secret of ana")
        bob = await sealed(server, "user:bob", "the secret of bob")
        vkey = (await server.parts.log()).vkey
    backup = f"{database.name}_backup"
    await copy(database, database.name, backup)
    ((wrapped,),) = await admin(
        database, "SELECT wrapped FROM ledger_dek WHERE subject = $1", first.pseudonyms["user:ana"]
    )
    async with audit_server(database) as server:
        await finish(server.parts, (await order(server.parts)).job_id)
        size = await server.parts.reader.size((await server.parts.log()).log_id)
        export = await server.export(tmp_path / "export", min_size=size)
    restored = ServiceDatabase(
        backup, *(dsn.replace(database.name, backup) for dsn in (database.dsn, database.owner_dsn, database.admin_dsn))
    )
    orders = reapply.Orders()
    report = verify_log(reapply.Folder(export), VerifierKey.parse(vkey), on_entry=orders.add)
    assert report.verdict is None
    async with replica(restored) as parts:
        assert (await opened(parts, first.index))["user_request"] == "the secret of ana", "the backup has it still"
    owner = create_async_engine(restored.owner_dsn.replace("postgresql://", "postgresql+asyncpg://", 1))
    try:
        applied = await reapply.reapply(owner, report.tenant, report.environment, orders)
        again = await reapply.reapply(owner, report.tenant, report.environment, orders)
    finally:
        await owner.dispose()
    assert (applied.erasure_count, applied.destroyed_key_count, applied.deleted_row_count) == (1, 1, 2)
    assert (again.destroyed_key_count, again.deleted_row_count) == (0, 0)
    async with replica(restored) as parts:
        assert await opened(parts, first.index) == {}
        assert (await opened(parts, bob.index))["user_request"] == "the secret of bob"
    await admin(restored, "VACUUM ledger_payload")
    found = await search(restored, {"key": wrapped.encode()})
    assert found["key"] == []
    await admin(database, f'DROP DATABASE "{backup}" WITH (FORCE)')


@requirement("erasure:survives-a-restore")
async def test_keys_that_somebody_still_sees_are_said_to_be_there(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with audit_server(database) as server:
        first = await sealed(server, text="the secret of ana")
    find = "SELECT dek_id, wrapped FROM ledger_dek WHERE subject = $1"
    ((dek, wrapped),) = await admin(database, find, first.pseudonyms["user:ana"])
    orders = reapply.Orders()
    orders.declared.deks.add(str(dek))
    owner = create_async_engine(database.owner_dsn.replace("postgresql://", "postgresql+asyncpg://", 1))
    backup = await asyncpg.connect(database.admin_dsn)
    try:
        await backup.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        await backup.execute("SELECT 1")
        with pytest.raises(LedgerUnavailable, match="run this again"):
            await reapply.reapply(owner, "acme", ENVIRONMENT, orders)
        assert (await search(database, {"key": wrapped.encode()}))["key"]
        await backup.close()
        assert (await reapply.reapply(owner, "acme", ENVIRONMENT, orders)).destroyed_key_count == 0
        assert (await search(database, {"key": wrapped.encode()}))["key"] == []
    finally:
        await backup.close()
        await owner.dispose()


async def copy(database: ServiceDatabase, source: str, target: str) -> None:
    """Make a copy of a database, as a backup of now."""
    connection = await asyncpg.connect(database.admin_dsn.replace(source, "postgres"))
    try:
        await connection.execute(
            f'CREATE DATABASE "{target}" TEMPLATE "{source}" STRATEGY file_copy OWNER counterseal_audit_owner'
        )
    finally:
        await connection.close()
