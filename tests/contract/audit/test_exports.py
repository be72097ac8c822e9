"""Exports over the wire: who took which log is in the log before the first byte of it leaves."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from counterseal.api.audit.v1 import reader_pb2, reader_pb2_grpc
from counterseal.canonical import digest_of, parse_strict
from counterseal.cli.audit_sources import Directory
from counterseal.cli.audit_verdict import manifest_of
from counterseal.client.export import write_export
from counterseal.ids import new_id
from counterseal.ledger.verify import verify_log
from counterseal.rpc.status import from_rpc_error
from counterseal_audit.logs.store import Log
from support.audit import AuditServer, append_one, audit_server
from support.entries import changed
from support.payloads import admin
from support.postgres import FreshDatabase
from support.requirements import requirement

AUDITOR: dict[str, Any] = {"subject": "user:aud", "person_id": "p-aud", "roles": ("auditor",)}
PEOPLE = ("user:olga", "user:pat")
DIGEST = "sha256:" + "cd" * 32

Pieces = list[reader_pb2.ExportLogResponse]


async def take(
    server: AuditServer, *, min_size: int = 0, purpose: str = "", got: Pieces | None = None, **claims: Any
) -> Pieces:
    """Export as the auditor. got: takes the pieces as they come, also of an export that fails."""
    got = [] if got is None else got
    metadata = (("txn-token", server.token("cli", **{**AUDITOR, **claims})),)
    async with server.channel("cli") as channel:
        stub = reader_pb2_grpc.LedgerReaderServiceStub(channel)
        request = reader_pb2.ExportLogRequest(min_size=min_size, purpose=purpose)
        async for piece in stub.ExportLog(request, metadata=metadata, timeout=30):
            got.append(piece)
    return got


async def say(server: AuditServer, request: reader_pb2.RecordExportRequest, **claims: Any) -> str:
    metadata = (("txn-token", server.token("cli", **{**AUDITOR, **claims})),)
    async with server.channel("cli") as channel:
        stub = reader_pb2_grpc.LedgerReaderServiceStub(channel)
        return str((await stub.RecordExport(request, metadata=metadata, timeout=20)).disclosed_event_id)


async def reason(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value).reason


async def kept(pieces: Pieces, directory: Path) -> Path:
    async def replay() -> Any:
        for piece in pieces:
            yield piece

    await write_export(replay(), directory)
    return directory


async def said(server: AuditServer, event_id: str, log: Log | None = None) -> tuple[int, dict[str, Any]]:
    """The index and the document of an entry."""
    log = log or await server.parts.log()
    row = await server.parts.reader.by_event_id(log.log_id, event_id)
    assert row is not None
    return row.index, parse_strict(row.entry)


async def exports_of(server: AuditServer, log: Log) -> int:
    """How many exports a log speaks of."""
    rows = await server.parts.reader.page(log.log_id, 0, 1000, [b'"type":"access.disclosed"'])
    return len(rows)


@requirement("export:recorded-first")
async def test_an_export_is_in_the_log_and_named_by_what_the_auditor_holds(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await append_one(server.parts, changed())
        pieces = await take(server, min_size=2, purpose="case-4711")
        first = pieces[0]
        index, document = await said(server, first.disclosed_event_id)
        report = verify_log(Directory(await kept(pieces, tmp_path / "log")), (await server.parts.log()).key)
        assert report.verdict is None
        assert index >= first.size == report.size, "the export ends before the entry about it"
        data = document["data"]
        assert data["auditor"].startswith("p_")
        assert data["purpose"] == "case-4711"
        assert data["count"] == report.size
        root = report.root.hex()
        assert data["export"] == {"format": "tiles", "origin": report.origin, "size": report.size, "root": root}
        logs = [{"origin": report.origin, "root": root, "size": report.size}]
        assert data["manifest_digest"] == digest_of("tiles-manifest", {"v": 1, "logs": logs}) == first.manifest_digest
        assert manifest_of(report) == first.manifest_digest, "what `verify log` prints"
        assert b"user:aud" not in (await server.parts.reader.page((await server.parts.log()).log_id, index, 1))[0].entry
        assert {piece.disclosed_event_id for piece in pieces[1:]} == {""}


@requirement("export:recorded-first")
async def test_exports_do_not_chase_the_entries_about_them(fresh_database: FreshDatabase, tmp_path: Path) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await append_one(server.parts, changed())
        sizes = []
        for n in range(3):
            log = await server.parts.log()
            size = await server.parts.reader.size(log.log_id)
            pieces = await take(server, min_size=size)
            assert pieces[0].size == size
            sizes.append(size)
            report = verify_log(Directory(await kept(pieces, tmp_path / str(n))), log.key)
            assert report.verdict is None
            assert "purpose" not in (await said(server, pieces[0].disclosed_event_id))[1]["data"], "none was given"
        assert sizes == [2, 3, 4], "each holds the entry about the one before it"


@requirement("export:recorded-first")
async def test_nothing_leaves_without_a_durable_entry_about_it(fresh_database: FreshDatabase) -> None:
    database = fresh_database("audit")
    async with audit_server(database) as server:
        await append_one(server.parts, changed())
        assert (await take(server, min_size=2))[0].size
        log = await server.parts.log()
        before = await exports_of(server, log)
        await admin(database, "REVOKE INSERT ON ledger_entry FROM counterseal_audit")
        got: Pieces = []
        with pytest.raises(grpc.aio.AioRpcError):
            await take(server, got=got)
        assert not got
        await admin(database, "GRANT INSERT ON ledger_entry TO counterseal_audit")
        assert await exports_of(server, log) == before
        assert await reason(take(server, purpose="in words")) == "INPUT_INVALID"
        assert await reason(take(server, scope=())) == "ROLE_REQUIRED"
        assert await exports_of(server, log) == before


@requirement("export:recorded-first")
async def test_a_closed_log_is_exported_and_the_environments_log_says_so(
    fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await append_one(server.parts, changed())
        await append_one(server.parts, changed(tenant="globex"))
        system = (await server.parts.ledger.open("_system"))[0]
        old = await server.parts.log()
        size = await server.parts.operations.freeze(old, "OPERATOR", PEOPLE)
        pieces = await take(server, min_size=size, purpose="case-9")
        assert pieces[0].size == size
        _, document = await said(server, pieces[0].disclosed_event_id, system)
        assert (document["tenant"], document["data"]["export"]["origin"]) == ("_system", old.origin)
        event_id = pieces[0].disclosed_event_id
        made = reader_pb2.RecordExportRequest(
            export_event_id=event_id, format="bundle", manifest_digest=DIGEST, count=size
        )
        assert await reason(say(server, made, tenant="globex")) == "NOT_FOUND", "another tenant's, in a log of all"
        _, document = await said(server, await say(server, made), system)
        assert document["refs"] == [{"event_id": event_id, "rel": "made_of"}]
        assert document["data"]["purpose"] == "case-9"

        new = await server.parts.operations.continue_behind(old, await citation(server, old), PEOPLE)
        async with server.producer() as client:
            await client.append_one(changed(stream="plan:new"))
        pieces = await take(server, min_size=2)
        report = verify_log(Directory(await kept(pieces, tmp_path / "both")), new.key, pinned=[old.key])
        assert not report.findings
        assert [one.origin for one in report.shards] == [old.origin]
        _, document = await said(server, pieces[0].disclosed_event_id, new)
        assert document["data"]["manifest_digest"] == manifest_of(report), "both shards are named"
        assert document["data"]["count"] == report.size + size


async def citation(server: AuditServer, log: Log) -> str:
    return await server.parts.operations.citation(log, b"")


@requirement("export:made-of")
async def test_what_was_made_of_an_export_is_said_by_whoever_took_it(fresh_database: FreshDatabase) -> None:
    async with audit_server(fresh_database("audit")) as server:
        await append_one(server.parts, changed())
        await append_one(server.parts, changed(tenant="globex"))
        first = (await take(server, min_size=2, purpose="case-4711"))[0]
        log = await server.parts.log()
        made = reader_pb2.RecordExportRequest(
            export_event_id=first.disclosed_event_id, format="csv", manifest_digest=DIGEST, count=1
        )
        _, document = await said(server, await say(server, made))
        _, taken = await said(server, first.disclosed_event_id)
        assert document["refs"] == [{"event_id": first.disclosed_event_id, "rel": "made_of"}]
        assert document["data"] == {
            "manifest_digest": DIGEST,
            "purpose": "case-4711",
            "count": 1,
            "auditor": taken["data"]["auditor"],
            "export": {**taken["data"]["export"], "format": "csv"},
        }

        async def refused(wanted: str, claims: dict[str, Any] | None = None, **changes: Any) -> None:
            request = reader_pb2.RecordExportRequest()
            request.CopyFrom(made)
            for name, value in changes.items():
                setattr(request, name, value)
            assert await reason(say(server, request, **(claims or {}))) == wanted, changes

        before = await exports_of(server, log)
        await refused("NOT_FOUND", {"subject": "user:bob", "person_id": "p-bob"})
        await refused("NOT_FOUND", {"tenant": "globex"})
        await refused("NOT_FOUND", export_event_id=new_id())
        await refused("NOT_FOUND", export_event_id=document["event_id"])
        await refused("NOT_FOUND", export_event_id=await genesis_id(server, log))
        await refused("INPUT_INVALID", export_event_id="x")
        await refused("INPUT_INVALID", format="tiles")
        await refused("INPUT_INVALID", format="pdf")
        await refused("INPUT_INVALID", manifest_digest="sha256:zz")
        await refused("INPUT_INVALID", count=3)
        await refused("INPUT_INVALID", count=-1)
        await refused("ROLE_REQUIRED", {"scope": ()})
        assert await exports_of(server, log) == before


async def genesis_id(server: AuditServer, log: Log) -> str:
    (row,) = await server.parts.reader.page(log.log_id, 0, 1)
    return str(parse_strict(row.entry)["event_id"])
